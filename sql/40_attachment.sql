-- What is attached: read from the tables' own triggers. The trigger's one argument is the
-- attachment as JSON, so it follows the table through renames, dumps and DROP TABLE.

CREATE FUNCTION visrec._config(tgargs bytea) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN convert_from(substring(tgargs FROM 1 FOR octet_length(tgargs) - 1), getdatabaseencoding())::jsonb;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;    -- a trigger of somebody else's, by the same name
END
$$;
COMMENT ON FUNCTION visrec._config(bytea) IS 'The attachment in a trigger''s argument; NULL where it is none.';

CREATE VIEW visrec.attached AS
SELECT t.tgrelid::regclass AS relation, a.*
FROM pg_catalog.pg_trigger AS t,
     pg_catalog.jsonb_to_record('{"index_method": "hnsw", "index_metric": "cosine"}' || visrec._config(t.tgargs)) AS a (
         key_column name, image_column name, vector_column name, model text, fingerprint text,
         mode text, on_error text, show_columns name[], functions_schema name, functions_name name,
         source_column name, index_method text, index_metric text)
WHERE t.tgname = 'visrec_insert' AND NOT t.tgisinternal AND a.key_column IS NOT NULL;
COMMENT ON VIEW visrec.attached IS
    'The attached tables and what each was attached with. functions_name is the table''s name in the names of its '
    'functions; it differs from the table''s after a rename, until visrec.attach is called again.';
GRANT SELECT ON visrec.attached TO PUBLIC;

CREATE FUNCTION visrec._attachment(relation regclass) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb;
BEGIN
    SELECT visrec._config(t.tgargs) INTO config FROM pg_trigger AS t
    WHERE t.tgrelid = relation AND t.tgname = 'visrec_insert' AND NOT t.tgisinternal;
    IF config IS NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('table "%s" is not attached', relation),
            HINT = format('SELECT visrec.attach(%L);', relation);
    END IF;
    RETURN config;
END
$$;
COMMENT ON FUNCTION visrec._attachment(regclass) IS 'The attachment of a table, or an error that it has none.';

