-- The search functions that attach writes for a table. Each runs as its caller, so that the
-- table's own rights and row-level security hold; none has PL/Python in it.

CREATE FUNCTION visrec._no_vector(relation regclass, row_id text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reason text;
BEGIN
    SELECT format('its image could not be embedded (%s: %s)', f.code, f.message) INTO reason
    FROM visrec.failure AS f WHERE f.relation = _no_vector.relation AND f.row_id = _no_vector.row_id;
    RAISE NOTICE USING
        MESSAGE = format('row %s of table "%s" has no vector', row_id, relation),
        DETAIL = coalesce(reason, 'it has no image, or its image is not embedded yet') || '.',
        HINT = format('SELECT * FROM visrec.coverage(%L);', relation);
END
$$;
COMMENT ON FUNCTION visrec._no_vector(regclass, text) IS 'A NOTICE why a row has no vector.';

CREATE FUNCTION visrec._other_model(relation regclass, row_id text) RETURNS double precision
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE object_not_in_prerequisite_state USING
        MESSAGE = format('the vector of row %s of table "%s" is of another model', row_id, relation),
        DETAIL = 'Vectors of two models cannot be compared.',
        HINT = format('CALL visrec.backfill(%L);', relation);
END
$$;
COMMENT ON FUNCTION visrec._other_model(regclass, text) IS 'An error: this row''s vector cannot be compared.';

CREATE FUNCTION visrec._check_k(k integer, filter jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF k IS NULL OR k < 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('k must be at least 1, not %s', coalesce(k::text, 'NULL'));
    END IF;
    IF filter IS NOT NULL THEN
        RAISE feature_not_supported USING
            MESSAGE = 'filters are not available in this version',
            HINT = 'Ask for more rows than needed and put the condition into a WHERE around the call.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_k(integer, jsonb) IS 'An error for arguments no search function takes.';

CREATE FUNCTION visrec._widen_search(k integer) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- HNSW finds at most ef_search rows in a go, and 1000 is the most that may be; from there on an
    -- exact scan is as quick, and complete.
    setting text := CASE WHEN k < 1000 THEN 'hnsw.ef_search' ELSE 'enable_indexscan' END;
    previous text := current_setting(setting, true);
BEGIN
    PERFORM set_config(setting, CASE WHEN k < 1000 THEN (k + 1)::text ELSE 'off' END, true);
    RETURN ARRAY[setting, previous];
END
$$;
COMMENT ON FUNCTION visrec._widen_search(integer) IS
    'Makes the next query find k rows; returns the setting changed and its value before, to be put back.';

CREATE FUNCTION visrec._make_similar(relation regclass, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
    shown text;         -- ', OUT title text'
    selected text;      -- ', t.title'
BEGIN
    SELECT * INTO names FROM visrec._names(relation, config);
    SELECT coalesce(string_agg(format(', OUT %I %s', a.attname, format_type(a.atttypid, a.atttypmod)), '' ORDER BY s.n), ''),
           coalesce(string_agg(format(', t.%I', a.attname), '' ORDER BY s.n), '')
    INTO shown, selected
    FROM jsonb_array_elements_text(config -> 'show_columns') WITH ORDINALITY AS s (name, n)
    JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = s.name AND a.attnum > 0;

    PERFORM visrec._make_function(relation, config, 'similar_',
        arguments => format('%s, integer, jsonb', names.key_type),
        declaration => format(
            'INOUT id %s, k integer DEFAULT 10, filter jsonb DEFAULT NULL, '
            'OUT similarity double precision, OUT %s %s%s) RETURNS SETOF record '
            'LANGUAGE plpgsql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp '
            'SET plan_cache_mode = force_custom_plan SET hnsw.iterative_scan = strict_order',
            names.key_type, names.image, names.image_type, shown),
        comment => format('The k rows of %s that look most like the row with this key, best first.', relation),
        body => format($body$
#variable_conflict use_column
DECLARE
    query_vector %7$s;
    query_source bigint;
    previous text[];
BEGIN
    IF k IS NULL OR k < 1 OR filter IS NOT NULL THEN
        PERFORM visrec._check_k(k, filter);
    END IF;
    SELECT t.%6$s, t.%10$s INTO query_vector, query_source FROM %1$s AS t WHERE t.%2$s %3$s $1;
    IF NOT FOUND THEN
        RAISE no_data_found USING
            MESSAGE = format('table "%%s" has no row with the key %%s', %8$L, coalesce($1::text, 'NULL'));
    ELSIF query_vector IS NULL THEN
        PERFORM visrec._no_vector(%1$L, %12$s);
        RETURN;
    ELSIF query_source >> 32 <> %11$s THEN
        PERFORM visrec._other_model(%1$L, %12$s);
    END IF;
    IF k >= coalesce(current_setting('hnsw.ef_search', true)::integer, 40) THEN
        previous := visrec._widen_search(k);
    END IF;
    RETURN QUERY
        SELECT t.%2$s,
               CASE WHEN t.%10$s >> 32 <> %11$s THEN visrec._other_model(%1$L, %13$s)
                    ELSE 1 - (t.%6$s OPERATOR(%5$s.<=>) query_vector) END,
               t.%4$s%9$s
        FROM %1$s AS t
        WHERE t.%6$s IS NOT NULL AND NOT t.%2$s %3$s $1
        ORDER BY t.%6$s OPERATOR(%5$s.<=>) query_vector
        LIMIT k;
    IF previous IS NOT NULL THEN
        PERFORM set_config(previous[1], previous[2], true);
    END IF;
END
$body$, names."table", names.key, names.equals, names.image, names.vector_schema, names.vector,
            names.vector_type, relation, selected, names.source, visrec._weights(config ->> 'fingerprint'),
            visrec._key_text('$1', visrec._base_type(to_regtype(names.key_type))), names.key_text));
END
$$;
COMMENT ON FUNCTION visrec._make_similar(regclass, jsonb) IS 'Writes similar_<table>.';
