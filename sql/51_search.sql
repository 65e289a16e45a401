-- Searching: what is nearest to a vector. All of it runs as its caller, so that the table's own rights and row-level
-- security hold, and none of it has PL/Python in it. The shells of 45_shells.sql pass their calls on to here.

-- From here to 61_reduce.sql, functions have vectors among their arguments: see 00_header.sql.
SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('visrec.path_with_vector'), true);

CREATE FUNCTION visrec._no_vector(n visrec._names, row_id text, strict boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reason text;
BEGIN
    PERFORM visrec._look_at(n.id);
    reason := (SELECT format('Its image could not be embedded (%s: %s)', f.code, f.message)
               FROM visrec.visible_failed_row AS f WHERE f.attachment = n.id AND f.row_id = _no_vector.row_id);
    PERFORM visrec._nothing(strict, format('row %s of table "%s" has no vector', row_id, visrec._label(n.relation)),
        coalesce(reason, 'It has no image, or its image is not embedded yet') || '.',
        format('SELECT * FROM visrec.coverage(%L%s);', n.relation::regclass, visrec._name_argument(n.id)));
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
    'Says why nothing is found, with a NOTICE, since an error would abort the caller''s transaction; strict: with an error.';

CREATE FUNCTION visrec._other_model(attachment integer, row_id text) RETURNS double precision
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation regclass := (SELECT a.relation FROM visrec.attachment AS a WHERE a.id = attachment);
BEGIN
    RAISE object_not_in_prerequisite_state USING
        MESSAGE = format('the vector of row %s of table "%s" was made by another model', row_id, visrec._label(relation)),
        DETAIL = 'Vectors of different models cannot be compared.',
        HINT = format('CALL visrec.backfill(%L%s);', relation, visrec._name_argument(attachment));
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

CREATE FUNCTION visrec._nearest(n visrec._names, query vector, excluded anyarray, k integer, filter jsonb,
    max_distance double precision, OUT ids anyarray, OUT distances double precision[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
-- Costs are far from what these plans cost: compiling one takes longer than running it.
SET jit = off AS $$
DECLARE
    found record;
BEGIN
    PERFORM visrec._check_search(k, max_distance);
    IF filter IS NOT NULL THEN
        found := visrec._filtered(n, query, excluded, k, filter);
        ids := found.ids;
        distances := found.distances;
    ELSE
        IF n.index_method <> 'none' AND k < 1000 THEN       -- more than 1000 the index does not find in one go
            EXECUTE format('SELECT f.ids, f.distances FROM visrec.%I($1, $2, $3, $4, false) AS f', '_nearest_' || n.id)
            INTO ids, distances USING query, excluded, k, max_distance;
        END IF;
        IF ids IS NULL THEN
            found := visrec._by_row(n, query, excluded, k, filter, 'true', NULL);
            ids := found.ids;
            distances := found.distances;
        END IF;
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

CREATE FUNCTION visrec._result_statement(n visrec._names, call text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN format('SELECT t.%1$s::%11$s, CASE WHEN t.%2$s[1] OPERATOR(pg_catalog.<>) 0 AND t.%2$s[1] OPERATOR(pg_catalog.>>) 32 '
        'OPERATOR(pg_catalog.<>) %3$s THEN visrec._other_model(%4$s, %5$s) ELSE 1 OPERATOR(pg_catalog.-) f.d END, t.%6$s%7$s '
        'FROM %10$s WITH ORDINALITY AS f (id, d, n) '
        'JOIN %8$s AS t ON t.%1$s %9$s f.id ORDER BY f.n',
        n.key, n.source, n.weights, n.id, n.key_text, n.image, n.shown, n."table", n.equals,
        coalesce(call || ' AS s, ROWS FROM (pg_catalog.unnest(s.ids), pg_catalog.unnest(s.distances))',
            'ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2))'), n.key_type);
END
$$;
COMMENT ON FUNCTION visrec._result_statement(visrec._names, text) IS
    'The statement for what the search functions return, of rows by their keys ($1), with similarity = 1 - distance ($2), or by '
    'the ids and distances of a call. PL/pgSQL expects the same type at each evaluation: where the type of the keys is not one of '
    'the function''s arguments, keys cannot pass through a variable.';

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
        PERFORM visrec._nothing(strict, format('table "%s" has no row with the key %s', visrec._label(n.relation), CASE WHEN id IS NULL THEN 'NULL' ELSE format('%s', id) END));
    ELSIF query.vector IS NULL THEN
        PERFORM visrec._check_search(k, max_distance);
        PERFORM visrec._no_vector(n, query.key, strict);
    ELSIF query.source <> 0 AND query.source >> 32 <> n.weights THEN
        PERFORM visrec._other_model(attachment, query.key);
    ELSE
        found := visrec._nearest(n, query.vector, ARRAY[id], k, filter, max_distance);
        RETURN QUERY EXECUTE format('SELECT * FROM visrec.%I($1, $2)', '_result_' || n.id) USING found.ids, found.distances;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._similar(integer, anyelement, integer, jsonb, double precision, boolean) IS
    'What similar_<name> returns.';

CREATE FUNCTION visrec._neighbours(n visrec._names, id anyelement, k integer, max_distance double precision DEFAULT NULL,
    itself boolean DEFAULT false, OUT ids anyarray, OUT distances double precision[])
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
        found := visrec._nearest(n, query.vector, CASE WHEN itself THEN (ARRAY[id])[:0] ELSE ARRAY[id] END, k, NULL, max_distance);
        ids := found.ids;
        distances := found.distances;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._neighbours(visrec._names, anyelement, integer, double precision, boolean) IS
    'The keys and distances of a row''s k nearest, as similar_<name> finds them: what is measured of searches asks this. itself: '
    'the row is among them.';

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
            DETAIL = 'Vectors of different models cannot be compared.';
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
BEGIN
    PERFORM visrec._check_search(k, max_distance);
    RETURN QUERY EXECUTE visrec._result_statement(n,
        format('visrec._nearest($1, $2::%s.vector, ''{}''::%s[], $3, $4, $5)', n.vector_schema, n.key_type))
    USING n, visrec._query_vector(n, path, image, query), k, filter, max_distance;
END
$$;
COMMENT ON FUNCTION visrec._search(integer, text, bytea, text, integer, jsonb, double precision) IS
    'What search_<name> and search_<name>_by_image return.';

