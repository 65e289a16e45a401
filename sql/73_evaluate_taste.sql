-- How well recommend_<table> foretells what people did next.

CREATE FUNCTION visrec._check_evaluate_taste(k integer[], holdout double precision, strategies text[], sample integer)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM visrec._check_evaluation(k, sample);
    PERFORM visrec._check_recommend('{0}', s, 0) FROM unnest(strategies) AS s;
    IF coalesce(cardinality(strategies), 0) = 0 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'strategies must name at least one',
            HINT = 'Strategies: mean, session (liked posts in order of time), best_score.';
    ELSIF holdout IS NULL OR NOT (holdout > 0 AND holdout < 1) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('holdout must be between 0 and 1, not %s', coalesce(holdout::text, 'NULL')),
            DETAIL = 'It is the share of each user''s items that is to be foretold.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_evaluate_taste(integer[], double precision, text[], integer) IS
    'An error for arguments that visrec.evaluate_taste does not take.';

CREATE FUNCTION visrec._taste_names(relation regclass, events regclass, user_column name, item_column name,
    at_column name) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    who pg_attribute := visrec._evaluated_column(events, user_column, 3);
    item pg_attribute := visrec._evaluated_column(events, item_column, 3);
    at pg_attribute := visrec._evaluated_column(events, at_column, 1);
    names jsonb := (SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n);
BEGIN
    BEGIN
        EXECUTE format('SELECT NULL::%s::%s', format_type(item.atttypid, -1), names ->> 'key_type');
    EXCEPTION WHEN cannot_coerce THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" of table "%s" holds no keys of table "%s"', item_column, events, relation),
            DETAIL = format('It is of type %s, the key of type %s.', format_type(item.atttypid, item.atttypmod),
                names ->> 'key_type');
    END;
    RETURN names || jsonb_build_object(
        'recommend', visrec._made_function(relation, config, 'recommend_'),
        'events', events::text, 'draw', visrec._draw('h.who'),
        'user', format('e.%I', who.attname), 'item', format('e.%I', item.attname), 'at', format('e.%I', at.attname),
        'user_text', visrec._key_text(format('e.%I', who.attname), visrec._base_type(who.atttypid)));
END
$$;
COMMENT ON FUNCTION visrec._taste_names(regclass, regclass, name, name, name) IS
    'What the statements of visrec.evaluate_taste are filled with, or an error for a column that there is not.';

CREATE FUNCTION visrec._evaluate_taste(relation regclass, events regclass, user_column name, item_column name,
    at_column name, ks integer[], holdout double precision, strategies text[], sample integer)
RETURNS TABLE (strategy text, k integer, users bigint, "precision" double precision, recall double precision,
    map double precision, ndcg double precision, hit_rate double precision)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb;
    short bigint;
