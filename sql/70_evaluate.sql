-- How good the searches of a table are: the index against an exact search, and neighbours against labels. All of it
-- asks what similar_<name> asks, with the caller's rights; nothing is written.

CREATE FUNCTION visrec._check_evaluation(k integer[], sample integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(cardinality(k), 0) = 0 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'k must not be empty',
            HINT = 'For example ''{1,5,10}''.';
    ELSIF EXISTS (SELECT FROM unnest(k) AS c WHERE c IS NULL OR c < 1) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('k must be at least 1, not %s', (
                SELECT coalesce(c::text, 'NULL') FROM unnest(k) AS c WHERE c IS NULL OR c < 1 LIMIT 1));
    ELSIF sample < 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('sample must be at least 1, not %s', sample),
            HINT = 'NULL takes all.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_evaluation(integer[], integer) IS 'Raises an error unless k and sample are valid.';

CREATE FUNCTION visrec._evaluated_column(relation regclass, name name, strategy integer) RETURNS pg_attribute
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found pg_attribute;
BEGIN
    IF name IS NULL THEN
        RAISE null_value_not_allowed USING
            MESSAGE = 'the name of the column must not be null',
            HINT = visrec._columns_hint(relation);
    END IF;
    SELECT a.* INTO found FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped;
    IF found.attname IS NULL THEN
        RAISE undefined_column USING
            MESSAGE = format('column "%s" of table "%s" does not exist', name, visrec._label(relation)),
            HINT = visrec._columns_hint(relation);
    ELSIF visrec._comparison(found.atttypid, strategy) IS NULL THEN
        RAISE feature_not_supported USING
            MESSAGE = format('cannot use column "%s" because type %s has no order', name,
                format_type(found.atttypid, found.atttypmod));
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION visrec._evaluated_column(regclass, name, integer) IS
    'A column by its name. Raises undefined_column if there is none, feature_not_supported if its type has '
    'no such comparison (strategy as for visrec._comparison: 1 <, 3 =).';

CREATE FUNCTION visrec._draw(key_text text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.format('sha256(convert_to(%1$s, ''UTF8'')), %1$s COLLATE "C"', key_text);
COMMENT ON FUNCTION visrec._draw(text) IS
    'What to order by for a sample that is independent of the rows'' content and the same each time: the '
    'SHA-256 of the key, as text.';

CREATE FUNCTION visrec._measures(hits boolean[], relevant bigint, k integer, OUT "precision" double precision,
    OUT recall double precision, OUT ap double precision, OUT ndcg double precision, OUT hit double precision)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce(sum(r.hit), 0)::double precision / k,
           coalesce(sum(r.hit), 0)::double precision / relevant,
           coalesce(sum(r.hit * r.found / r.place::double precision), 0) / least(k, relevant),
           coalesce(sum(r.hit / ln(r.place + 1::double precision)), 0)
               / (SELECT sum(1 / ln(i + 1::double precision)) FROM generate_series(1, least(k, relevant)) AS i),
           coalesce(max(r.hit), 0)
    FROM (SELECT h.hit::integer AS hit, h.place, sum(h.hit::integer) OVER (ORDER BY h.place) AS found
          FROM unnest(hits) WITH ORDINALITY AS h (hit, place) WHERE h.place <= k) AS r;
END;
COMMENT ON FUNCTION visrec._measures(boolean[], bigint, integer) IS
    'One list of results, hits telling at each place whether it is relevant, measured at k; relevant > 0 is how many '
    'relevant rows there are. precision: relevant ones among the first k, divided by k, also where the list is shorter. '
    'recall: the same count divided by relevant. ap: the sum, over the places i <= k that are relevant, of precision '
    'at i, divided by min(k, relevant) (so 1 is the best there can be; trec_eval''s map_cut divides by relevant). '
    'ndcg: the sum of 1 / log2(i + 1) over the same places, divided by what min(k, relevant) relevant ones at the top '
    'would have (Järvelin and Kekäläinen 2002, gains of 0 or 1). hit: 1 where one of the first k is relevant, else 0.';

CREATE FUNCTION visrec._check_sources(n visrec._names) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    row_id text;
BEGIN
    EXECUTE format('SELECT %1$s FROM %2$s AS t WHERE t.%3$s IS NOT NULL AND t.%4$s[1] <> 0 AND t.%4$s[1] >> 32 <> $1 '
        'ORDER BY t.%5$s LIMIT 1', n.key_text, n."table", n.vector, n.source, n.key) INTO row_id USING n.weights;
    IF row_id IS NOT NULL THEN
        PERFORM visrec._other_model(n.id, row_id);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_sources(visrec._names) IS
    'Raises an error if a row that the caller sees has a vector of another model: what is measured looks at no row''s source.';

CREATE FUNCTION visrec._recall_of_one(n visrec._names, id text, k integer,
    OUT recall double precision, OUT by_index double precision, OUT one_by_one double precision)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Distances that differ by less are of rows as near as each other.
    tolerance CONSTANT double precision := 1e-9;
    found double precision[];
    wanted bigint;
    farthest double precision;
    began timestamptz := clock_timestamp();
    between_both timestamptz;
BEGIN
    EXECUTE format('SELECT r.distances FROM visrec._neighbours($1, %L::%s, $2) AS r', id, n.key_type) INTO found USING n, k;
    between_both := clock_timestamp();
    EXECUTE format($query$
        SELECT count(*), max(n.distance)
        FROM (SELECT (t.%1$s OPERATOR(%2$s.<=>) (SELECT q.%1$s FROM %3$s AS q WHERE q.%4$s %5$s %7$L::%6$s))
                     + 0 AS distance        -- the sum keeps the index out
              FROM %3$s AS t WHERE t.%1$s IS NOT NULL AND NOT t.%4$s %5$s %7$L::%6$s
              ORDER BY 1 LIMIT $1) AS n
        WHERE n.distance <> 'NaN'           -- of a vector without a direction
        $query$, n.vector, n.vector_schema, n."table", n.key, n.equals, n.key_type, id) INTO wanted, farthest USING k;
    by_index := extract(epoch FROM between_both - began) * 1000;
    one_by_one := extract(epoch FROM clock_timestamp() - between_both) * 1000;
    IF wanted > 0 THEN
        recall := (SELECT count(*) FROM unnest(found) AS f WHERE f <= farthest + tolerance)::double precision / wanted;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._recall_of_one(visrec._names, text, integer) IS
    'How many of a row''s k nearest a search finds, and how many milliseconds that and an exact search took.';

CREATE FUNCTION visrec._width(n visrec._names, k integer) RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked record := visrec._index_pool(n);
    width integer;
BEGIN
    IF n.index_method <> 'none' THEN
        EXECUTE format('SELECT %s', replace(asked.breadth, '$3', k::text)) INTO width;
        width := greatest(width, current_setting(CASE asked.scan WHEN 'hnsw' THEN 'hnsw.ef_search' ELSE 'ivfflat.probes' END, true)::integer);
    END IF;
    RETURN width;
END
$$;
COMMENT ON FUNCTION visrec._width(visrec._names, integer) IS
    'How broadly a search for k rows looks: what visrec.tune kept, or the default, or the session''s setting if that is greater.';

CREATE FUNCTION visrec.recall(relation regclass, k integer DEFAULT 10, sample integer DEFAULT 100, OUT queries bigint,
    OUT recall double precision, OUT worst double precision, OUT index_ms double precision, OUT exact_ms double precision,
    OUT target double precision, OUT width integer, OUT tuned_recall double precision, OUT tuned_at timestamptz,
    OUT tuned_queries bigint, OUT tuned_rows bigint, name name DEFAULT NULL)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    n visrec._names := visrec._resolve(visrec._find(relation, name));
    id text;
    one record;
    recalls double precision[] := '{}';
    by_index double precision[] := '{}';
    one_by_one double precision[] := '{}';
BEGIN
    PERFORM visrec._check_evaluation(ARRAY[k], sample);
    SELECT a.recall, a.tuned_recall, a.tuned_at, a.tuned_queries, a.tuned_rows
    INTO target, tuned_recall, tuned_at, tuned_queries, tuned_rows FROM visrec.attachment AS a WHERE a.id = n.id;
    width := visrec._width(n, k);
    IF visrec._acts_for_owner(relation) THEN
        SELECT r.* INTO queries, recall, worst, index_ms, exact_ms
        FROM jsonb_to_record(visrec._call(n.id, 'recall', jsonb_build_object('k', k, 'sample', sample)))
            AS r (queries bigint, recall float8, worst float8, index_ms float8, exact_ms float8);
        RETURN;
    END IF;
    PERFORM visrec._check_sources(n);
    FOR id IN EXECUTE format('SELECT %s FROM %s AS t WHERE t.%s IS NOT NULL ORDER BY %s LIMIT $1', n.key_text, n."table", n.vector,
        visrec._draw(n.key_text)) USING sample
    LOOP
        one := visrec._recall_of_one(n, id, k);
        IF one.recall IS NOT NULL THEN
            recalls := recalls || one.recall;
            by_index := by_index || one.by_index;
            one_by_one := one_by_one || one.one_by_one;
        END IF;
    END LOOP;
    queries := cardinality(recalls);
    SELECT avg(r), min(r) INTO recall, worst FROM unnest(recalls) AS r;
    index_ms := (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY m) FROM unnest(by_index) AS m);
    exact_ms := (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY m) FROM unnest(one_by_one) AS m);
    IF queries = 0 THEN
        RAISE NOTICE USING
            MESSAGE = format('table "%s" has fewer than two vectors to compare', visrec._label(n.relation)),
            HINT = format('SELECT * FROM visrec.coverage(%L%s);', n.relation::regclass, visrec._name_argument(n.id));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec.recall(regclass, integer, integer, name) IS
    'How many of a row''s k nearest similar_<name> finds: for sample rows with a vector (NULL: all), a share from 0 to '
    '1, the mean and the worst of them. A row that is returned counts if it is no farther (by 1e-9) than the k-th '
    'nearest of an exact search; where fewer than k other rows have a vector, of those. The sample is the first by '
    'the SHA-256 of the keys, so the same table gives the same. index_ms and exact_ms: the median milliseconds of a '
    'call of similar_<name> and of the exact search. target: what visrec.attach was told; width: how broadly the search looks '
    'for k rows (hnsw.ef_search or ivfflat.probes; NULL without an index); tuned_recall, tuned_at, tuned_queries and tuned_rows: '
    'what visrec.tune measured, when, of how many queries and among how many vectors. Errors: invalid_parameter_value for k or sample below 1; '
    'object_not_in_prerequisite_state where the table is not attached, or has vectors of another model.';

