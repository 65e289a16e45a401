-- A smaller index, of vectors with fewer numbers: projected on their principal components, which are fitted to the table.

CREATE FUNCTION visrec._reductions(config jsonb) RETURNS TABLE (function regprocedure, number integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.oid::regprocedure, n
    FROM generate_series(1, 99) AS n
    JOIN pg_proc AS p ON p.proname = visrec._function_name('visrec_reduced_', config ->> 'functions_name', '_' || n)
    JOIN pg_namespace AS s ON s.oid = p.pronamespace AND s.nspname = config ->> 'functions_schema'
$$;
COMMENT ON FUNCTION visrec._reductions(jsonb) IS 'The functions that project a table''s vectors, and their numbers.';

CREATE FUNCTION visrec._drop_reductions(config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unused regprocedure;
BEGIN
    FOR unused IN
        SELECT r.function FROM visrec._reductions(config) AS r
        WHERE visrec._depends_on_extension('pg_proc', r.function) AND NOT EXISTS (
            SELECT FROM pg_depend AS d WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = r.function)
    LOOP
        EXECUTE format('DROP FUNCTION %s', unused);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_reductions(jsonb) IS 'Drops those of a table''s projections that no index is made of.';

CREATE FUNCTION visrec._make_reduction(relation regclass, config jsonb, components jsonb) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := (SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n);
    -- Not the function in use: its index is made of what that gave when it was built.
    number integer := (SELECT min(n) FROM generate_series(1, 99) AS n
                       WHERE n NOT IN (SELECT r.number FROM visrec._reductions(config) AS r));
BEGIN
    PERFORM visrec._make_function(relation, config, 'visrec_reduced_', '_' || number,
        arguments => visrec._fill('@vector_schema@.vector', names),
        declaration => visrec._fill('@vector_schema@.vector) RETURNS @vector_schema@.vector LANGUAGE plpgsql '
            'IMMUTABLE STRICT PARALLEL SAFE', names),
        comment => format('A vector of %s on %s principal components, fitted to the vectors of the model with the '
            'fingerprint %s.', relation, jsonb_array_length(components), config ->> 'fingerprint'),
        -- One expression, which PL/pgSQL evaluates by itself, on a copy: the vector in the table would be fetched for
        -- each component. <#> is minus the inner product.
        body => visrec._fill(E'\nDECLARE\n    v CONSTANT @vector_schema@.vector := @vector_schema@.subvector($1, 1, 16000);\n'
            'BEGIN\n    RETURN ARRAY[\n@rows@\n    ]::@vector_schema@.vector;\nEND\n',
            names || jsonb_build_object('rows', (
                SELECT string_agg(visrec._fill('        @row@::@vector_schema@.vector OPERATOR(@vector_schema@.<#>) v',
                    names || jsonb_build_object('row', quote_literal(c.row))), E',\n' ORDER BY c.n)
                FROM jsonb_array_elements_text(components) WITH ORDINALITY AS c (row, n)))));
    RETURN format('%I.%I', config ->> 'functions_schema',
        visrec._function_name('visrec_reduced_', config ->> 'functions_name', '_' || number));
END
$$;
COMMENT ON FUNCTION visrec._make_reduction(regclass, jsonb, jsonb) IS
    'Writes visrec_reduced_<table>_<number>, which projects a vector, and returns its name.';

CREATE FUNCTION visrec._checked_reduction(relation regclass, config jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dims text := config #>> '{reduction,dims}';
BEGIN
    IF dims IS NULL OR config #>> '{reduction,fingerprint}' = config ->> 'fingerprint'
        AND to_regproc(config #>> '{reduction,function}') IS NOT NULL
    THEN
        RETURN config;
    END IF;
    RAISE NOTICE USING
        MESSAGE = format('the index of table "%s" is no longer reduced to %s dimensions', relation, dims),
        DETAIL = 'They were fitted to another model''s vectors, or their function is gone.',
        HINT = format('SELECT * FROM visrec.reduce(%L, %s);', relation, dims);
    RETURN config - '{reduction,index_method,index_metric}'::text[];
END
$$;
COMMENT ON FUNCTION visrec._checked_reduction(regclass, jsonb) IS
    'An attachment that is made anew, without a reduction that does not go with it.';

CREATE FUNCTION visrec._sample(relation regclass, config jsonb, dimension integer, OUT vectors bytea, OUT size bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := (SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n);
    most integer := least(10000, 20000000 / dimension);
BEGIN
    EXECUTE visrec._fill($query$
        SELECT string_agg(substr(@vector_schema@.vector_send(s.vector), 5), ''), count(*)      -- without its head
        FROM (SELECT t.@vector@ AS vector FROM @table@ AS t
              WHERE t.@vector@ IS NOT NULL AND (t.@source@ >> 32 = $2) IS NOT FALSE ORDER BY @draw@ LIMIT $1) AS s
        $query$, names || jsonb_build_object('draw', visrec._draw(names ->> 'key_text')))
    INTO vectors, size USING most, visrec._weights(config ->> 'fingerprint');
END
$$;
COMMENT ON FUNCTION visrec._sample(regclass, jsonb, integer) IS
    'At most 10,000 vectors of a table, the same each time, as float4 on end.';

CREATE FUNCTION visrec.reduce(relation regclass, dims integer, OUT variance double precision,
    OUT neighbours double precision, OUT recall double precision)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    dimension integer := (SELECT m.dimension FROM visrec.model AS m WHERE m.name = config ->> 'model');
    sample record;
    fitted jsonb;
BEGIN
    PERFORM visrec._check_owner(relation);
    PERFORM visrec._check_index(relation, config || '{"index_method": "none", "index_metric": "cosine"}');
    SELECT * INTO sample FROM visrec._sample(relation, config, dimension);
    IF dims IS NULL OR dims < 1 OR dims >= dimension OR dims > 2000 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('cannot reduce vectors of %s numbers to %s', dimension, coalesce(dims::text, 'NULL')),
            DETAIL = format('It takes from 1 to %s.', least(dimension - 1, 2000));
    ELSIF sample.size <= dims THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('cannot fit %s components to the %s vectors of table "%s"', dims, sample.size, relation),
            HINT = 'Reduce when the rows are there.';
    END IF;
    fitted := visrec._principal_components(sample.vectors, dimension, dims);
    IF fitted ? 'error' THEN
        PERFORM visrec._raise(fitted -> 'error', format('could not reduce the vectors of table "%s"', relation));
    END IF;
    PERFORM visrec._replace_index(relation, config || jsonb_build_object(
        'index_method', 'hnsw_reduced', 'index_metric', 'l2', 'reduction', jsonb_build_object(
            'function', visrec._make_reduction(relation, config, fitted -> 'components'), 'dims', dims,
            'fingerprint', config ->> 'fingerprint')));
    SELECT f.variance, f.neighbours, f.recall INTO variance, neighbours, recall
    FROM jsonb_to_record(fitted) AS f (variance float8, neighbours float8, recall float8);
END
$$;
COMMENT ON FUNCTION visrec.reduce(regclass, integer) IS
    'Builds the index of a table''s vectors on dims numbers instead of all: their first principal components, fitted to '
    'at most 10,000 of them. The index shrinks; it finds candidates, 10 for each row wanted, which are compared by '
    'the vectors themselves, and those stay as they are. What is lost, for 100 rows of the sample: variance, the share of '
    'the variance that is kept; neighbours, of the ten nearest rows those that are also among the ten nearest by the '
    'components alone; recall, those among the 100 candidates. visrec.recall measures the whole table; visrec.reindex '
    'goes back. For the table''s owner. Source: Jolliffe, Principal Component Analysis, 2002.';
REVOKE ALL ON FUNCTION visrec.reduce(regclass, integer) FROM PUBLIC;
