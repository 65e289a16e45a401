-- The index of a table's vectors: five methods, of which visrec.reindex chooses one.

CREATE FUNCTION visrec._index_parts(names jsonb, config jsonb, OUT method text, OUT metric text, OUT access name,
    OUT opclass name, OUT expression text, OUT operator text, OUT most integer, OUT dimension integer, OUT fill jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    schema text := names ->> 'vector_schema';
BEGIN
    SELECT m.dimension INTO dimension FROM visrec.model AS m WHERE m.name = config ->> 'model';
    fill := names || jsonb_build_object('dimension', dimension, 'reduction', config #>> '{reduction,function}',
        'dims', config #>> '{reduction,dims}');
    method := coalesce(config ->> 'index_method', 'hnsw');
    metric := coalesce(config ->> 'index_metric', 'cosine');
    -- the most numbers that pgvector indexes, and what it indexes
    SELECT i.access, CASE i.type WHEN 'bit' THEN 'bit_hamming_ops' ELSE i.type || m.ops END, i.most,
           i.expression,
           format('OPERATOR(%s.%s)', schema, CASE i.type WHEN 'bit' THEN '<~>' ELSE m.operator END)
    INTO access, opclass, most, expression, operator
    FROM (VALUES
        ('hnsw', 'hnsw', 'vector', 2000, '@it@'),
        ('hnsw_half', 'hnsw', 'halfvec', 4000, '(@it@::@vector_schema@.halfvec(@dimension@))'),
        ('hnsw_binary', 'hnsw', 'bit', 64000, '(@vector_schema@.binary_quantize(@it@)::bit(@dimension@))'),
        ('hnsw_reduced', 'hnsw', 'vector', NULL, '(@reduction@(@it@)::@vector_schema@.vector(@dims@))'),
        ('ivfflat', 'ivfflat', 'vector', 2000, '@it@'),
        ('none', NULL, 'vector', NULL, '@it@')
    ) AS i (method, access, type, most, expression),
    (VALUES ('cosine', '_cosine_ops', '<=>'), ('inner_product', '_ip_ops', '<#>'), ('l2', '_l2_ops', '<->'))
        AS m (metric, ops, operator)
    WHERE i.method = _index_parts.method AND m.metric = _index_parts.metric;
END
$$;
COMMENT ON FUNCTION visrec._index_parts(jsonb, jsonb) IS
    'What an attachment''s index is made of: expression is what is indexed, a template to be filled with fill and the '
    'vector, it; operator is NULL where there is no such method or metric.';

CREATE FUNCTION visrec._index_names(names jsonb, config jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts record;
    ordering text;
    variable text;              -- what a projection is kept in, which would be made anew for each row
    reduce_query text := '';
    -- $2 is k in the functions that this is filled into. How many rows the index gives for k wanted ones: bits tell near rows from nearer ones only roughly, and fewer
    -- numbers, too.
    pool text := '$2';
    -- How many rows HNSW keeps in view (ef_search), 1000 at most: pgvector's default, 40, unless more rows are wanted. Of
    -- 100,000 made-up vectors that finds 0.988 of the nearest ten; 64 finds 0.998 and 100 0.9998, for 1.2 and 1.4 times the
    -- time (python -m benchmarks.searching). A larger hnsw.ef_search of the session's is kept.
    width text := 'least(greatest(2 * $2, 40), 1000)';
BEGIN
    SELECT * INTO parts FROM visrec._index_parts(names, config);
    ordering := visrec._fill(parts.expression, parts.fill || jsonb_build_object('it', 't.' || (names ->> 'vector')))
        || ' ' || parts.operator || ' ';
    IF parts.method = 'hnsw_reduced' THEN
        pool := 'greatest(10 * least($2, 1000), 100)';
        width := 'least(greatest(10 * $2, 100) + 1, 1000)';
        variable := 'visrec_reduced';
        reduce_query := visrec._fill('visrec_reduced := @reduction@(visrec_query);', parts.fill);
    ELSIF parts.method = 'hnsw_binary' THEN
        pool := 'greatest(20 * least($2, 1000), 200)';
        width := 'least(greatest(20 * $2, 200) + 1, 1000)';
    ELSIF parts.method = 'ivfflat' THEN
        width := format('visrec._probes(%s)', names ->> 'relation');
    END IF;
    RETURN jsonb_build_object(
        'pool', pool, 'width', width,
        -- HNSW goes on until it has k rows that the filter leaves, but finds better ones when it begins wide enough.
        'width_filtered', CASE parts.method WHEN 'ivfflat' THEN width
            ELSE format('least(greatest(%s, 2 * visrec_pool / share), 1000)::integer', width) END,
        'exact', CASE parts.method WHEN 'none' THEN 'true' ELSE '$2 >= 1000' END,
        'width_setting', CASE parts.method WHEN 'ivfflat' THEN '''ivfflat.probes''' ELSE '''hnsw.ef_search''' END,
        -- Costs are far from what these plans cost: compiling one takes longer than running it.
        'settings', 'SET search_path = pg_catalog, pg_temp SET jit = off '
            || CASE parts.method WHEN 'ivfflat' THEN 'SET ivfflat.iterative_scan = relaxed_order'
               ELSE 'SET hnsw.iterative_scan = strict_order' END,
        -- as the index has it, or the planner does not use it
        'order_by_variable', ordering || coalesce(variable,
            visrec._fill(parts.expression, parts.fill || '{"it": "visrec_query"}')),
        'reduced_query', CASE WHEN variable IS NULL THEN '' ELSE format('visrec_reduced %s.vector;', names ->> 'vector_schema') END,
        'reduce_query', reduce_query,
        'order_by_parameter', ordering || visrec._fill(parts.expression, parts.fill || '{"it": "$2"}'));
END
$$;
COMMENT ON FUNCTION visrec._index_names(jsonb, jsonb) IS
    'What a table''s search functions are filled with for its index: how they order by it and how wide they search.';

CREATE FUNCTION visrec._probes(relation regclass) RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- The square root of the lists, as pgvector advises; twice that, since neighbours lie across borders.
    SELECT greatest(1, ceil(2 * sqrt(max(o.option_value::integer))))::integer
    FROM pg_index AS x
    JOIN pg_class AS c ON c.oid = x.indexrelid
    JOIN pg_am AS m ON m.oid = c.relam AND m.amname = 'ivfflat'
    CROSS JOIN pg_options_to_table(c.reloptions) AS o
    WHERE x.indrelid = relation AND o.option_name = 'lists'
$$;
COMMENT ON FUNCTION visrec._probes(regclass) IS 'How many of its ivfflat index''s lists a search of a table looks at.';

CREATE FUNCTION visrec._vector_indexes(relation regclass, vector_column name) RETURNS TABLE (
    index regclass, access name, opclass name, plain boolean, made boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.indexrelid::regclass, m.amname, o.opcname, x.indkey[0] = a.attnum,
           visrec._depends_on_extension('pg_class', x.indexrelid)
    FROM pg_index AS x
    JOIN pg_class AS c ON c.oid = x.indexrelid
    JOIN pg_am AS m ON m.oid = c.relam AND m.amname IN ('hnsw', 'ivfflat')
    JOIN pg_opclass AS o ON o.oid = x.indclass[0]
    JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attname = vector_column
    WHERE x.indrelid = relation AND x.indpred IS NULL AND x.indisvalid
      AND EXISTS (SELECT FROM pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND d.refobjsubid = a.attnum)
$$;
COMMENT ON FUNCTION visrec._vector_indexes(regclass, name) IS
    'The vector indexes of a column, or of an expression on it (plain: of the column itself); made: by visrec.';

CREATE FUNCTION visrec._build_index(relation regclass, names jsonb, parts record) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    workers text := current_setting('max_parallel_maintenance_workers');
    version int[] := (SELECT string_to_array(e.extversion, '.')::int[] FROM pg_extension AS e WHERE e.extname = 'vector');
    others oid[] := ARRAY(SELECT x.indexrelid FROM pg_index AS x WHERE x.indrelid = relation);
    rows bigint;
    options text := '';
BEGIN
    IF parts.access = 'ivfflat' THEN    -- as pgvector advises
        EXECUTE visrec._fill('SELECT count(t.@vector@) FROM @table@ AS t', names) INTO rows;
        options := format('WITH (lists = %s)',
            least(greatest(CASE WHEN rows <= 1000000 THEN rows / 1000 ELSE sqrt(rows) END::integer, 1), 32768));
    END IF;
    IF version < '{0,8,2}' THEN     -- earlier ones can overflow in a parallel build
        PERFORM set_config('max_parallel_maintenance_workers', '0', true);
    END IF;
    EXECUTE format('CREATE INDEX ON %s USING %I (%s %s.%I) %s', names ->> 'table', parts.access,
        '(' || visrec._fill(parts.expression, parts.fill || jsonb_build_object('it', names -> 'vector')) || ')',
        names ->> 'vector_schema', parts.opclass, options);
    PERFORM set_config('max_parallel_maintenance_workers', workers, true);
    EXECUTE format('ALTER INDEX %s DEPENDS ON EXTENSION visrec', (
        SELECT x.indexrelid::regclass FROM pg_index AS x WHERE x.indrelid = relation AND x.indexrelid <> ALL (others)));
END
$$;
COMMENT ON FUNCTION visrec._build_index(regclass, jsonb, record) IS 'Builds an index, which goes with the extension.';

CREATE FUNCTION visrec._drop_indexes(indexes regclass[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    index regclass;
BEGIN
    FOREACH index IN ARRAY indexes LOOP
        EXECUTE format('DROP INDEX %s', index);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_indexes(regclass[]) IS 'Drops indexes.';

CREATE FUNCTION visrec._make_index(relation regclass, config jsonb, rebuild boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := (SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n);
    parts record;
    present boolean;
BEGIN
    SELECT * INTO parts FROM visrec._index_parts(names, config);
    -- Of an expression, only what visrec made is known to be the one.
    SELECT bool_or(i.made AND NOT rebuild OR i.plain AND NOT i.made) INTO present
    FROM visrec._vector_indexes(relation, (config ->> 'vector_column')::name) AS i
    WHERE i.access = parts.access AND i.opclass = parts.opclass;
    IF parts.method = 'none' OR present THEN
        RETURN;
    ELSIF parts.dimension > parts.most THEN
        RAISE NOTICE USING
            MESSAGE = format('no index on column %s: %s indexes vectors of at most %s numbers', names ->> 'vector',
                parts.method, parts.most),
            DETAIL = format('The model''s vectors have %s; searches scan the table.', parts.dimension),
            HINT = format('SELECT visrec.reindex(%L, %L);', relation,
                CASE WHEN parts.dimension <= 4000 THEN 'hnsw_half' ELSE 'hnsw_binary' END);
        RETURN;
    END IF;
    PERFORM visrec._build_index(relation, names, parts);
END
$$;
COMMENT ON FUNCTION visrec._make_index(regclass, jsonb, boolean) IS
    'Builds the index of an attachment, unless the column has one.';

CREATE FUNCTION visrec._check_index(relation regclass, config jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts record;
BEGIN
    SELECT * INTO parts FROM visrec._index_parts((SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n), config);
    IF parts.method = 'hnsw_reduced' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'the method "hnsw_reduced" needs a number of dimensions',
            HINT = format('SELECT * FROM visrec.reduce(%L, 128);', relation);
    ELSIF parts.operator IS NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('there is no index with the method "%s" and the metric "%s"', config ->> 'index_method',
                config ->> 'index_metric'),
            HINT = 'Methods: hnsw, hnsw_half, hnsw_binary, ivfflat, none. Metrics: cosine, inner_product, l2.';
    ELSIF parts.dimension IS NULL THEN
        RAISE undefined_object USING
            MESSAGE = format('model "%s" is not registered', config ->> 'model'),
            HINT = format('SELECT visrec.register_model(%L);', config ->> 'model');
    ELSIF parts.dimension > parts.most THEN
        RAISE program_limit_exceeded USING
            MESSAGE = format('cannot index the vectors of table "%s" with the method "%s"', relation, parts.method),
            DETAIL = format('They have %s numbers, and it takes at most %s.', parts.dimension, parts.most),
            HINT = format('Methods that take them: %s.', concat_ws(', ',
                CASE WHEN parts.dimension <= 4000 THEN 'hnsw_half (at most 4000)' END,
                CASE WHEN parts.dimension <= 64000 THEN 'hnsw_binary (at most 64000)' END, 'none'));
    ELSIF config ->> 'source_column' IS NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('table "%s" was attached under an earlier version', relation),
            HINT = 'Attach it again: SELECT visrec.attach(…).';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_index(regclass, jsonb) IS 'An error for an index that cannot be made.';

CREATE FUNCTION visrec._replace_index(relation regclass, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    replaced regclass[];
BEGIN
    SELECT coalesce(array_agg(i.index), '{}') INTO replaced
    FROM visrec._vector_indexes(relation, (config ->> 'vector_column')::name) AS i WHERE i.made;
    -- The long part first: until the short rest, searches go on with the index before.
    PERFORM visrec._make_index(relation, config, rebuild => true);
    PERFORM visrec._write(relation, config);
    PERFORM visrec._drop_indexes(replaced);
    PERFORM visrec._drop_reductions(config);
END
$$;
COMMENT ON FUNCTION visrec._replace_index(regclass, jsonb) IS
    'Builds the index of an attachment that is changed, has the functions use it, and drops those before.';

CREATE FUNCTION visrec.reindex(relation regclass, method text DEFAULT 'hnsw', metric text DEFAULT 'cosine') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation) - 'reduction'
        || jsonb_build_object('index_method', coalesce(method, 'NULL'), 'index_metric', coalesce(metric, 'NULL'));
BEGIN
    PERFORM visrec._check_owner(relation);
    PERFORM visrec._check_index(relation, config);
    PERFORM visrec._replace_index(relation, config);
END
$$;
COMMENT ON FUNCTION visrec.reindex(regclass, text, text) IS
    'Builds the index of a table''s vectors anew, and has its search functions use it. method: hnsw; hnsw_half (half the '
    'size, of half-precision numbers); hnsw_binary (a fraction of the size, of one bit a number; finds candidates, which '
    'are compared by the vectors themselves); ivfflat (built faster, searched slower; build it when the rows are there); '
    'none (every row is compared: exact). metric: cosine, inner_product or l2, which order unit vectors alike, so that '
    'results are the same; similarity is the cosine whichever. Only what visrec made is dropped. Rows can be read '
    'meanwhile, not written. For a large load: reindex with none, load or backfill, then reindex with hnsw: building once '
    'is faster than growing.';
