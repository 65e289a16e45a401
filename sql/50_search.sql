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

-- The next two are called by what earlier versions wrote for tables that were not attached since.
CREATE FUNCTION visrec._check_k(k integer, filter jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF k IS NULL OR k < 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('k must be at least 1, not %s', coalesce(k::text, 'NULL'));
    END IF;
    IF filter IS NOT NULL THEN
        RAISE feature_not_supported USING
            MESSAGE = 'this table''s functions are of an earlier version, without filters',
            HINT = 'Attach the table again: SELECT visrec.attach(…).';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_k(integer, jsonb) IS 'An error for arguments no search function of 0.1.0 takes.';

CREATE FUNCTION visrec._widen_search(k integer) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    setting text := CASE WHEN k < 1000 THEN 'hnsw.ef_search' ELSE 'enable_indexscan' END;
    previous text := current_setting(setting, true);
BEGIN
    PERFORM set_config(setting, CASE WHEN k < 1000 THEN (k + 1)::text ELSE 'off' END, true);
    RETURN ARRAY[setting, previous];
END
$$;
COMMENT ON FUNCTION visrec._widen_search(integer) IS
    'Makes the next query find k rows; returns the setting changed and its value before, to be put back.';

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
COMMENT ON FUNCTION visrec._check_search(integer, double precision) IS 'An error for arguments no search function takes.';

CREATE FUNCTION visrec._fill(template text, names jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    filled text := '';
    part text;
    n bigint;
BEGIN
    FOR part, n IN SELECT * FROM string_to_table(template, '@') WITH ORDINALITY LOOP
        IF n % 2 = 0 AND names ->> part IS NULL THEN
            RAISE internal_error USING MESSAGE = format('nothing to fill in for %s', part);
        END IF;
        filled := filled || CASE WHEN n % 2 = 1 THEN part ELSE names ->> part END;
    END LOOP;
    RETURN filled;
END
$$;
COMMENT ON FUNCTION visrec._fill(text, jsonb) IS
    'A template with its @names@ filled in, once: what is filled in is not looked at again.';

CREATE FUNCTION visrec._search_names(relation regclass, config jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := (SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n);
    shown text;         -- ', OUT title text'
    selected text;      -- ', t.title'
BEGIN
    SELECT coalesce(string_agg(format(', OUT %I %s', a.attname, format_type(a.atttypid, a.atttypmod)), '' ORDER BY s.n), ''),
           coalesce(string_agg(format(', t.%I', a.attname), '' ORDER BY s.n), '')
    INTO shown, selected
    FROM jsonb_array_elements_text(config -> 'show_columns') WITH ORDINALITY AS s (name, n)
    JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = s.name AND a.attnum > 0;
    names := names || jsonb_build_object(
        'relation', quote_literal(relation::text),
        'shown', shown, 'selected', selected,
        'weights', visrec._weights(config ->> 'fingerprint'),
        'argument_text', visrec._key_text('$1', visrec._base_type(to_regtype(names ->> 'key_type'))),
        'distance', format('OPERATOR(%s.<=>)', names ->> 'vector_schema'),
        'nearest', format('%I.%I', config ->> 'functions_schema',
            visrec._function_name('visrec_nearest_', config ->> 'functions_name')),
        'recommend', format('%I.%I', config ->> 'functions_schema',
            visrec._function_name('recommend_', config ->> 'functions_name')));
    names := names || visrec._index_names(names, config);
    -- Parts of statements that are put together when a search runs: $1 the filter, $2 the vector, $3 excluded keys, $4 k.
    RETURN names || jsonb_build_object(
        'select_keys', quote_literal(visrec._fill('SELECT array_agg(c.id) FROM (SELECT t.@key@ AS id FROM @table@ AS t '
            'WHERE t.@vector@ IS NOT NULL AND NOT t.@key@ @equals@ ANY ($3) AND (', names)),
        'by_index', quote_literal(visrec._fill(') ORDER BY @order_by_parameter@ LIMIT $4) AS c', names)),
        -- the sum keeps the index out
        'one_by_one', quote_literal(visrec._fill(') ORDER BY (t.@vector@ @distance@ $2) + 0, t.@key@ LIMIT $4) AS c', names)));
END
$$;
COMMENT ON FUNCTION visrec._search_names(regclass, jsonb) IS 'What the templates of a table''s search functions are filled with.';

CREATE FUNCTION visrec._make_similar(relation regclass, config jsonb) RETURNS regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := visrec._search_names(relation, config);
BEGIN
    -- Planned once a session: planning each time costs a third of the search. Not knowing k, the planner would rather
    -- sort the whole table than use the index.
    RETURN visrec._make_function(relation, config, 'similar_', '',
        arguments => (names ->> 'key_type') || ', integer, jsonb, double precision',
        declaration => visrec._fill(
            'INOUT id @key_type@, k integer DEFAULT 10, filter jsonb DEFAULT NULL, max_distance double precision '
            'DEFAULT NULL, OUT similarity double precision, OUT @image@ @image_type@@shown@) RETURNS SETOF record '
            'LANGUAGE plpgsql STABLE ROWS 10 @settings@ SET plan_cache_mode = force_generic_plan SET enable_sort = off', names),
        comment => format('The k rows of %s that look most like the row with this key, best first; of those that the '
            'filter leaves, and no farther than max_distance.', relation),
        body => visrec._fill($body$
#variable_conflict use_column
DECLARE
    -- Whatever is named in a query has a number, or a name that no column has.
    visrec_query @vector_schema@.vector;
    query_source bigint;
    @reduced_query@
    width integer;
    previous text;
BEGIN
    IF $2 IS NULL OR $2 < 1 OR $4 IS NOT NULL THEN
        PERFORM visrec._check_search($2, $4);
    END IF;
    -- All of the vector, as a copy: the one in the table would be fetched for each comparison.
    SELECT @vector_schema@.subvector(t.@vector@, 1, 16000), t.@source@ INTO visrec_query, query_source
    FROM @table@ AS t WHERE t.@key@ @equals@ $1;
    IF NOT FOUND THEN
        RAISE no_data_found USING
            MESSAGE = format('table "%s" has no row with the key %s', @relation@, coalesce($1::text, 'NULL'));
    ELSIF visrec_query IS NULL THEN
        PERFORM visrec._no_vector(@relation@, @argument_text@);
        RETURN;
    ELSIF query_source >> 32 <> @weights@ THEN
        PERFORM visrec._other_model(@relation@, @argument_text@);
    ELSIF $3 IS NOT NULL OR @exact@ OR row_security_active(@relation@::regclass) THEN
        RETURN QUERY SELECT * FROM @nearest@(visrec_query, $2, $3, $4, ARRAY[$1]);
        RETURN;
    END IF;
    @reduce_query@
    width := @width@;
    previous := current_setting(@width_setting@);
    IF previous::integer < width THEN
        PERFORM set_config(@width_setting@, width::text, true);
    END IF;
    RETURN QUERY
        SELECT t.@key@,
               CASE WHEN t.@source@ >> 32 <> @weights@ THEN visrec._other_model(@relation@, @key_text@)
                    ELSE 1 - t.visrec_distance END,
               t.@image@@selected@
        FROM (SELECT t.*, t.@vector@ @distance@ visrec_query AS visrec_distance FROM @table@ AS t
              WHERE t.@vector@ IS NOT NULL AND NOT t.@key@ @equals@ $1
              ORDER BY @order_by_variable@ LIMIT @pool@) AS t
        WHERE $4 IS NULL OR t.visrec_distance <= $4
        ORDER BY t.visrec_distance, t.@key@ LIMIT $2;
    IF previous::integer < width THEN
        PERFORM set_config(@width_setting@, previous, true);
    END IF;
END
$body$, names));
END
$$;
COMMENT ON FUNCTION visrec._make_similar(regclass, jsonb) IS 'Writes similar_<table>.';

CREATE FUNCTION visrec._make_nearest(relation regclass, config jsonb) RETURNS regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := visrec._search_names(relation, config);
BEGIN
    RETURN visrec._make_function(relation, config, 'visrec_nearest_', '',
        arguments => visrec._fill('@vector_schema@.vector, integer, jsonb, double precision, @key_type@[]', names),
        declaration => visrec._fill(
            'query @vector_schema@.vector, k integer, filter jsonb, max_distance double precision, '
            'excluded @key_type@[], OUT id @key_type@, OUT similarity double precision, OUT @image@ @image_type@@shown@) '
            'RETURNS SETOF record LANGUAGE plpgsql STABLE ROWS 10 @settings@ SET plan_cache_mode = force_generic_plan '
            'SET enable_sort = off', names),
        comment => format('The k rows of %s nearest to a vector, best first, without the excluded ones: what its search '
            'functions call.', relation),
        body => visrec._fill($body$
#variable_conflict use_column
DECLARE
    -- So few rows are compared one by one in less time than the index takes to find k of them.
    few CONSTANT double precision := 10000;
    estimate double precision;
    share double precision := 1;    -- of the rows that the filter leaves
    condition text := 'true';
    exact boolean := @exact@;       -- more than the index finds in one go
    visrec_pool CONSTANT integer := @pool@;
    visrec_query CONSTANT @vector_schema@.vector := @vector_schema@.subvector($1, 1, 16000);     -- a copy, see similar_
    @reduced_query@
    visrec_ids @key_type@[];
    width integer;
    previous text;
BEGIN
    PERFORM visrec._check_search($2, $4);
    IF $3 IS NOT NULL THEN
        condition := visrec._condition(@relation@, $3);
        estimate := visrec._estimate(@relation@, condition, $3);
        exact := exact OR estimate <= few;
        SELECT estimate / greatest(c.reltuples, estimate, 1) INTO share FROM pg_class AS c WHERE c.oid = @relation@::regclass;
    END IF;
    IF NOT exact THEN
        width := @width_filtered@;
        previous := current_setting(@width_setting@);
        IF previous::integer < width THEN
            PERFORM set_config(@width_setting@, width::text, true);
        END IF;
        IF $3 IS NULL THEN
            @reduce_query@
            visrec_ids := ARRAY(SELECT t.@key@ FROM @table@ AS t WHERE t.@vector@ IS NOT NULL AND NOT t.@key@ @equals@ ANY ($5)
                ORDER BY @order_by_variable@ LIMIT visrec_pool);
        ELSE
            EXECUTE @select_keys@ || condition || @by_index@ INTO visrec_ids USING $3, visrec_query, $5, visrec_pool;
        END IF;
        PERFORM set_config(@width_setting@, previous, true);
        exact := coalesce(cardinality(visrec_ids), 0) < visrec_pool;  -- the index ran dry
    END IF;
    IF exact THEN
        EXECUTE @select_keys@ || condition || @one_by_one@ INTO visrec_ids USING $3, visrec_query, $5, $2;
    END IF;
    RETURN QUERY
        SELECT t.@key@,
               CASE WHEN t.@source@ >> 32 <> @weights@ THEN visrec._other_model(@relation@, @key_text@)
                    ELSE 1 - (t.@vector@ @distance@ visrec_query) END,
               t.@image@@selected@
        FROM @table@ AS t
        WHERE t.@key@ @equals@ ANY (visrec_ids) AND ($4 IS NULL OR t.@vector@ @distance@ visrec_query <= $4)
        ORDER BY (t.@vector@ @distance@ visrec_query) + 0, t.@key@ LIMIT $2;
END
$body$, names));
END
$$;
COMMENT ON FUNCTION visrec._make_nearest(regclass, jsonb) IS 'Writes visrec_nearest_<table>, which the other searches call.';

CREATE FUNCTION visrec._query_vector(relation regclass, path text, image bytea, query text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    what text := CASE WHEN query IS NULL THEN 'image' ELSE 'text' END;
BEGIN
    IF num_nonnulls(path, image, query) <> 1 THEN
        RAISE null_value_not_allowed USING MESSAGE = 'there is nothing to search for: it is NULL';
    ELSIF NOT has_function_privilege('visrec._embed(text, text, bytea, text)', 'EXECUTE') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('role %s may not embed what is in no table', quote_ident(current_user)),
            HINT = format('An administrator can allow it: SELECT visrec.grant_access(%L);', current_user);
    ELSIF NOT EXISTS (SELECT FROM visrec.model AS m
                      WHERE m.name = config ->> 'model' AND m.fingerprint = config ->> 'fingerprint') THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('the model "%s" is not the one that table "%s" was attached with', config ->> 'model', relation),
            DETAIL = 'Vectors of two models cannot be compared.';
    END IF;
    RETURN visrec._embedding(what, visrec._embed(config ->> 'model', path, image, query));
END
$$;
COMMENT ON FUNCTION visrec._query_vector(regclass, text, bytea, text) IS
    'The vector of an image by its path or bytes, or of a text, by the model of an attached table.';

CREATE FUNCTION visrec._make_search(relation regclass, config jsonb) RETURNS SETOF regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := visrec._search_names(relation, config);
    made record;
BEGIN
    FOR made IN SELECT * FROM (VALUES
        ('', 'text', 'NULL, NULL, $1', 'whose images fit a text best (for models with a text tower)'),
        ('_by_image', 'text', '$1, NULL, NULL', 'that look most like an image file inside image_roots'),
        ('_by_image', 'bytea', 'NULL, $1, NULL', 'that look most like an encoded image (JPEG, PNG …)')
    ) AS v (suffix, type, arguments, meaning) LOOP
        RETURN NEXT visrec._make_function(relation, config, 'search_', made.suffix,
            arguments => made.type || ', integer, jsonb, double precision',
            declaration => format('query %s, ', made.type) || visrec._fill(
                'k integer DEFAULT 10, filter jsonb DEFAULT NULL, max_distance double precision DEFAULT NULL, '
                'OUT id @key_type@, OUT similarity double precision, OUT @image@ @image_type@@shown@) '
                'RETURNS SETOF record LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp', names),
            comment => format('The k rows of %s %s, best first.', relation, made.meaning),
            body => visrec._fill($body$
#variable_conflict use_variable
BEGIN
    PERFORM visrec._check_search(k, max_distance);
    RETURN QUERY SELECT * FROM @nearest@(
        visrec._query_vector(@relation@, @arguments@)::@vector_schema@.vector, k, filter, max_distance, '{}');
END
$body$, names || jsonb_build_object('arguments', made.arguments)));
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._make_search(regclass, jsonb) IS 'Writes search_<table> and search_<table>_by_image.';
