-- How well recommend_<name> predicts what people did next.

CREATE FUNCTION visrec._check_evaluate_taste(k integer[], holdout double precision, strategies text[], sample integer)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM visrec._check_evaluation(k, sample);
    PERFORM visrec._check_strategy(s) FROM unnest(strategies) AS s;
    IF coalesce(cardinality(strategies), 0) = 0 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'strategies must not be empty',
            HINT = 'Strategies: mean, session (liked rows in order of time), best_score.';
    ELSIF holdout IS NULL OR NOT (holdout > 0 AND holdout < 1) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('holdout must be between 0 and 1, not %s', coalesce(holdout::text, 'NULL')),
            DETAIL = 'It is the share of each user''s items that is to be predicted.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_evaluate_taste(integer[], double precision, text[], integer) IS
    'Raises an error unless the arguments are valid.';

CREATE FUNCTION visrec._evaluate_taste(n visrec._names, events regclass, columns name[], ks integer[], holdout double precision,
    strategies text[], sample integer)
RETURNS TABLE (strategy text, k integer, users bigint, "precision" double precision, recall double precision,
    map double precision, ndcg double precision, hit_rate double precision)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    user_ pg_attribute;
    item pg_attribute;
    at pg_attribute;
    met text;
    short bigint;
BEGIN
    PERFORM visrec._check_evaluate_taste(ks, holdout, strategies, sample);
    IF events IS NULL THEN
        RAISE null_value_not_allowed USING
            MESSAGE = format('no table of events is known for table "%s"', visrec._label(n.relation)),
            HINT = format('SELECT visrec.attach_events(%L, …%s);', n.relation::regclass, visrec._name_argument(n.id));
    END IF;
    IF visrec._acts_for_owner(n.relation) THEN
        RETURN QUERY SELECT * FROM jsonb_to_recordset(visrec._call(n.id, 'evaluate_taste', jsonb_build_object('events', events::oid,
            'columns', columns, 'k', ks, 'holdout', holdout, 'strategies', strategies, 'sample', sample)))
            AS r (strategy text, k integer, users bigint, "precision" float8, recall float8, map float8, ndcg float8, hit_rate float8);
        RETURN;
    END IF;
    user_ := visrec._evaluated_column(events, columns[1], 3);
    item := visrec._evaluated_column(events, columns[2], 3);
    at := visrec._evaluated_column(events, columns[4], 1);
    BEGIN
        IF visrec._base_type(item.atttypid) <> visrec._base_type(n.key_oid)       -- a cast may be anybody's
            AND greatest(visrec._base_type(item.atttypid)::oid, visrec._base_type(n.key_oid)::oid) >= 16384 THEN
            RAISE cannot_coerce;
        END IF;
        EXECUTE format('SELECT NULL::%s::%s', format_type(visrec._base_type(item.atttypid), -1), n.key_type);
    EXCEPTION WHEN cannot_coerce THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" of table "%s" cannot hold keys of table "%s"', item.attname, visrec._label(events), visrec._label(n.relation)),
            DETAIL = format('It is of type %s, the key of type %s.', format_type(item.atttypid, item.atttypmod),
                format_type(n.key_oid, -1));
    END;
    PERFORM visrec._check_sources(n);
    met := format('%s AS e JOIN %s AS t ON t.%s %s e.%I::%s', events, n."table", n.key, n.equals, item.attname, n.key_type);
    RETURN QUERY EXECUTE format($query$
        WITH met AS (               -- each item once, when the user first met it
            SELECT DISTINCT ON (e.%1$I, t.%2$s) e.%1$I AS who, %3$s AS name, t.%2$s::%10$s AS id, %4$s AS key, e.%5$I AS at
            FROM %6$s
            WHERE t.%7$s IS NOT NULL AND e.%1$I IS NOT NULL AND e.%5$I IS NOT NULL
            ORDER BY e.%1$I, t.%2$s, e.%5$I
        ), histories AS (
            SELECT min(v.name COLLATE "C") AS who, array_agg(v.id ORDER BY v.at, v.key COLLATE "C") AS ids,
                   -- less a trifle, as 0.07 * 100 is more than 7
                   count(*) - least(count(*) - 1, ceil(count(*) * $2 - 1e-9)::bigint) AS past
            FROM met AS v GROUP BY v.who HAVING count(*) >= 2
        ), asked AS (
            SELECT h.ids[:h.past] AS liked, h.ids[h.past + 1:] AS held_out
            FROM histories AS h ORDER BY %8$s LIMIT $5
        ), answered AS MATERIALIZED (
            SELECT s.strategy, cardinality(a.held_out) AS relevant, ARRAY(
                SELECT r.id %9$s ANY (a.held_out)
                FROM (SELECT visrec._recommended($6, a.liked, a.liked[1:0], $3, s.strategy, NULL, NULL, 0, NULL, a.liked[1:0], NULL,
                          NULL, false) AS r) AS f, unnest((f.r).ids) WITH ORDINALITY AS r (id, place)
                ORDER BY r.place) AS hits
            FROM asked AS a, (SELECT DISTINCT u.s FROM unnest($4) AS u (s)) AS s (strategy)
        )
        SELECT a.strategy, c.k, count(*), avg(m."precision"), avg(m.recall), avg(m.ap), avg(m.ndcg), avg(m.hit)
        FROM answered AS a, (SELECT DISTINCT u.k FROM unnest($1) AS u (k)) AS c,
             visrec._measures(a.hits, a.relevant, c.k) AS m
        GROUP BY a.strategy, c.k
        ORDER BY array_position($4, a.strategy), c.k
        $query$, user_.attname, n.key, visrec._key_expression(format('e.%I', user_.attname), user_.atttypid), n.key_text, at.attname,
        met, n.vector, visrec._draw('h.who'), n.equals, n.key_type)
    USING ks, holdout, (SELECT max(u.k) FROM unnest(ks) AS u (k)), strategies, sample, n;
    EXECUTE format($query$
        SELECT count(*) FROM (
            SELECT FROM %s AND t.%s IS NOT NULL WHERE e.%I IS NOT NULL GROUP BY e.%I
            HAVING count(DISTINCT t.%s) FILTER (WHERE e.%I IS NOT NULL) < 2) AS s
        $query$, replace(met, ' AS e JOIN ', ' AS e LEFT JOIN '), n.vector, user_.attname, user_.attname, n.key, at.attname) INTO short;
    IF short > 0 THEN
        RAISE NOTICE USING
            MESSAGE = format('%s users are left out', short),
            DETAIL = 'They have fewer than 2 items with a vector.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._evaluate_taste(visrec._names, regclass, name[], integer[], double precision, text[], integer) IS
    'What visrec.evaluate_taste returns; columns of events: user, item, weight and time.';