CREATE FUNCTION visrec._evaluate(relation regclass, label_column name, ks integer[], sample integer, name name)
RETURNS TABLE (label text, k integer, queries bigint, "precision" double precision, recall double precision,
    map double precision, ndcg double precision, hit_rate double precision)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(visrec._find(relation, name));
    column_ pg_attribute;
    alone bigint;
BEGIN
    PERFORM visrec._check_evaluation(ks, sample);
    IF visrec._acts_for_owner(relation) THEN
        RETURN QUERY SELECT * FROM jsonb_to_recordset(visrec._call(n.id, 'evaluate',
            jsonb_build_object('label', label_column, 'k', ks, 'sample', sample)))
            AS r (label text, k integer, queries bigint, "precision" float8, recall float8, map float8, ndcg float8, hit_rate float8);
        RETURN;
    END IF;
    column_ := visrec._evaluated_column(relation, label_column, 3);
    PERFORM visrec._check_sources(n);
    RETURN QUERY EXECUTE format($query$
        WITH labelled AS (
            SELECT t.%1$s::%10$s AS id, %2$s AS key, t.%3$I AS label, count(*) OVER w - 1 AS others,
                   min((%4$s) COLLATE "C") OVER w AS shown
            FROM %5$s AS t WHERE t.%6$s IS NOT NULL AND t.%3$I IS NOT NULL
            WINDOW w AS (PARTITION BY t.%3$I)
        ), asked AS (
            SELECT * FROM labelled AS l WHERE l.others > 0 ORDER BY %7$s LIMIT $2
        ), answered AS MATERIALIZED (
            SELECT a.shown, a.others, ARRAY(
                SELECT coalesce(t.%3$I %8$s a.label, false)
                FROM (SELECT visrec._neighbours($4, a.id, $3) AS r) AS f, unnest((f.r).ids) WITH ORDINALITY AS s (id, place)
                JOIN %5$s AS t ON t.%1$s %9$s s.id
                ORDER BY s.place) AS hits
            FROM asked AS a
        )
        SELECT a.shown, c.k, count(*), avg(m."precision"), avg(m.recall), avg(m.ap), avg(m.ndcg), avg(m.hit)
        FROM answered AS a, (SELECT DISTINCT u.k FROM unnest($1) AS u (k)) AS c,
             visrec._measures(a.hits, a.others, c.k) AS m
        GROUP BY GROUPING SETS ((a.shown, c.k), (c.k))
        ORDER BY a.shown NULLS FIRST, c.k
        $query$, n.key, n.key_text, label_column, visrec._key_expression(format('t.%I', label_column), column_.atttypid), n."table",
        n.vector, visrec._draw('l.key'), visrec._comparison(column_.atttypid, 3), n.equals, n.key_type)
    USING ks, sample, (SELECT max(u.k) FROM unnest(ks) AS u (k)), n;
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %1$s AS t WHERE t.%2$s IS NOT NULL AND t.%3$I '
        'IS NOT NULL GROUP BY t.%3$I HAVING count(*) = 1) AS s', n."table", n.vector, label_column) INTO alone;
    IF alone > 0 THEN
        RAISE NOTICE USING
            MESSAGE = format('%s rows are left out', alone),
            DETAIL = format('No other row with a vector has their value of column "%s".', label_column);
    ELSIF NOT FOUND THEN
        RAISE NOTICE USING
            MESSAGE = format('table "%s" has no row with a vector and a value in column "%s"', visrec._label(n.relation), label_column),
            HINT = format('SELECT * FROM visrec.coverage(%L%s);', n.relation::regclass, visrec._name_argument(n.id));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._evaluate(regclass, name, integer[], integer, name) IS 'What visrec.evaluate returns.';

