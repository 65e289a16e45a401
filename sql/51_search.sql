-- Searching: what is nearest to a vector. All of it runs as its caller, so that the table's own rights and row-level
-- security hold, and none of it has PL/Python in it. The shells of 43_shells.sql pass their calls on to here.

CREATE FUNCTION visrec._no_vector(n visrec._names, row_id text, strict boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reason text := (SELECT format('Its image could not be embedded (%s: %s)', f.code, f.message)
                    FROM visrec.visible_failed_row AS f WHERE f.attachment = n.id AND f.row_id = _no_vector.row_id);
BEGIN
    PERFORM visrec._nothing(strict, format('row %s of table "%s" has no vector', row_id, visrec._label(n.relation)),
        coalesce(reason, 'It has no image, or its image is not embedded yet') || '.',
        format('SELECT * FROM visrec.coverage(%L);', n.relation::regclass));
END
$$;
COMMENT ON FUNCTION visrec._no_vector(visrec._names, text, boolean) IS 'Says why a row has no vector.';

CREATE FUNCTION visrec._nothing(strict boolean, message text, detail text DEFAULT NULL, hint text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF strict THEN
        PERFORM visrec._raise('P0002', message, detail, hint);
    ELSIF hint IS NULL THEN
        RAISE NOTICE USING MESSAGE = message;
    ELSIF detail IS NULL THEN
        RAISE NOTICE USING MESSAGE = message, HINT = hint;
    ELSE
        RAISE NOTICE USING MESSAGE = message, DETAIL = detail, HINT = hint;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._nothing(boolean, text, text, text) IS
    'Says why nothing is found: with a NOTICE, since an error would end the caller''s transaction; strict, with an error.';

CREATE FUNCTION visrec._other_model(attachment integer, row_id text) RETURNS double precision
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation regclass := (SELECT a.relation FROM visrec.attachment AS a WHERE a.id = attachment);
BEGIN
    RAISE object_not_in_prerequisite_state USING
        MESSAGE = format('the vector of row %s of table "%s" is of another model', row_id, visrec._label(relation)),
        DETAIL = 'Vectors of two models cannot be compared.',
        HINT = format('CALL visrec.backfill(%L);', relation);
END
$$;
COMMENT ON FUNCTION visrec._other_model(integer, text) IS 'Raises an error: this row''s vector cannot be compared.';

CREATE FUNCTION visrec._check_search(k integer, max_distance double precision) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF k IS NULL OR k < 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('k must be at least 1, not %s', coalesce(k::text, 'NULL'));
    ELSIF max_distance < 0 OR max_distance = 'NaN' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('max_distance must be at least 0, not %s', max_distance),
            DETAIL = 'It is a cosine distance: 0 for the same direction, 1 for nothing in common, 2 at most.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_search(integer, double precision) IS
    'Raises an error unless k and max_distance are valid.';

CREATE FUNCTION visrec._by_index(n visrec._names, query vector, excluded anyarray, k integer, filter jsonb, condition text,
    share double precision, OUT ids anyarray, OUT distances double precision[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- How many rows the index gives for k wanted ones: a few more show whether others are as near as the k-th; bits tell
    -- near rows from nearer ones only roughly, and fewer numbers, too.
    pool integer := CASE n.index_method WHEN 'hnsw_binary' THEN greatest(20 * k, 200) WHEN 'hnsw_reduced' THEN greatest(10 * k, 100)
        ELSE k + 8 END;
    scan text := CASE n.index_method WHEN 'ivfflat' THEN 'ivfflat' ELSE 'hnsw' END;
    breadth text := CASE n.index_method WHEN 'ivfflat' THEN 'ivfflat.probes' ELSE 'hnsw.ef_search' END;
    before text[];
    wide double precision;
    parts record;
    ordering text;
    found record;
BEGIN
    IF n.index_method = 'hnsw' AND n.index_metric = 'cosine' THEN
        ordering := format('t.%s OPERATOR(%s.<=>) $1', n.vector, n.vector_schema);
    ELSE
        parts := visrec._index_parts(n);
        ordering := format('%s %s %s', format(parts.expression, 't.' || n.vector), parts.operator, format(parts.expression, '$1'));
    END IF;
    IF current_setting(breadth, true) IS NULL THEN
        PERFORM visrec._cosine(query, query);       -- loads pgvector's library, which knows the setting
    END IF;
    before := ARRAY[current_setting(breadth), current_setting(scan || '.iterative_scan')];
    PERFORM set_config(scan || '.iterative_scan', CASE scan WHEN 'hnsw' THEN 'strict_order' ELSE 'relaxed_order' END, true);
    LOOP
        -- How many rows HNSW keeps in view, 1000 at most: pgvector's default, 40, unless more rows are wanted. Of 100,000
        -- made-up vectors that finds 0.988 of the nearest ten; 64 finds 0.998 and 100 0.9998, for 1.2 and 1.4 times the time
        -- (python -m benchmarks.searching). It goes on until it has k rows that the filter leaves, but finds better ones
        -- when it begins wide enough. A larger setting of the session's is kept.
        wide := CASE scan WHEN 'ivfflat' THEN visrec._probes(n.relation)
            ELSE least(greatest(2 * k, 40, pool + 1, CASE WHEN share < 1 THEN 2 * pool / share END), 1000) END;
        PERFORM set_config(breadth, greatest(before[1]::integer, wide::integer)::text, true);
        EXECUTE format('SELECT array_agg(s.id ORDER BY s.d, s.id) AS ids, array_agg(s.d ORDER BY s.d, s.id) AS distances '
            'FROM (SELECT t.%1$s AS id, t.%2$s OPERATOR(%3$s.<=>) $1 AS d FROM %4$s AS t WHERE t.%2$s IS NOT NULL '
            'AND NOT t.%1$s %5$s ANY ($2) AND %6$s ORDER BY %7$s LIMIT %8$s) AS s',
            n.key, n.vector, n.vector_schema, n."table", n.equals, condition, ordering, pool)
        INTO found USING query, excluded, filter;
        EXIT WHEN n.index_method NOT IN ('hnsw', 'hnsw_half', 'ivfflat') OR pool >= 1000 OR found.distances[k] IS NULL
            OR found.distances[k] IS DISTINCT FROM found.distances[pool];
        pool := least(10 * pool, 1000);     -- those as near as the k-th go on beyond the pool: the keys decide
    END LOOP;
    PERFORM set_config(breadth, before[1], true);
    PERFORM set_config(scan || '.iterative_scan', before[2], true);
    IF cardinality(found.ids) = pool AND (n.index_method IN ('hnsw_binary', 'hnsw_reduced')
        OR found.distances[k] <> found.distances[pool])
    THEN
        ids := found.ids[:k];
        distances := found.distances[:k];
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._by_index(visrec._names, vector, anyarray, integer, jsonb, text, double precision) IS
    'The k nearest rows by the attachment''s index; NULL where it ran dry before it had them, or more are as near as the '
    'k-th than it can tell. share: of the rows that the condition leaves.';

CREATE FUNCTION visrec._nearest(n visrec._names, query vector, excluded anyarray, k integer, filter jsonb,
    max_distance double precision, OUT ids anyarray, OUT distances double precision[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
-- Costs are far from what these plans cost: compiling one takes longer than running it.
SET jit = off AS $$
DECLARE
    -- So few rows are compared one by one in less time than the index takes to find k of them.
    few CONSTANT double precision := 10000;
    condition text := 'true';
    estimate double precision;
    share double precision := 1;
    found record;
BEGIN
    PERFORM visrec._check_search(k, max_distance);
    IF filter IS NOT NULL THEN
        condition := visrec._condition(n.relation, filter);
        estimate := visrec._estimate(n, condition, filter);
        SELECT estimate / greatest(c.reltuples, estimate, 1) INTO share FROM pg_class AS c WHERE c.oid = n.relation;
    END IF;
    -- More than 1000 the index does not find in one go.
    IF n.index_method <> 'none' AND k < 1000 AND (estimate > few) IS NOT FALSE THEN
        found := visrec._by_index(n, query, excluded, k, filter, condition, share);
        ids := found.ids;
        distances := found.distances;
    END IF;
    IF ids IS NULL THEN
        -- The sum keeps the index out.
        EXECUTE format('SELECT array_agg(s.id ORDER BY s.d, s.id) AS ids, array_agg(s.d ORDER BY s.d, s.id) AS distances '
            'FROM (SELECT t.%1$s AS id, (t.%2$s OPERATOR(%3$s.<=>) $1) + 0 AS d FROM %4$s AS t WHERE t.%2$s IS NOT NULL '
            'AND NOT t.%1$s %5$s ANY ($2) AND %6$s ORDER BY d, t.%1$s LIMIT %7$s) AS s',
            n.key, n.vector, n.vector_schema, n."table", n.equals, condition, k)
        INTO found USING query, excluded, filter;
        ids := found.ids;
        distances := found.distances;
    END IF;
    IF max_distance IS NOT NULL THEN
        k := (SELECT count(*) FROM unnest(distances) AS d WHERE d <= max_distance);
        ids := ids[:k];
        distances := distances[:k];
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._nearest(visrec._names, vector, anyarray, integer, jsonb, double precision) IS
    'The keys and cosine distances of the k rows nearest to a vector, best first, those as near by their keys; without '
    'the excluded ones, of those that the filter leaves. k of them whenever there are so many.';

CREATE FUNCTION visrec._result_statement(n visrec._names) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN format('SELECT t.%1$s, CASE WHEN t.%2$s[1] <> 0 AND t.%2$s[1] >> 32 <> %3$s '
        'THEN visrec._other_model(%4$s, %5$s) ELSE 1 - f.d END, t.%6$s%7$s FROM unnest($1, $2) WITH ORDINALITY AS f (id, d, n) '
        'JOIN %8$s AS t ON t.%1$s %9$s f.id ORDER BY f.n',
        n.key, n.source, n.weights, n.id, n.key_text, n.image, n.shown, n."table", n.equals);
END
$$;
COMMENT ON FUNCTION visrec._result_statement(visrec._names) IS
    'The statement for what the search functions return, of rows by their keys ($1), with similarity = 1 - distance ($2).';

CREATE FUNCTION visrec._similar(attachment integer, id anyelement, k integer, filter jsonb, max_distance double precision,
    strict boolean) RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
    query record;
    found record;
BEGIN
    -- All of the vector, as a copy: the one in the table would be fetched for each comparison.
    EXECUTE format('SELECT %s.subvector(t.%s, 1, 16000) AS vector, t.%s[1] AS source, %s AS key FROM %s AS t WHERE t.%s %s $1',
        n.vector_schema, n.vector, n.source, n.key_text, n."table", n.key, n.equals) INTO query USING id;
    IF query.key IS NULL THEN
        PERFORM visrec._check_search(k, max_distance);
        PERFORM visrec._nothing(strict, format('table "%s" has no row with the key %s', visrec._label(n.relation), coalesce(format('%s', id), 'NULL')));
    ELSIF query.vector IS NULL THEN
        PERFORM visrec._check_search(k, max_distance);
        PERFORM visrec._no_vector(n, query.key, strict);
    ELSIF query.source <> 0 AND query.source >> 32 <> n.weights THEN
        PERFORM visrec._other_model(attachment, query.key);
    ELSE
        found := visrec._nearest(n, query.vector, ARRAY[id], k, filter, max_distance);
        RETURN QUERY EXECUTE visrec._result_statement(n) USING found.ids, found.distances;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._similar(integer, anyelement, integer, jsonb, double precision, boolean) IS
    'What similar_<name> returns.';

CREATE FUNCTION visrec._neighbours(n visrec._names, id anyelement, k integer, max_distance double precision DEFAULT NULL,
    OUT ids anyarray, OUT distances double precision[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    query record;
    found record;
BEGIN
    EXECUTE format('SELECT %s.subvector(t.%s, 1, 16000) AS vector, t.%s[1] AS source, %s AS key FROM %s AS t WHERE t.%s %s $1',
        n.vector_schema, n.vector, n.source, n.key_text, n."table", n.key, n.equals) INTO query USING id;
    IF query.source <> 0 AND query.source >> 32 <> n.weights THEN
        PERFORM visrec._other_model(n.id, query.key);
    ELSIF query.vector IS NOT NULL THEN
        found := visrec._nearest(n, query.vector, ARRAY[id], k, NULL, max_distance);
        ids := found.ids;
        distances := found.distances;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._neighbours(visrec._names, anyelement, integer, double precision) IS
    'The keys and distances of a row''s k nearest, as similar_<name> finds them: what is measured of searches asks this.';

CREATE FUNCTION visrec._query_vector(n visrec._names, path text, image bytea, query text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF num_nonnulls(path, image, query) <> 1 THEN
        RAISE null_value_not_allowed USING MESSAGE = 'the search query must not be null';
    ELSIF NOT has_function_privilege('visrec._embed(text, text, bytea, text)', 'EXECUTE') THEN
        RAISE insufficient_privilege USING
            MESSAGE = 'permission denied to embed images or text',
            HINT = format('An administrator can allow it: SELECT visrec.grant_access(%L);', quote_ident(current_user));
    ELSIF NOT EXISTS (SELECT FROM visrec.model AS m WHERE m.name = n.model AND m.fingerprint = n.fingerprint) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('model "%s" is not the one that table "%s" was attached with', n.model, visrec._label(n.relation)),
            DETAIL = 'Vectors of two models cannot be compared.';
    END IF;
    RETURN visrec._checked(visrec._embed(n.model, path, image, query)) ->> 'embedding';
END
$$;
COMMENT ON FUNCTION visrec._query_vector(visrec._names, text, bytea, text) IS
    'The vector of an image by its path or bytes, or of a text, by the model of an attached table.';

CREATE FUNCTION visrec._search(attachment integer, path text, image bytea, query text, k integer, filter jsonb,
    max_distance double precision) RETURNS SETOF record
LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
    found record;
BEGIN
    PERFORM visrec._check_search(k, max_distance);
    EXECUTE format('SELECT s.ids, s.distances FROM visrec._nearest($1, $2::%s.vector, ''{}''::%s[], $3, $4, $5) AS s',
        n.vector_schema, n.key_type)
    INTO found USING n, visrec._query_vector(n, path, image, query), k, filter, max_distance;
    RETURN QUERY EXECUTE visrec._result_statement(n) USING found.ids, found.distances;
END
$$;
COMMENT ON FUNCTION visrec._search(integer, text, bytea, text, integer, jsonb, double precision) IS
    'What search_<name> and search_<name>_by_image return.';

