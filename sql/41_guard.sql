-- Whose code a table would run: what its owner has to fear of strangers, and who acts for the owner of the owner. Where that is
-- too much, nothing is written, or the table is not attached.

CREATE FUNCTION visrec._schema_owner(schema oid) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN n.nspowner = 'pg_database_owner'::regrole
        THEN (SELECT d.datdba FROM pg_database AS d WHERE d.datname = current_database()) ELSE n.nspowner END
    FROM pg_namespace AS n WHERE n.oid = schema
$$;
COMMENT ON FUNCTION visrec._schema_owner(oid) IS
    'A schema''s owner; the database''s, where it is the role that stands for that.';

CREATE FUNCTION visrec._lock_schemas(a visrec.attachment) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A name is a key: whoever renames waits; a new owner or other grants do not. Superusers are trusted with theirs, and a
    -- stranger's is no schema to be in: visrec._strangers_schema.
    PERFORM FROM pg_namespace AS n JOIN pg_roles AS r ON r.oid = visrec._schema_owner(n.oid) AND NOT r.rolsuper
        AND pg_has_role(r.oid, (SELECT c.relowner FROM pg_class AS c WHERE c.oid = a.relation), 'MEMBER')
    WHERE n.oid IN (
        SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = a.relation
        UNION ALL SELECT t.typnamespace FROM pg_type AS t WHERE t.oid = a.types[1]
        UNION ALL SELECT e.extnamespace FROM pg_extension AS e WHERE e.extname = 'vector')
    ORDER BY n.oid FOR KEY SHARE OF n;
END
$$;
COMMENT ON FUNCTION visrec._lock_schemas(visrec.attachment) IS
    'Lets nobody rename the schemas of an attached table, its key''s type and pgvector until the transaction ends; waits for who does. '
    'Rows of a catalog are locked by superusers alone.';

CREATE FUNCTION visrec._hold_schemas(attachment integer) RETURNS void
-- As the extension's owner, for members of a table's owner.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a visrec.attachment := (SELECT r FROM visrec.attachment AS r WHERE r.id = attachment);
    caller CONSTANT name := coalesce(nullif(current_setting('role'), 'none'), session_user);
BEGIN
    IF NOT pg_has_role(caller, (SELECT c.relowner FROM pg_class AS c WHERE c.oid = a.relation), 'MEMBER') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('must be owner of table "%s"', visrec._label(a.relation)),
            DETAIL = format('It is asked of role "%s", whatever function calls.', caller);
    END IF;
    PERFORM visrec._lock_schemas(a);
END
$$;
COMMENT ON FUNCTION visrec._hold_schemas(integer) IS
    'visrec._lock_schemas, in the sessions of who has the rights of the table''s owner.';
REVOKE ALL ON FUNCTION visrec._hold_schemas(integer) FROM PUBLIC;

CREATE FUNCTION visrec._raise_owners_code(a visrec.attachment, writes boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner CONSTANT oid := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = a.relation);
    found text;
    locked text;
BEGIN
    IF visrec._trusted(owner) THEN      -- a superuser's, or of who may become the caller anyway
        RETURN;
    END IF;
    -- Nothing more comes to the table, partitions included, and nothing else gets its name, until the transaction ends.
    IF (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        PERFORM visrec._lock_schemas(a);
    ELSE
        PERFORM visrec._hold_schemas(a.id);
    END IF;
    locked := a.relation;
    EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', locked);
    -- While this waited for the lock, the table may have changed.
    IF to_regclass(locked) IS DISTINCT FROM a.relation OR a IS DISTINCT FROM (SELECT r FROM visrec.attachment AS r WHERE r.id = a.id) THEN
        RAISE object_in_use USING MESSAGE = format('table "%s" is being changed', visrec._label(a.relation));
    END IF;
    found := visrec._other_code(a) || ' may run more than PostgreSQL''s own code';
    found := coalesce(found, visrec._strangers_schema(a.relation, a.types[1]));
    IF found IS NOT NULL THEN
        RAISE insufficient_privilege USING
            MESSAGE = format(CASE WHEN writes THEN 'to write vectors of table "%s" could run code of others in this session'
                ELSE 'to read table "%s" could run code of others in a session with open cursors' END, visrec._label(a.relation)),
            DETAIL = upper(left(found, 1)) || substr(found, 2) || '.',
            HINT = CASE WHEN writes THEN 'Let the owner of the table make this call.'
                ELSE 'Close the cursors (a loop over a query has one, too), or let the owner of the table make this call.' END;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._raise_owners_code(visrec.attachment, boolean) IS
    'Raises an error where reading or writing to the table of an owner whom the caller need not trust could run code of anybody''s: '
    'it would run as the owner, but what it left in the session would be the caller''s, and the session''s cursors could be read.';

CREATE FUNCTION visrec._trusted(role oid) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN role <> 0 AND (pg_has_role(role, current_user, 'MEMBER') OR (SELECT r.rolsuper FROM pg_roles AS r WHERE r.oid = role));
END
$$;
COMMENT ON FUNCTION visrec._trusted(oid) IS
    'Whether the current role, a table''s owner, has nothing to fear of a role (0: PUBLIC): a superuser, or who may become the owner.';

CREATE FUNCTION visrec._key_is_written(relation oid, numbers smallint[]) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_attribute AS f WHERE f.attrelid = relation AND f.attnum = ANY (_key_is_written.numbers) AND f.attgenerated <> '')
        OR EXISTS (SELECT FROM visrec.attachment AS a WHERE a.relation = _key_is_written.relation AND a.numbers[3:4] && _key_is_written.numbers);