CREATE FUNCTION visrec._check_owner(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT visrec._owns(relation) THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('must be owner of table "%s"', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_owner(regclass) IS 'An error unless the current role has the owner''s rights.';

CREATE FUNCTION visrec._columns_hint(relation regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('Columns: %s.', string_agg(a.attname, ', ' ORDER BY a.attnum)) FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION visrec._columns_hint(regclass) IS 'For errors that name a column which there is not: those there are.';

-- Where a vector comes from: 64 bits beside it, the upper half for the model's weights, the lower for the image.
-- These are asked for each row and so have no SET clause; every name in them is qualified.

CREATE FUNCTION visrec._hash(data bytea) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN ('x' OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.encode(pg_catalog.sha256(data), 'hex'), 1, 8))
        ::pg_catalog.bit(32)::pg_catalog.int8;
END
$$;
COMMENT ON FUNCTION visrec._hash(bytea) IS 'The first 32 bits of the SHA-256, from 0 to 2^32 - 1.';

CREATE FUNCTION visrec._weights(fingerprint text) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN visrec._hash(pg_catalog.convert_to(fingerprint, 'UTF8')) OPERATOR(pg_catalog.-) 2147483648;
END
$$;
COMMENT ON FUNCTION visrec._weights(text) IS 'What stands for a model''s weights: from -2^31 to 2^31 - 1.';

CREATE FUNCTION visrec._source(image text, weights bigint) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN (weights OPERATOR(pg_catalog.<<) 32)
        OPERATOR(pg_catalog.|) visrec._hash(pg_catalog.convert_to(image, 'UTF8'));
END
$$;
COMMENT ON FUNCTION visrec._source(text, bigint) IS 'What stands for a vector''s model and the path of its image.';

CREATE FUNCTION visrec._source(image bytea, weights bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    -- Not the whole picture: each look at a table would read all of it.
    size integer := pg_catalog.octet_length(image);
BEGIN
    RETURN (weights OPERATOR(pg_catalog.<<) 32) OPERATOR(pg_catalog.|) visrec._hash(pg_catalog.int4send(size)
        OPERATOR(pg_catalog.||) pg_catalog.substr(image, 1, 8192)
        OPERATOR(pg_catalog.||) pg_catalog.substr(image, GREATEST(1, size OPERATOR(pg_catalog.-) 8191)));
END
$$;
COMMENT ON FUNCTION visrec._source(bytea, bigint) IS
    'What stands for a vector''s model and its image: length, first and last 8 kB.';

CREATE FUNCTION visrec._key_text(key text, base_type oid) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.replace(CASE base_type
    WHEN 'timestamptz'::pg_catalog.regtype
        THEN $f$regexp_replace(to_jsonb($ AT TIME ZONE 'UTC') #>> '{}', '(\d)( BC)?\Z', '\1Z\2')$f$
    WHEN 'timestamp'::pg_catalog.regtype THEN $f$(to_jsonb($) #>> '{}')$f$
    WHEN 'date'::pg_catalog.regtype THEN $f$(to_jsonb($) #>> '{}')$f$
    ELSE '$::text' END, '$', key);
COMMENT ON FUNCTION visrec._key_text(text, oid) IS
    'The expression for a key as text: dates and times in ISO 8601, whatever DateStyle and TimeZone.';

CREATE FUNCTION visrec._base_type(type oid) RETURNS oid
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(nullif(t.typbasetype, 0), t.oid) FROM pg_type AS t WHERE t.oid = type
$$;
COMMENT ON FUNCTION visrec._base_type(oid) IS 'The type that a domain is over; any other type itself.';

-- Names of what attach makes. A name that would be longer than PostgreSQL allows is cut.

CREATE FUNCTION visrec._function_name(prefix text, table_name text, suffix text DEFAULT '') RETURNS name
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (prefix || left(table_name::name::text, n) || suffix)::name
    FROM generate_series(63, 1, -1) AS n
    WHERE octet_length(prefix || left(table_name::name::text, n) || suffix) <= 63
    ORDER BY n DESC LIMIT 1
$$;
COMMENT ON FUNCTION visrec._function_name(text, text, text) IS 'The name of a table''s function or index.';

CREATE FUNCTION visrec._depends_on_extension(class regclass, object oid) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
        WHERE d.classid = class AND d.objid = object AND d.objsubid = 0
          AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x' AND e.extname = 'visrec')
$$;
COMMENT ON FUNCTION visrec._depends_on_extension(regclass, oid) IS
    'Whether attach made an object: what it makes goes with DROP EXTENSION visrec.';

CREATE FUNCTION visrec._table_functions(schema text, table_name text) RETURNS SETOF regprocedure
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.oid::regprocedure
    FROM (VALUES ('visrec_embed_', ''), ('visrec_backfill_', ''), ('visrec_nearest_', ''), ('similar_', ''),
        ('search_', ''), ('search_', '_by_image'), ('recommend_', ''), ('recommend_', '_weighted'),
        ('recommend_', '_for')) AS f (prefix, suffix)
    JOIN pg_proc AS p ON p.proname = visrec._function_name(f.prefix, table_name, f.suffix)
    JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = schema AND visrec._depends_on_extension('pg_proc', p.oid)
$$;
COMMENT ON FUNCTION visrec._table_functions(text, text) IS 'The functions that attach made for a table of this name.';

CREATE FUNCTION visrec._names(relation oid, config jsonb,
    OUT "table" text, OUT key text, OUT key_type text, OUT equals text, OUT greater text,
    OUT image text, OUT image_type text, OUT vector text, OUT vector_type text, OUT vector_schema text,
    OUT key_text text, OUT source text, OUT source_value text, OUT stale text, OUT unembedded text)
-- Every INSERT asks, so it is planned once a session; in small statements, whose plans take little of its memory.
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET join_collapse_limit = 1 AS $$
DECLARE
    part record;
    key_number smallint;
    image_base oid;
BEGIN
    FOR part IN
        SELECT a.attname, a.attnum, a.atttypid, a.atttypmod, quote_ident(a.attname) AS name, t.typnamespace,
               coalesce(nullif(t.typbasetype, 0), t.oid) AS base
        FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attname IN (config ->> 'key_column',
            config ->> 'image_column', config ->> 'vector_column', config ->> 'source_column')
    LOOP
        CASE part.attname
            WHEN config ->> 'key_column' THEN
                key := part.name;
                key_number := part.attnum;
                key_type := format_type(part.atttypid, -1);
                key_text := visrec._key_text('t.' || part.name, part.base);
            WHEN config ->> 'image_column' THEN
                image := part.name;
                image_type := format_type(part.atttypid, part.atttypmod);
                image_base := part.base;
            WHEN config ->> 'vector_column' THEN
                vector := part.name;
                vector_type := format_type(part.atttypid, part.atttypmod);
                vector_schema := part.typnamespace::regnamespace;
            ELSE source := part.name;
        END CASE;
    END LOOP;
    SELECT min(format('OPERATOR(%s.%s)', p.oprnamespace::regnamespace, p.oprname)) FILTER (WHERE o.amopstrategy = 3),
           min(format('OPERATOR(%s.%s)', p.oprnamespace::regnamespace, p.oprname)) FILTER (WHERE o.amopstrategy = 5)
    INTO equals, greater
    FROM pg_index AS x
    JOIN pg_opclass AS c ON c.oid = x.indclass[0]
    JOIN pg_amop AS o ON o.amopfamily = c.opcfamily AND o.amopstrategy IN (3, 5)
        AND o.amoplefttype = c.opcintype AND o.amoprighttype = c.opcintype
    JOIN pg_operator AS p ON p.oid = o.amopopr
    WHERE x.indrelid = relation AND x.indisprimary AND x.indkey[0] = key_number;
    IF num_nulls(key, image, vector, equals) > 0 THEN
        RETURN;     -- without a table: one of its columns is gone
    END IF;
    "table" := relation::regclass;
    source_value := format('visrec._source(t.%s::%s, %s)', image,
        CASE image_base WHEN 'bytea'::regtype THEN 'bytea' ELSE 'text' END, visrec._weights(config ->> 'fingerprint'));
    -- A vector without a source is its owner's word: not looked into.
    stale := CASE WHEN source IS NULL THEN 'false' ELSE format(
        '(t.%1$s IS NOT NULL AND t.%2$s IS NOT NULL AND t.%2$s IS DISTINCT FROM %3$s)', vector, source, source_value) END;
    unembedded := format('(t.%s IS NULL OR %s)', vector, stale);
END
$$;
COMMENT ON FUNCTION visrec._names(oid, jsonb) IS
    'An attached table''s names, quoted for use in a statement, and what is asked of its rows (t): key_text, the key as '
    'text; source, the column that says what a vector was made of, NULL in tables attached before 0.2.0; source_value, '
    'what it should say; stale and unembedded, conditions. The key''s operators are those of its primary key''s index, '
    'so that every type of key compares as it does there.';