CREATE FUNCTION visrec.evaluate(relation regclass, label_column name, k integer[] DEFAULT '{1,5,10}',
    sample integer DEFAULT NULL, name name DEFAULT NULL)
RETURNS TABLE (label text, k integer, queries bigint, "precision" double precision, recall double precision,
    map double precision, ndcg double precision, hit_rate double precision)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- In SQL, since PL/pgSQL has no arguments and results of one name.
    SELECT * FROM visrec._evaluate($1, $2, $3, $4, $5)
$$;
COMMENT ON FUNCTION visrec.evaluate(regclass, name, integer[], integer, name) IS
    'How well a row''s neighbours by similar_<name> share its label: each row with a vector and a label is a query '
    '(sample of them, the first by the SHA-256 of their keys, or all), the rest of the table is searched, and a result '
    'with the same label is relevant. One line for each k over all queries, with label NULL, and one for each '
    'label, each the mean over its queries of: precision, relevant ones among the first k / k; recall, the same / R, '
    'R being the other rows with a vector and that label; map, the mean of AP = the sum of precision at i over the '
    'relevant places i <= k, / min(k, R); ndcg, the sum of 1 / log2(i + 1) over those places / the most it could be, '
    'with min(k, R) of them (Järvelin and Kekäläinen 2002); hit_rate, whether there is any. All are from 0 to 1. Rows '
    'without a label are no queries and never relevant; queries with R = 0 are left out, with a NOTICE. Errors: '
    'invalid_parameter_value for k or sample below 1; undefined_column; feature_not_supported for a label whose type '
    'has no equality; object_not_in_prerequisite_state where the table is not attached, or has vectors of another model.';