END
$$;
COMMENT ON FUNCTION visrec._key_is_written(oid, smallint[]) IS
    'Whether the write of a vector may change one of these columns of its row: it is generated, or visrec''s.';

CREATE FUNCTION visrec._has_code(relation oid, key_type oid) RETURNS boolean
-- Asked at every INSERT: few rows of large catalogs, by their indexes, and planned once a session.
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
    class pg_class;
BEGIN
    SELECT c.* INTO class FROM pg_class AS c WHERE c.oid = relation;
    RETURN key_type >= 10000 OR class.relkind = 'p' OR class.relispartition OR class.relforcerowsecurity OR class.relhasrules
        OR EXISTS (SELECT FROM pg_trigger AS t JOIN pg_constraint AS c ON c.oid = t.tgconstraint AND c.contype = 'f' AND c.confrelid = relation
                   WHERE t.tgrelid = relation AND t.tgisinternal AND visrec._key_is_written(relation, c.confkey))
        OR EXISTS (SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid AND p.pronamespace <> 'visrec'::regnamespace
                   WHERE t.tgrelid = relation AND NOT t.tgisinternal)
        OR EXISTS (SELECT FROM pg_trigger AS t JOIN pg_depend AS d ON d.classid = 'pg_trigger'::regclass AND d.objid = t.oid
                       AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass) AND d.refobjid <> t.tgfoid
                   WHERE t.tgrelid = relation AND t.tgqual IS NOT NULL)
        OR EXISTS (SELECT FROM pg_constraint AS c WHERE c.conrelid = relation AND c.contype = 'c')
        OR EXISTS (SELECT FROM pg_statistic_ext AS s WHERE s.stxrelid = relation AND s.stxexprs IS NOT NULL)
        OR EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attgenerated <> '')
        OR EXISTS (SELECT FROM pg_index AS x JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
                       AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
                   WHERE x.indrelid = relation AND (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL))
        OR EXISTS (SELECT FROM pg_index AS x JOIN pg_attribute AS f ON f.attrelid = x.indexrelid AND f.attnum > 0 AND f.atttypid >= 10000
                   JOIN pg_type AS t ON t.oid = f.atttypid AND (t.typtype NOT IN ('b', 'e') OR t.typcategory = 'A')
                   WHERE x.indrelid = relation);
END
$$;
COMMENT ON FUNCTION visrec._has_code(oid, oid) IS
    'Whether reading the table, or the write of a vector, may run code that is neither PostgreSQL''s nor visrec''s. Most tables have none.';