CREATE FUNCTION visrec.evaluate_taste(relation regclass, events regclass DEFAULT NULL, user_column name DEFAULT NULL,
    item_column name DEFAULT NULL, at_column name DEFAULT NULL, k integer[] DEFAULT '{5,10}',
    holdout double precision DEFAULT 0.5, strategies text[] DEFAULT '{mean,session}', sample integer DEFAULT NULL,
    name name DEFAULT NULL)
RETURNS TABLE (strategy text, k integer, users bigint, "precision" double precision, recall double precision,
    map double precision, ndcg double precision, hit_rate double precision)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    -- In SQL, since PL/pgSQL has no arguments and results of one name.
    SELECT e.* FROM visrec._find($1, $10) AS f JOIN visrec.attachment AS a ON a.id = f,
        visrec._evaluate_taste(visrec._resolve(f), coalesce($2, a.events), ARRAY[coalesce($3, a.event_columns[1], 'user_id'),
            coalesce($4, a.event_columns[2], 'post_id'), NULL, coalesce($5, a.event_columns[4], 'at')]::name[], $6, $7, $8, $9) AS e
$$;
COMMENT ON FUNCTION visrec.evaluate_taste(regclass, regclass, name, name, name, integer[], double precision, text[],
    integer, name) IS
    'How well recommend_<name> predicts what users did next: of each user''s n items in order of time, the last '
    'holdout · n (rounded up, at least one, at most n - 1) are held out; the earlier ones are what was liked, and '
    'results that were held out are relevant. An item counts once, when the user first met it, and so never as both; '
    'items without a vector and events with a NULL do not count; items of one time are in the order of their keys. One '
    'line for each strategy and k: the mean over users of the measures of visrec.evaluate, R being the items held out. '
    'sample takes that many users, the first by the SHA-256 of user_column as text; NULL takes all. Users with fewer '
    'than 2 items are left out, with a NOTICE. Table and columns that are not given are those of visrec.attach_events. Errors: invalid_parameter_value for k or sample below 1, holdout not '
    'between 0 and 1, or an unknown strategy; undefined_column; feature_not_supported for a column whose type has no order; '
    'datatype_mismatch where item_column cannot be cast to the key''s type; '
    'object_not_in_prerequisite_state where the table is not attached, or has vectors of another model.';
