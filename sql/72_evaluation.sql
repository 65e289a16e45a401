-- How good the searches of a table are: the index against an exact search, and neighbours against labels. All of it
-- asks similar_<table> itself, as its users do, with the caller's rights; nothing is written.

CREATE FUNCTION visrec._check_evaluation(k integer[], sample integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(cardinality(k), 0) = 0 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'k must name at least one number of neighbours',
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
COMMENT ON FUNCTION visrec._check_evaluation(integer[], integer) IS 'An error for arguments that no evaluation takes.';

CREATE FUNCTION visrec._evaluated_column(relation regclass, name name, strategy integer) RETURNS pg_attribute
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found pg_attribute;
BEGIN
    SELECT a.* INTO found FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped;
    IF found.attname IS NULL THEN
        RAISE undefined_column USING
            MESSAGE = format('table "%s" has no column "%s"', relation, name),
            HINT = visrec._columns_hint(relation);
    ELSIF visrec._comparison(found.atttypid, strategy) IS NULL THEN
        RAISE feature_not_supported USING
            MESSAGE = format('column "%s" of table "%s" cannot be used here: values of type %s are not compared',
                name, relation, format_type(found.atttypid, found.atttypmod));
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION visrec._evaluated_column(regclass, name, integer) IS
    'A column by its name, or an error: undefined_column where there is none, feature_not_supported where its type has '
    'no such comparison (strategy as for visrec._comparison: 1 <, 3 =).';

CREATE FUNCTION visrec._made_function(relation regclass, config jsonb, prefix text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name name := visrec._function_name(prefix, config ->> 'functions_name');
BEGIN
    IF NOT EXISTS (SELECT FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
                   WHERE n.nspname = config ->> 'functions_schema' AND p.proname = name) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('table "%s" has no function %I', relation, name),
            HINT = 'Attach the table again: SELECT visrec.attach(…).';
    END IF;
    RETURN format('%I.%I', config ->> 'functions_schema', name);
END
$$;
COMMENT ON FUNCTION visrec._made_function(regclass, jsonb, text) IS
    'The quoted name of one of the functions that attach wrote for a table, or an error that it is not there.';

CREATE FUNCTION visrec._draw(key_text text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.format('sha256(convert_to(%1$s, ''UTF8'')), %1$s COLLATE "C"', key_text);
COMMENT ON FUNCTION visrec._draw(text) IS
    'What to order by for a sample that has nothing to do with the rows'' content, and is the same each time: the '
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

CREATE FUNCTION visrec._recall_of_one(names jsonb, id text, k integer,
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
    EXECUTE visrec._fill('SELECT array_agg(1 - r.similarity) FROM @similar@($1::@key_type@, $2) AS r', names)
    INTO found USING id, k;
    between_both := clock_timestamp();
    EXECUTE visrec._fill($query$
        SELECT count(*), max(n.distance)
        FROM (SELECT (t.@vector@ @distance@ (SELECT q.@vector@ FROM @table@ AS q WHERE q.@key@ @equals@ $1::@key_type@))
                     + 0 AS distance        -- the sum keeps the index out
              FROM @table@ AS t WHERE t.@vector@ IS NOT NULL AND NOT t.@key@ @equals@ $1::@key_type@
              ORDER BY 1 LIMIT $2) AS n
        WHERE n.distance <> 'NaN'           -- of a vector without a direction
        $query$, names) INTO wanted, farthest USING id, k;
    by_index := extract(epoch FROM between_both - began) * 1000;
    one_by_one := extract(epoch FROM clock_timestamp() - between_both) * 1000;
    IF wanted > 0 THEN
        recall := (SELECT count(*) FROM unnest(found) AS f WHERE f <= farthest + tolerance)::double precision / wanted;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._recall_of_one(jsonb, text, integer) IS
    'How many of a row''s k nearest similar_<table> finds, and how many milliseconds that and an exact search took.';

CREATE FUNCTION visrec.recall(relation regclass, k integer DEFAULT 10, sample integer DEFAULT 100, OUT queries bigint,
    OUT recall double precision, OUT worst double precision, OUT index_ms double precision, OUT exact_ms double precision)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    config jsonb := visrec._attachment(relation);
    names jsonb;
    id text;
    one record;
    recalls double precision[] := '{}';
    by_index double precision[] := '{}';
    one_by_one double precision[] := '{}';
BEGIN
    PERFORM visrec._check_evaluation(ARRAY[k], sample);
    names := visrec._search_names(relation, config)
        || jsonb_build_object('similar', visrec._made_function(relation, config, 'similar_'));
    FOR id IN EXECUTE visrec._fill('SELECT @key_text@ FROM @table@ AS t WHERE t.@vector@ IS NOT NULL ORDER BY @draw@ '
        'LIMIT $1', names || jsonb_build_object('draw', visrec._draw(names ->> 'key_text'))) USING sample
    LOOP
        one := visrec._recall_of_one(names, id, k);
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
            MESSAGE = format('table "%s" has no two vectors to compare', relation),
            HINT = format('SELECT * FROM visrec.coverage(%L);', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec.recall(regclass, integer, integer) IS
    'How many of a row''s k nearest similar_<table> finds: for sample rows with a vector (NULL: all), a share from 0 to '
    '1, the mean and the worst of them. A row that is returned counts if it is no farther (by 1e-9) than the k-th '
    'nearest of an exact search; where fewer than k other rows have a vector, of those. The sample is the first by '
    'the SHA-256 of the keys, so the same table gives the same. index_ms and exact_ms: the median milliseconds of a '
    'call of similar_<table> and of the exact search. Errors: invalid_parameter_value for k or sample below 1; '
    'object_not_in_prerequisite_state where the table is not attached, or has vectors of another model.';

CREATE FUNCTION visrec._evaluate(relation regclass, label_column name, ks integer[], sample integer)
RETURNS TABLE (category text, k integer, queries bigint, "precision" double precision, recall double precision,
    map double precision, ndcg double precision, hit_rate double precision)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    names jsonb := (SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n);
    label pg_attribute;
    alone bigint;
BEGIN
    PERFORM visrec._check_evaluation(ks, sample);
    label := visrec._evaluated_column(relation, label_column, 3);
    names := names || jsonb_build_object(
        'similar', visrec._made_function(relation, config, 'similar_'), 'draw', visrec._draw('l.key'),
        'label', format('%I', label_column), 'same', visrec._comparison(label.atttypid, 3),
        'label_text', visrec._key_text(format('t.%I', label_column), visrec._base_type(label.atttypid)));
    RETURN QUERY EXECUTE visrec._fill($query$
        WITH labelled AS (
            SELECT t.@key@ AS id, @key_text@ AS key, t.@label@ AS label, count(*) OVER w - 1 AS others,
                   min((@label_text@) COLLATE "C") OVER w AS category
            FROM @table@ AS t WHERE t.@vector@ IS NOT NULL AND t.@label@ IS NOT NULL
            WINDOW w AS (PARTITION BY t.@label@)
        ), asked AS (
            SELECT * FROM labelled AS l WHERE l.others > 0 ORDER BY @draw@ LIMIT $2
        ), answered AS MATERIALIZED (
            SELECT a.category, a.others, ARRAY(
                SELECT coalesce(t.@label@ @same@ a.label, false)
                FROM (SELECT r.id, row_number() OVER () AS place FROM @similar@(a.id, $3) AS r) AS s
                JOIN @table@ AS t ON t.@key@ @equals@ s.id
                ORDER BY s.place) AS hits
            FROM asked AS a
        )
        SELECT a.category, c.k, count(*), avg(m."precision"), avg(m.recall), avg(m.ap), avg(m.ndcg), avg(m.hit)
        FROM answered AS a, (SELECT DISTINCT u.k FROM unnest($1) AS u (k)) AS c,
             visrec._measures(a.hits, a.others, c.k) AS m
        GROUP BY GROUPING SETS ((a.category, c.k), (c.k))
        ORDER BY a.category NULLS FIRST, c.k
        $query$, names) USING ks, sample, (SELECT max(u.k) FROM unnest(ks) AS u (k));
    EXECUTE visrec._fill('SELECT count(*) FROM (SELECT FROM @table@ AS t WHERE t.@vector@ IS NOT NULL AND t.@label@ '
        'IS NOT NULL GROUP BY t.@label@ HAVING count(*) = 1) AS s', names) INTO alone;
    IF alone > 0 THEN
        RAISE NOTICE '% rows are left out: no other row with a vector has their value of "%"', alone, label_column;
    ELSIF NOT FOUND THEN
        RAISE NOTICE USING
            MESSAGE = format('table "%s" has no row with a vector and a value of "%s"', relation, label_column),
            HINT = format('SELECT * FROM visrec.coverage(%L);', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._evaluate(regclass, name, integer[], integer) IS 'What visrec.evaluate returns.';

CREATE FUNCTION visrec.evaluate(relation regclass, label_column name, k integer[] DEFAULT '{1,5,10}',
    sample integer DEFAULT NULL)
RETURNS TABLE (category text, k integer, queries bigint, "precision" double precision, recall double precision,
    map double precision, ndcg double precision, hit_rate double precision)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- In SQL, since PL/pgSQL has no arguments and results of one name.
    SELECT * FROM visrec._evaluate($1, $2, $3, $4)
$$;
COMMENT ON FUNCTION visrec.evaluate(regclass, name, integer[], integer) IS
    'How well a row''s neighbours by similar_<table> share its label: each row with a vector and a label is a query '
    '(sample of them, the first by the SHA-256 of their keys, or all), the rest of the table is searched, and a result '
    'with the same label is relevant. One line for each k over all queries, with category NULL, and one for each '
    'category, each the mean over its queries of: precision, relevant ones among the first k / k; recall, the same / R, '
    'R being the other rows with a vector and that label; map, the mean of AP = the sum of precision at i over the '
    'relevant places i <= k, / min(k, R); ndcg, the sum of 1 / log2(i + 1) over those places / the most it could be, '
    'with min(k, R) of them (Järvelin and Kekäläinen 2002); hit_rate, whether there is any. All are from 0 to 1. Rows '
    'without a label are no queries and never relevant; queries with R = 0 are left out, with a NOTICE. Errors: '
    'invalid_parameter_value for k or sample below 1; undefined_column; feature_not_supported for a label that is not '
    'compared; object_not_in_prerequisite_state where the table is not attached, or has vectors of another model.';
