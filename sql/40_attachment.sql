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
     pg_catalog.jsonb_to_record(visrec._config(t.tgargs)) AS a (
         key_column name, image_column name, vector_column name, model text, fingerprint text,
         mode text, on_error text, show_columns name[], functions_schema name, functions_name name)
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

CREATE FUNCTION visrec._made_functions(schema name, name name) RETURNS SETOF regprocedure
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.oid::regprocedure FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = schema AND p.proname = name
      AND visrec._depends_on_extension('pg_proc', p.oid)
$$;
COMMENT ON FUNCTION visrec._made_functions(name, name) IS 'The functions of this name that attach made.';

CREATE FUNCTION visrec._names(relation oid, config jsonb,
    OUT "table" text, OUT key text, OUT key_type text, OUT equals text, OUT greater text,
    OUT image text, OUT image_type text, OUT vector text, OUT vector_type text, OUT vector_schema text)
-- Every INSERT asks, so it is planned once a session, and in the order written: planning costs 4 ms, not running.
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET join_collapse_limit = 1 AS $$
BEGIN
    SELECT format('%I.%I', n.nspname, c.relname), quote_ident(k.attname), format_type(k.atttypid, NULL),
           format('OPERATOR(%I.%s)', eqn.nspname, eqo.oprname), format('OPERATOR(%I.%s)', gtn.nspname, gto.oprname),
           quote_ident(i.attname), format_type(i.atttypid, i.atttypmod),
           quote_ident(v.attname), format_type(v.atttypid, v.atttypmod), quote_ident(vn.nspname)
    INTO "table", key, key_type, equals, greater, image, image_type, vector, vector_type, vector_schema
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS k ON k.attrelid = c.oid AND k.attname = config ->> 'key_column' AND k.attnum > 0
    JOIN pg_attribute AS i ON i.attrelid = c.oid AND i.attname = config ->> 'image_column' AND i.attnum > 0
    JOIN pg_attribute AS v ON v.attrelid = c.oid AND v.attname = config ->> 'vector_column' AND v.attnum > 0
    JOIN pg_type AS vt ON vt.oid = v.atttypid
    JOIN pg_namespace AS vn ON vn.oid = vt.typnamespace
    JOIN pg_index AS x ON x.indrelid = c.oid AND x.indisprimary AND x.indkey[0] = k.attnum
    JOIN pg_opclass AS o ON o.oid = x.indclass[0]
    JOIN pg_amop AS eq ON eq.amopfamily = o.opcfamily AND eq.amopstrategy = 3
        AND eq.amoplefttype = o.opcintype AND eq.amoprighttype = o.opcintype
    JOIN pg_operator AS eqo ON eqo.oid = eq.amopopr
    JOIN pg_namespace AS eqn ON eqn.oid = eqo.oprnamespace
    JOIN pg_amop AS gt ON gt.amopfamily = o.opcfamily AND gt.amopstrategy = 5
        AND gt.amoplefttype = o.opcintype AND gt.amoprighttype = o.opcintype
    JOIN pg_operator AS gto ON gto.oid = gt.amopopr
    JOIN pg_namespace AS gtn ON gtn.oid = gto.oprnamespace
    WHERE c.oid = relation;
END
$$;
COMMENT ON FUNCTION visrec._names(oid, jsonb) IS
    'An attached table''s names, quoted for use in a statement. The key''s operators are those of its primary key''s '
    'index, so that every type of key compares as it does there.';