CREATE FUNCTION visrec._strangers_code(relation oid, key_type oid, writes boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
    tables oid[] := ARRAY[relation];
BEGIN
    IF EXISTS (SELECT FROM pg_class AS c WHERE c.oid = relation AND c.relkind = 'p') THEN
        tables := ARRAY(SELECT p.relid FROM pg_partition_tree(relation) AS p);
    END IF;
    RETURN (
        WITH RECURSIVE reached (class, object, what) AS (
            SELECT 'pg_type'::regclass::oid, key_type, 'the key' WHERE key_type >= 10000
            UNION SELECT c.class, c.object, c.what FROM (
                SELECT 'pg_trigger'::regclass, t.oid, format('trigger "%s"', t.tgname) FROM pg_trigger AS t
                JOIN pg_proc AS p ON p.oid = t.tgfoid AND (p.pronamespace <> 'visrec'::regnamespace OR t.tgqual IS NOT NULL)
                WHERE writes AND t.tgrelid = ANY (tables) AND NOT t.tgisinternal
                UNION ALL SELECT 'pg_constraint', c.oid, format('constraint "%s"', c.conname) FROM pg_constraint AS c
                WHERE c.conrelid = ANY (tables) AND c.contype = 'c'
                UNION ALL SELECT 'pg_attrdef', d.oid, format('generated column "%s"', a.attname) FROM pg_attrdef AS d
                JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated <> ''
                WHERE writes AND d.adrelid = ANY (tables)
                -- Of these the planner computes what does not depend on a row, whatever the statement.
                UNION ALL SELECT 'pg_class', x.indexrelid, format('index "%s"', x.indexrelid::regclass) FROM pg_index AS x
                WHERE x.indrelid = ANY (tables) AND (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL)
                UNION ALL SELECT 'pg_statistic_ext', s.oid, format('statistics "%s"', s.stxname) FROM pg_statistic_ext AS s
                WHERE s.stxrelid = ANY (tables) AND s.stxexprs IS NOT NULL
                UNION ALL SELECT 'pg_type', f.atttypid, format('index "%s"', x.indexrelid::regclass) FROM pg_index AS x
                JOIN pg_attribute AS f ON f.attrelid = x.indexrelid AND f.attnum > 0 AND f.atttypid >= 10000
                WHERE writes AND x.indrelid = ANY (tables)
                UNION ALL SELECT 'pg_rewrite', r.oid, format('rule "%s"', r.rulename) FROM pg_rewrite AS r
                WHERE writes AND r.ev_class = ANY (tables)
                UNION ALL SELECT 'pg_policy', p.oid, format('policy "%s"', p.polname) FROM pg_policy AS p
                JOIN pg_class AS c ON c.oid = p.polrelid AND c.relforcerowsecurity WHERE p.polrelid = ANY (tables)
                UNION ALL SELECT 'pg_class', c.oid, format('partition "%s"', c.relname) FROM pg_class AS c
                WHERE writes AND c.oid = ANY (tables) AND c.oid <> relation
                UNION ALL SELECT d.refclassid, d.refobjid, format('partition key of table "%s"', k.partrelid::regclass)
                FROM pg_partitioned_table AS k JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = k.partrelid AND d.objsubid = 0
                    AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
                WHERE k.partexprs IS NOT NULL
                  AND k.partrelid IN (SELECT r.oid FROM unnest(tables) AS r (oid) UNION SELECT n.relid FROM pg_partition_ancestors(relation) AS n)
            ) AS c (class, object, what)
            -- What these are made of: what PostgreSQL comes with is not in pg_depend, and belongs to a superuser.
            UNION SELECT n.class, n.object, r.what
            FROM reached AS r CROSS JOIN LATERAL (
                SELECT d.refclassid, d.refobjid FROM pg_depend AS d
                WHERE d.classid = r.class AND d.objid = r.object AND d.refobjid <> ALL (tables)
                  AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass, 'pg_class'::regclass)
                UNION ALL SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint AS c
                WHERE r.class = 'pg_type'::regclass AND c.contypid = r.object
                UNION ALL SELECT 'pg_rewrite'::regclass, w.oid FROM pg_rewrite AS w
                WHERE r.class = 'pg_class'::regclass AND w.ev_class = r.object
            ) AS n (class, object)
            WHERE r.class <> 'pg_class'::regclass OR r.object <> ALL (tables)
        ), owned (what, owner) AS (
            SELECT r.what, coalesce(p.proowner, o.oprowner, t.typowner, c.relowner) FROM reached AS r
            LEFT JOIN pg_proc AS p ON r.class = 'pg_proc'::regclass AND p.oid = r.object
            LEFT JOIN pg_operator AS o ON r.class = 'pg_operator'::regclass AND o.oid = r.object
            LEFT JOIN pg_type AS t ON r.class = 'pg_type'::regclass AND t.oid = r.object
            LEFT JOIN pg_class AS c ON r.class = 'pg_class'::regclass AND c.oid = r.object
            -- Who may make triggers on a partition may have made those that it came with.
            UNION ALL SELECT format('trigger "%s"', t.tgname), a.grantee
            FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid CROSS JOIN aclexplode(c.relacl) AS a
            WHERE writes AND t.tgrelid = ANY (tables) AND t.tgrelid <> relation AND t.tgparentid = 0 AND NOT t.tgisinternal
              AND a.privilege_type = 'TRIGGER'
            -- A generated key is computed anew, and changed in the other table.
            UNION ALL SELECT format('foreign key "%s"', f.conname), c.relowner
            FROM pg_trigger AS t JOIN pg_constraint AS f ON f.oid = t.tgconstraint AND f.contype = 'f' AND f.confrelid = t.tgrelid
            JOIN pg_class AS c ON c.oid = f.conrelid
            WHERE writes AND t.tgrelid = ANY (tables) AND visrec._key_is_written(t.tgrelid, f.confkey)
        )
        SELECT format('%s depends on role "%s"', w.what, coalesce(r.rolname, 'public'))
        FROM owned AS w LEFT JOIN pg_roles AS r ON r.oid = w.owner
        WHERE w.owner IS NOT NULL AND NOT visrec._trusted(w.owner) LIMIT 1);
