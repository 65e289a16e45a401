-- The vector column's index.

CREATE FUNCTION visrec._vector_index(relation regclass, vector_column name, made_by_attach boolean) RETURNS regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.indexrelid::regclass
    FROM pg_index AS x
    JOIN pg_class AS c ON c.oid = x.indexrelid
    JOIN pg_am AS m ON m.oid = c.relam
    JOIN pg_opclass AS o ON o.oid = x.indclass[0]
    JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
    WHERE x.indrelid = relation AND a.attname = vector_column AND x.indpred IS NULL AND x.indisvalid
      AND m.amname = 'hnsw' AND o.opcname = 'vector_cosine_ops'
      AND (NOT made_by_attach OR visrec._depends_on_extension('pg_class', x.indexrelid))
    LIMIT 1
$$;
COMMENT ON FUNCTION visrec._vector_index(regclass, name, boolean) IS 'The HNSW cosine index of a column.';

CREATE FUNCTION visrec._make_index(relation regclass, config jsonb, dimension integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
    workers text := current_setting('max_parallel_maintenance_workers');
    version int[] := (SELECT string_to_array(e.extversion, '.')::int[] FROM pg_extension AS e WHERE e.extname = 'vector');
BEGIN
    SELECT * INTO names FROM visrec._names(relation, config);
    IF visrec._vector_index(relation, (config ->> 'vector_column')::name, false) IS NOT NULL THEN
        RETURN;
    ELSIF dimension > 2000 THEN
        RAISE NOTICE USING
            MESSAGE = format('no index on column %s: pgvector indexes vectors of at most 2000 numbers', names.vector),
            DETAIL = format('The model''s vectors have %s; searches scan the table.', dimension);
        RETURN;
    END IF;
    IF version < '{0,8,2}' THEN     -- earlier ones can overflow in a parallel build
        PERFORM set_config('max_parallel_maintenance_workers', '0', true);
    END IF;
    EXECUTE format('CREATE INDEX ON %s USING hnsw (%s %s.vector_cosine_ops)',
        names."table", names.vector, names.vector_schema);
    PERFORM set_config('max_parallel_maintenance_workers', workers, true);
    EXECUTE format('ALTER INDEX %s DEPENDS ON EXTENSION visrec',
        visrec._vector_index(relation, (config ->> 'vector_column')::name, false));
END
$$;
COMMENT ON FUNCTION visrec._make_index(regclass, jsonb, integer) IS
    'Builds the HNSW cosine index, unless the column has one.';
