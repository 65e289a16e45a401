-- What an administrator may set off by writing to a table of somebody whom it need not trust: nothing but what is known to run no
-- code of anybody's. A list of what is dangerous would always lack something: functions that run text (query_to_xml), foreign keys
-- that write to other tables, casts, domains, partition keys.

CREATE FUNCTION visrec._harmless_type(type oid) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t pg_type;
BEGIN
    SELECT p.* INTO t FROM pg_type AS p WHERE p.oid = type;
    RETURN CASE
        WHEN t.typtype = 'd' THEN visrec._harmless_type(t.typbasetype) AND NOT EXISTS (
            SELECT FROM pg_constraint AS c WHERE c.contypid = type AND c.contype = 'c' AND NOT visrec._harmless_expression(c.conbin::text))
        WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN visrec._harmless_type(t.typelem)
        WHEN t.typtype IN ('b', 'e') THEN true         -- only superusers make base types
        ELSE type < 16384 AND (t.typtype IN ('r', 'm') OR type = 'record'::regtype) END;
END
$$;
COMMENT ON FUNCTION visrec._harmless_type(oid) IS
    'Whether to compare, index and print values of a type runs no code but PostgreSQL''s and superusers''.';

CREATE FUNCTION visrec._harmless_function(function oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
        WHERE p.oid = function AND (
            -- Those that run text, or read tables, are volatile or stable.
            l.lanname = 'internal' AND p.oid < 16384 AND (p.provolatile = 'i'
                OR p.provolatile = 's' AND p.proname ~ '^(now|current_setting|(date|timestamp|timestamptz)(_(lt|le|eq|gt|ge|ne|cmp|pl|mi)_(date|timestamp|timestamptz|interval))?)$')
            OR l.lanname = 'c' AND EXISTS (SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
                WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_extension'::regclass
                  AND d.deptype = 'e' AND e.extname = 'vector')
            -- What visrec.reduce made: schema visrec is closed to others.
            OR p.pronamespace = 'visrec'::regnamespace AND p.proname ~ '^_project_[0-9]+_[0-9]+$'))
$$;
COMMENT ON FUNCTION visrec._harmless_function(oid) IS
    'Whether a function computes, and does nothing else: PostgreSQL''s immutable ones, some others, and pgvector''s.';

