-- The index of a table's vectors: five methods, of which visrec.reindex chooses one, and visrec.reduce a sixth.

CREATE FUNCTION visrec._index_parts(n visrec._names, OUT access name, OUT opclass name, OUT expression text, OUT operator text,
    OUT most integer, OUT dimension integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    type text;
    schema CONSTANT text := replace(n.vector_schema, '%', '%%');      -- in what is a template
BEGIN
    dimension := (SELECT m.dimension FROM visrec.model AS m WHERE m.name = n.model);
    CASE n.index_method
    WHEN 'hnsw', 'ivfflat' THEN
        SELECT n.index_method, 'vector', 2000, '%s' INTO access, type, most, expression;
    WHEN 'hnsw_half' THEN
        SELECT 'hnsw', 'halfvec', 4000, format('(%%s::%s.halfvec(%s))', schema, dimension)
        INTO access, type, most, expression;
    WHEN 'hnsw_binary' THEN
        SELECT 'hnsw', 'bit', 64000, format('(%s.binary_quantize(%%s)::bit(%s))', schema, dimension)
        INTO access, type, most, expression;
    WHEN 'hnsw_reduced' THEN
        SELECT 'hnsw', 'vector', NULL, format('(visrec._project_%s_%s(%%s)::%s.vector(%s))', n.id, n.reduction, schema,
            cardinality(a.components))
        INTO access, type, most, expression FROM visrec.attachment AS a WHERE a.id = n.id;
    WHEN 'none' THEN
        type := 'vector';
        expression := '%s';
    ELSE
        RETURN;
    END CASE;
    SELECT CASE type WHEN 'bit' THEN 'bit_hamming_ops' ELSE type || m.ops END,
           format('OPERATOR(%s.%s)', n.vector_schema, CASE type WHEN 'bit' THEN '<~>' ELSE m.operator END)
    INTO opclass, operator
    FROM (VALUES ('cosine', '_cosine_ops', '<=>'), ('inner_product', '_ip_ops', '<#>'), ('l2', '_l2_ops', '<->'))
        AS m (metric, ops, operator)
    WHERE m.metric = n.index_metric;
END
$$;
COMMENT ON FUNCTION visrec._index_parts(visrec._names) IS
    'What an attachment''s index is made of: expression is what is indexed, with %s for the vector; most, how many numbers it '
    'takes at most; operator is NULL where there is no such method or metric.';

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
COMMENT ON FUNCTION visrec._probes(regclass) IS 'How many lists of a table''s ivfflat index a search reads.';

CREATE FUNCTION visrec._depends_on_extension(class regclass, object oid) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
        WHERE d.classid = class AND d.objid = object AND d.objsubid = 0
          AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x' AND e.extname = 'visrec')
$$;
COMMENT ON FUNCTION visrec._depends_on_extension(regclass, oid) IS
    'Whether an object goes with DROP EXTENSION visrec: of an attached table''s indexes on its vectors, those that visrec made.';

CREATE FUNCTION visrec._indexes(relation regclass, number smallint, OUT index regclass, OUT access name, OUT opclass name,
    OUT plain boolean, OUT made boolean) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.indexrelid::regclass, m.amname, o.opcname, x.indkey[0] = number AND x.indpred IS NULL,
           visrec._depends_on_extension('pg_class', x.indexrelid)
    FROM pg_index AS x
    JOIN pg_class AS c ON c.oid = x.indexrelid
    JOIN pg_am AS m ON m.oid = c.relam
    JOIN pg_opclass AS o ON o.oid = x.indclass[0]
    WHERE x.indrelid = relation AND x.indisvalid
      AND EXISTS (SELECT FROM pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND d.refobjsubid = number)
$$;
COMMENT ON FUNCTION visrec._indexes(regclass, smallint) IS
    'The indexes of a column, or of an expression on it (plain: of all rows, and the column itself); made: by visrec.';

CREATE FUNCTION visrec._create_index(relation regclass, definition text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    others oid[] := ARRAY(SELECT x.indexrelid FROM pg_index AS x WHERE x.indrelid = relation);
BEGIN
    EXECUTE format('CREATE INDEX ON %s %s', relation, definition);
    EXECUTE format('ALTER INDEX %s DEPENDS ON EXTENSION visrec', (
        SELECT x.indexrelid::regclass FROM pg_index AS x WHERE x.indrelid = relation AND x.indexrelid <> ALL (others)));
END
$$;
COMMENT ON FUNCTION visrec._create_index(regclass, text) IS 'Creates an index, which goes with the extension.';

CREATE FUNCTION visrec._make_mark_index(a visrec.attachment) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM visrec._indexes(a.relation, a.numbers[4]) AS i WHERE i.made AND i.access = 'btree') THEN
        PERFORM visrec._create_index(a.relation, format('((%2$I[2])) WHERE %1$I IS NULL AND %2$I IS NOT NULL',
            a.columns[3], a.columns[4]));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._make_mark_index(visrec.attachment) IS
    'Makes the index by which the AFTER UPDATE trigger finds the rows whose image changed. It is all but empty: see visrec._mark.';

CREATE FUNCTION visrec._index_definition(n visrec._names, m integer, ef_construction integer) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts record := visrec._index_parts(n);
    rows bigint;
    options text;
BEGIN
    IF parts.access = 'ivfflat' THEN    -- as pgvector advises
        rows := visrec._call(n.id, 'count_vectors');
        options := format('lists = %s', least(greatest(CASE WHEN rows <= 1000000 THEN rows / 1000 ELSE sqrt(rows) END::integer, 1), 32768));
    ELSE        -- the second is at least twice the first; by default they are 64 and 16
        options := concat_ws(', ', 'm = ' || m, 'ef_construction = ' || coalesce(ef_construction, CASE WHEN m > 32 THEN 2 * m END));
    END IF;
    RETURN format('USING %I ((%s) %s.%I)', parts.access, format(parts.expression, n.vector), n.vector_schema, parts.opclass)
        || coalesce(' WITH (' || nullif(options, '') || ')', '');
END
$$;
COMMENT ON FUNCTION visrec._index_definition(visrec._names, integer, integer) IS
    'What follows the table in the CREATE INDEX of an attachment. m, ef_construction: NULL for pgvector''s defaults.';

CREATE FUNCTION visrec._build_workers() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Earlier ones can overflow in a parallel build.
    SELECT CASE WHEN string_to_array(e.extversion, '.')::int[] < '{0,8,2}' THEN '0' ELSE current_setting('max_parallel_maintenance_workers') END
    FROM pg_extension AS e WHERE e.extname = 'vector'
$$;
COMMENT ON FUNCTION visrec._build_workers() IS 'The max_parallel_maintenance_workers to build with.';

CREATE FUNCTION visrec._build_index(n visrec._names, m integer, ef_construction integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    workers text := current_setting('max_parallel_maintenance_workers');
BEGIN
    PERFORM set_config('max_parallel_maintenance_workers', visrec._build_workers(), true);
    PERFORM visrec._create_index(n.relation, visrec._index_definition(n, m, ef_construction));
    PERFORM set_config('max_parallel_maintenance_workers', workers, true);
END
$$;
COMMENT ON FUNCTION visrec._build_index(visrec._names, integer, integer) IS 'Builds the index of an attachment.';

CREATE FUNCTION visrec._drop_indexes(a visrec.attachment, kept regclass[] DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    index regclass;
BEGIN
    FOR index IN SELECT i.index FROM unnest(a.numbers[3:4]) AS c (number), visrec._indexes(a.relation, c.number) AS i
                 WHERE i.made AND i.index <> ALL (kept)        -- a part of the index of a partitioned table goes with that
                     AND NOT (SELECT x.relispartition FROM pg_class AS x WHERE x.oid = i.index) GROUP BY i.index LOOP
        EXECUTE format('DROP INDEX %s', index);
    END LOOP;
    FOR index IN SELECT l.index FROM visrec._leftovers(a) AS l WHERE l.index <> ALL (kept) LOOP
        EXECUTE format('DROP INDEX %s', index);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_indexes(visrec.attachment, regclass[]) IS
    'Drops the indexes that visrec made for an attachment, except those to be kept; also what a reindex left that did not end.';

CREATE FUNCTION visrec._leftovers(a visrec.attachment) RETURNS TABLE (index regclass, is_new boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid::regclass, c.relname = format('visrec_%s_new', a.id)
    FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid JOIN pg_am AS m ON m.oid = c.relam AND m.amname IN ('hnsw', 'ivfflat')
    WHERE x.indrelid = a.relation AND c.relname IN (format('visrec_%s_new', a.id), format('visrec_%s_old', a.id))
$$;
COMMENT ON FUNCTION visrec._leftovers(visrec.attachment) IS
    'The indexes that a visrec.reindex has, or that one left which did not end: the one it builds beside, and the one that was before.';

CREATE FUNCTION visrec._make_index(n visrec._names, rebuild boolean DEFAULT false, m integer DEFAULT NULL,
    ef_construction integer DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts record := visrec._index_parts(n);
    present boolean;
BEGIN
    -- Of an expression, only what visrec made is known to be the one.
    SELECT bool_or(i.made AND NOT rebuild OR i.plain AND NOT i.made) INTO present
    FROM visrec.attachment AS a, visrec._indexes(a.relation, a.numbers[3]) AS i
    WHERE a.id = n.id AND i.access = parts.access AND i.opclass = parts.opclass;
    IF n.index_method = 'none' OR present THEN
        RETURN;
    ELSIF parts.dimension > parts.most THEN
        RAISE NOTICE USING
            MESSAGE = format('column "%s" of table "%s" has no index', btrim(n.vector, '"'), visrec._label(n.relation)),
            DETAIL = format('The model''s vectors have %s dimensions, and method %s takes at most %s. Searches scan the table.', parts.dimension,
                n.index_method, parts.most),
            HINT = format('CALL visrec.reindex(%L, %L%s);', n.relation::regclass,
                CASE WHEN parts.dimension <= 4000 THEN 'hnsw_half' ELSE 'hnsw_binary' END, visrec._name_argument(n.id));
        RETURN;
    END IF;
    PERFORM visrec._build_index(n, m, ef_construction);
END
$$;
COMMENT ON FUNCTION visrec._make_index(visrec._names, boolean, integer, integer) IS
    'Builds the index of an attachment if the column has none.';

CREATE FUNCTION visrec._check_index(n visrec._names) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts record := visrec._index_parts(n);
BEGIN
    IF n.index_method = 'hnsw_reduced' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'index method "hnsw_reduced" needs a number of dimensions',
            HINT = format('SELECT * FROM visrec.reduce(%L, 128%s);', n.relation::regclass, visrec._name_argument(n.id));
    ELSIF parts.operator IS NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('unknown index method "%s" or metric "%s"', n.index_method, n.index_metric),
            HINT = 'Methods: hnsw, hnsw_half, hnsw_binary, ivfflat, none. Metrics: cosine, inner_product, l2.';
    ELSIF parts.dimension IS NULL THEN
        RAISE undefined_object USING
            MESSAGE = format('model "%s" is not registered', n.model),
            HINT = format('SELECT visrec.register_model(%L);', n.model);
    ELSIF parts.dimension > parts.most THEN
        RAISE program_limit_exceeded USING
            MESSAGE = format('cannot index the vectors of table "%s" with method "%s"', visrec._label(n.relation), n.index_method),
            DETAIL = format('They have %s dimensions, and the method takes at most %s.', parts.dimension, parts.most),
            HINT = format('Methods that take them: %s.', concat_ws(', ',
                CASE WHEN parts.dimension <= 4000 THEN 'hnsw_half (at most 4000)' END,
                CASE WHEN parts.dimension <= 64000 THEN 'hnsw_binary (at most 64000)' END, 'none'));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_index(visrec._names) IS 'Raises an error for an index that cannot be made.';

CREATE FUNCTION visrec._replace_index(a visrec.attachment, m integer DEFAULT NULL, ef_construction integer DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(a.id);
    others regclass[] := ARRAY(SELECT i.index FROM visrec._indexes(a.relation, a.numbers[3]) AS i WHERE i.access <> 'btree' AND i.made);
    name name := (SELECT c.relname FROM pg_class AS c WHERE c.oid = others[1]);
    built regclass;
BEGIN
    IF a.components IS NOT NULL THEN        -- the index is made of a projection, which is made with the attachment
        a := visrec._write_attachment(a);
    END IF;
    n.index_method := a.index_method;
    n.index_metric := a.index_metric;
    n.reduction := a.reduction;
    PERFORM visrec._make_index(n, true, m, ef_construction);
    -- After it: functions that are made lock the extension until the transaction ends.
    IF a.components IS NULL THEN
        a := visrec._write_attachment(a);
    END IF;
    PERFORM visrec._drop_indexes(a, ARRAY(
        SELECT i.index FROM unnest(a.numbers[3:4]) AS c (number), visrec._indexes(a.relation, c.number) AS i
        WHERE i.index <> ALL (others)));
    built := (SELECT i.index FROM visrec._indexes(a.relation, a.numbers[3]) AS i WHERE i.access <> 'btree' AND i.made);
    IF built IS NOT NULL AND name IS NOT NULL THEN
        EXECUTE format('ALTER INDEX %s RENAME TO %I', built, name);
    END IF;
    -- Has the table's trigger drop a projection that no index is made of any more.
    UPDATE visrec.own_attachment AS o SET relation = o.relation WHERE o.id = a.id;
END
$$;
COMMENT ON FUNCTION visrec._replace_index(visrec.attachment, integer, integer) IS
    'Builds the index of an attachment that is changed, and drops those before. Searches that began go on with those.';