END
$$;
COMMENT ON FUNCTION visrec._strangers_code(oid, oid, boolean) IS
    'What of the table would run code of a role that the current role, the table''s owner, does not trust, if the owner read the '
    'table (or wrote a vector to it: writes), as far as PostgreSQL records what depends on what. NULL if nothing would.';

CREATE FUNCTION visrec._strangers_schema(relation oid, key_type oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    RETURN (
        SELECT format('schema "%s" belongs to role "%s"', n.nspname, pg_get_userbyid(o.owner))
        FROM (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = relation
              UNION SELECT e.extnamespace FROM pg_extension AS e WHERE e.extname = 'vector'
              UNION SELECT t.typnamespace FROM pg_type AS t WHERE t.oid = key_type AND key_type >= 10000) AS s (oid)
        JOIN pg_namespace AS n ON n.oid = s.oid
        CROSS JOIN LATERAL (SELECT visrec._schema_owner(n.oid) AS owner) AS o
        WHERE o.owner <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = relation) AND NOT visrec._trusted(o.owner) LIMIT 1);
END
$$;
COMMENT ON FUNCTION visrec._strangers_schema(oid, oid) IS
    'A schema that the names of an attached table, of its key''s type and of pgvector are made of, whose owner is neither the '
    'table''s nor trusted by the current role: between one statement and the next that role could give the name to something else. NULL if none.';

CREATE FUNCTION visrec._raise_strangers_code(relation oid, key_type oid, writes boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found text := CASE WHEN visrec._has_code(relation, key_type) THEN visrec._strangers_code(relation, key_type, writes) END;
    schema text := visrec._strangers_schema(relation, key_type);
BEGIN
    IF schema IS NOT NULL THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('table "%s" is known by names that a stranger could give to something else', visrec._label(relation)),
            DETAIL = upper(left(schema, 1)) || substr(schema, 2) || '.',
            HINT = visrec._schema_hint();
    ELSIF found IS NOT NULL THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('table "%s" would run code of a stranger as its owner', visrec._label(relation)),
            DETAIL = upper(left(found, 1)) || substr(found, 2) || '.',
            HINT = 'Drop it, or give what it calls to the table''s owner.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._raise_strangers_code(oid, oid, boolean) IS 'Raises an error for what visrec._strangers_code finds.';

CREATE FUNCTION visrec._schema_hint() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN 'Give the schema to the table''s owner or to a superuser, or make its owner a member of the table''s owner.'::pg_catalog.text;
COMMENT ON FUNCTION visrec._schema_hint() IS 'What to do about what visrec._strangers_schema finds.';

CREATE FUNCTION visrec._strangers_temporary() RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN pg_my_temp_schema() <> 0 AND EXISTS (
        SELECT FROM pg_type AS t WHERE t.typnamespace = pg_my_temp_schema() AND NOT visrec._trusted(t.typowner)
        UNION ALL SELECT FROM pg_class AS c WHERE c.relnamespace = pg_my_temp_schema() AND NOT visrec._trusted(c.relowner));
END
$$;
COMMENT ON FUNCTION visrec._strangers_temporary() IS
    'Whether code of the current role, a table''s owner, could find a temporary table or sequence of somebody else''s under a name that it '
    'does not qualify: PostgreSQL looks there whatever the search_path.';