CREATE FUNCTION visrec._harmless_expression(tree text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Strings are written as numbers of bytes, so that braces and fields are those of the tree.
    SELECT NOT EXISTS (
            SELECT FROM regexp_matches(tree, '[{]([A-Z_]+)', 'g') AS n (node)
            WHERE n.node[1] <> ALL ('{VAR,CONST,FUNCEXPR,OPEXPR,DISTINCTEXPR,NULLIFEXPR,SCALARARRAYOPEXPR,BOOLEXPR,NULLTEST,BOOLEANTEST,RELABELTYPE,'
                'CASE,CASEEXPR,WHEN,CASEWHEN,CASETESTEXPR,COALESCE,COALESCEEXPR,COLLATE,COLLATEEXPR,MINMAX,MINMAXEXPR,ARRAY,ARRAYEXPR,SUBSCRIPTINGREF,COERCEVIAIO,'
                'SQLVALUEFUNCTION,COERCETODOMAINVALUE,ROW,ROWEXPR}'::text[]))
        AND NOT EXISTS (SELECT FROM regexp_matches(tree, ':funcid ([0-9]+)', 'g') AS f (parts) WHERE NOT visrec._harmless_function(f.parts[1]::oid))
        AND NOT EXISTS (SELECT FROM regexp_matches(tree, ':opno ([0-9]+)', 'g') AS o (parts)
            WHERE NOT coalesce((SELECT visrec._harmless_function(p.oprcode) FROM pg_operator AS p WHERE p.oid = o.parts[1]::oid), false))
        AND NOT EXISTS (SELECT FROM regexp_matches(tree, ':[[:alnum:]_]*type(id)? ([0-9]+)', 'g') AS t (parts)    -- small numbers are of an enum
            WHERE t.parts[2]::oid >= 16 AND NOT visrec._harmless_type(t.parts[2]::oid))
$$;
COMMENT ON FUNCTION visrec._harmless_expression(text) IS
    'Whether an expression, or a list of them, as the catalogs keep it (pg_node_tree), computes and does nothing else.';

CREATE FUNCTION visrec._other_code(a visrec.attachment) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tables CONSTANT oid[] := ARRAY(SELECT a.relation::oid UNION SELECT p.relid FROM pg_partition_tree(a.relation) AS p);
BEGIN
    RETURN (SELECT f.found FROM (
        SELECT format('trigger "%s"', t.tgname) FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
        WHERE t.tgrelid = ANY (tables) AND NOT t.tgisinternal
          AND (p.pronamespace <> 'visrec'::regnamespace OR NOT visrec._harmless_expression(t.tgqual::text))
        UNION ALL SELECT format('rule "%s"', r.rulename) FROM pg_rewrite AS r WHERE r.ev_class = ANY (tables)
        UNION ALL SELECT format('policy "%s"', p.polname) FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid AND c.relforcerowsecurity
        WHERE p.polrelid = ANY (tables) AND NOT visrec._harmless_expression(concat(p.polqual, p.polwithcheck))
        UNION ALL SELECT format('partition "%s"', c.relname) FROM pg_class AS c WHERE c.oid = ANY (tables) AND c.relkind NOT IN ('r', 'p')
        UNION ALL SELECT format('constraint "%s"', c.conname) FROM pg_constraint AS c
        WHERE c.conrelid = ANY (tables) AND c.contype = 'c' AND NOT visrec._harmless_expression(c.conbin::text)
        UNION ALL SELECT format('generated column "%s"', f.attname) FROM pg_attrdef AS d
        JOIN pg_attribute AS f ON f.attrelid = d.adrelid AND f.attnum = d.adnum AND f.attgenerated <> ''
        WHERE d.adrelid = ANY (tables) AND NOT visrec._harmless_expression(d.adbin::text)
        UNION ALL SELECT format('index "%s"', c.relname) FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid
        WHERE x.indrelid = ANY (tables) AND NOT (
            visrec._harmless_expression(concat(x.indexprs, x.indpred)) AND NOT EXISTS (
                SELECT FROM pg_attribute AS f WHERE f.attrelid = x.indexrelid AND f.attnum > 0 AND NOT visrec._harmless_type(f.atttypid)))
        -- Of these, and of the others, the planner computes what does not depend on a row.
        UNION ALL SELECT format('statistics "%s"', s.stxname) FROM pg_statistic_ext AS s
        WHERE s.stxrelid = ANY (tables) AND NOT visrec._harmless_expression(s.stxexprs::text)
        UNION ALL SELECT format('partition key of table "%s"', p.partrelid::regclass) FROM pg_partitioned_table AS p
        WHERE p.partrelid IN (SELECT t.oid FROM unnest(tables) AS t (oid) UNION SELECT n.relid FROM pg_partition_ancestors(a.relation) AS n)
          AND NOT visrec._harmless_expression(p.partexprs::text)
        -- What is computed anew, and changed in the other table.
        UNION ALL SELECT format('foreign key "%s" of table "%s"', c.conname, c.conrelid::regclass) FROM pg_constraint AS c
        WHERE c.contype = 'f' AND c.confrelid = ANY (tables) AND visrec._key_is_written(c.confrelid, c.confkey)
        -- To compare its values, they are cast to the other table's type.
        UNION ALL SELECT format('foreign key "%s"', c.conname) FROM pg_constraint AS c
        CROSS JOIN unnest(c.conkey, c.confkey) AS k (here, there)
        JOIN pg_attribute AS h ON h.attrelid = c.conrelid AND h.attnum = k.here
        JOIN pg_attribute AS t ON t.attrelid = c.confrelid AND t.attnum = k.there
        WHERE c.contype = 'f' AND c.conrelid = ANY (tables) AND (visrec._key_is_written(c.conrelid, c.conkey)
            OR h.atttypid <> t.atttypid AND (SELECT y.typtype <> 'b' OR y.typcategory = 'A' FROM pg_type AS y WHERE y.oid = h.atttypid)
            OR NOT visrec._harmless_type(h.atttypid))
        UNION ALL SELECT format('type of column "%s"', a.columns[k.n]) FROM unnest(a.types[1:2]) WITH ORDINALITY AS k (type, n)
        JOIN pg_type AS t ON t.oid = k.type
        WHERE NOT visrec._harmless_type(k.type) OR k.n = 1 AND NOT visrec._trusted(t.typowner)      -- who could give its name to another
    ) AS f (found) LIMIT 1);
END
$$;
COMMENT ON FUNCTION visrec._other_code(visrec.attachment) IS
    'What of the table could run code of the owner''s, or of others, if it were read or a vector written to it; NULL if nothing could.';