BEGIN
    PERFORM visrec._check_evaluate_taste(ks, holdout, strategies, sample);
    names := visrec._taste_names(relation, events, user_column, item_column, at_column);
    RETURN QUERY EXECUTE visrec._fill($query$
        WITH met AS (               -- each item once, when the user first met it
            SELECT DISTINCT ON (@user@, t.@key@) @user@ AS who, @user_text@ AS name, t.@key@ AS id, @key_text@ AS key,
                   @at@ AS at
            FROM @events@ AS e JOIN @table@ AS t ON t.@key@ @equals@ @item@::@key_type@
            WHERE t.@vector@ IS NOT NULL AND @user@ IS NOT NULL AND @at@ IS NOT NULL
            ORDER BY @user@, t.@key@, @at@
        ), histories AS (
            SELECT min(v.name COLLATE "C") AS who, array_agg(v.id ORDER BY v.at, v.key COLLATE "C") AS ids,
                   -- less a trifle, as 0.07 * 100 is more than 7
                   count(*) - least(count(*) - 1, ceil(count(*) * $2 - 1e-9)::bigint) AS past
            FROM met AS v GROUP BY v.who HAVING count(*) >= 2
        ), asked AS (
            SELECT h.ids[:h.past] AS liked, h.ids[h.past + 1:] AS held_out
            FROM histories AS h ORDER BY @draw@ LIMIT $5
        ), answered AS MATERIALIZED (
            SELECT s.strategy, cardinality(a.held_out) AS relevant, ARRAY(
                SELECT r.id @equals@ ANY (a.held_out)
                FROM (SELECT r.id, row_number() OVER () AS place
                      FROM @recommend@(liked => a.liked, k => $3, strategy => s.strategy) AS r) AS r
                ORDER BY r.place) AS hits
            FROM asked AS a, (SELECT DISTINCT u.s FROM unnest($4) AS u (s)) AS s (strategy)
        )
        SELECT a.strategy, c.k, count(*), avg(m."precision"), avg(m.recall), avg(m.ap), avg(m.ndcg), avg(m.hit)
        FROM answered AS a, (SELECT DISTINCT u.k FROM unnest($1) AS u (k)) AS c,
             visrec._measures(a.hits, a.relevant, c.k) AS m
        GROUP BY a.strategy, c.k
        ORDER BY array_position($4, a.strategy), c.k
        $query$, names) USING ks, holdout, (SELECT max(u.k) FROM unnest(ks) AS u (k)), strategies, sample;
    EXECUTE visrec._fill($query$
        SELECT count(*) FROM (
            SELECT FROM @events@ AS e
            LEFT JOIN @table@ AS t ON t.@key@ @equals@ @item@::@key_type@ AND t.@vector@ IS NOT NULL
            WHERE @user@ IS NOT NULL GROUP BY @user@
            HAVING count(DISTINCT t.@key@) FILTER (WHERE @at@ IS NOT NULL) < 2) AS s
        $query$, names) INTO short;
    IF short > 0 THEN
        RAISE NOTICE '% users are left out: they have fewer than 2 items with a vector', short;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._evaluate_taste(regclass, regclass, name, name, name, integer[], double precision, text[],
    integer) IS 'What visrec.evaluate_taste returns.';

CREATE FUNCTION visrec.evaluate_taste(relation regclass, events regclass, user_column name DEFAULT 'user_id',
    item_column name DEFAULT 'post_id', at_column name DEFAULT 'at', k integer[] DEFAULT '{5,10}',
    holdout double precision DEFAULT 0.5, strategies text[] DEFAULT '{mean,session}', sample integer DEFAULT NULL)
RETURNS TABLE (strategy text, k integer, users bigint, "precision" double precision, recall double precision,
    map double precision, ndcg double precision, hit_rate double precision)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    -- In SQL, since PL/pgSQL has no arguments and results of one name.
    SELECT * FROM visrec._evaluate_taste($1, $2, $3, $4, $5, $6, $7, $8, $9)
$$;
COMMENT ON FUNCTION visrec.evaluate_taste(regclass, regclass, name, name, name, integer[], double precision, text[],
    integer) IS
    'How well recommend_<table> foretells what users went on to: of each user''s n items in order of time, the last '
    'holdout · n (rounded up, at least one, at most n - 1) are held out; the earlier ones are what was liked, and '
    'results that were held out are relevant. An item counts once, when the user first met it, and so never as both; '
    'items without a vector and events with a NULL do not count; items of one time are in the order of their keys. One '
    'line for each strategy and k: the mean over users of the measures of visrec.evaluate, R being the items held out. '
    'sample takes that many users, the first by the SHA-256 of user_column as text; NULL takes all. Users with fewer '
    'than 2 items are left out, with a NOTICE. Errors: invalid_parameter_value for k or sample below 1, holdout not '
    'between 0 and 1, or an unknown strategy; undefined_column; feature_not_supported for a column that is not compared; '
    'datatype_mismatch where item_column cannot be cast to the key''s type; '
    'object_not_in_prerequisite_state where the table is not attached, or has vectors of another model.';
