-- What a table's owner's code could leave behind in the session of an administrator who has something done on the table:
-- it runs as the owner, but what waits for the transaction's end, or for the next statement, would run as the administrator.
-- What only reads is done in a block that ends with an error, so that nothing of it stays (42_as_owner.sql); all but prepared
-- statements, which no error undoes. What writes is compared with what was there before.

CREATE FUNCTION visrec._prepared_statements() RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT coalesce(jsonb_object_agg(p.name, p.prepare_time), '{}') FROM pg_prepared_statements AS p);
END
$$;
COMMENT ON FUNCTION visrec._prepared_statements() IS
    'The session''s prepared statements, and when they were prepared, by which one tells them from others of their names.';

CREATE FUNCTION visrec._check_before(relation oid, writes boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The time of each is that of the client's message it came in.
    IF EXISTS (SELECT FROM pg_prepared_statements AS p WHERE p.prepare_time = statement_timestamp()) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('cannot act for the owner of table "%s" in the message that prepares a statement', visrec._label(relation)),
            HINT = 'Send PREPARE by itself.';
    ELSIF visrec._other_connections() THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('cannot act for the owner of table "%s" in a session with connections of dblink', visrec._label(relation)),
            DETAIL = 'Code of the owner could use them.',
            HINT = 'SELECT dblink_disconnect(…);';
    ELSIF writes AND current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        -- What the owner's code could leave would not be seen.
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('cannot act for the owner of table "%s" in a %s transaction', visrec._label(relation),
                upper(current_setting('transaction_isolation'))),
            HINT = 'Call it in a READ COMMITTED transaction, or let the owner of the table make this call.';
    ELSIF writes AND current_setting('track_counts') = 'off' AND current_setting('server_version_num')::integer < 180000 THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('cannot act for the owner of table "%s" while track_counts is off', visrec._label(relation)),
            DETAIL = 'Deferred triggers of the owner would run with your rights, and could not be seen.',
            HINT = 'Turn it on, or let the owner of the table make this call.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_before(oid, boolean) IS
    'Raises an error where it could not be seen, afterwards, what a table''s owner''s code left in the session.';

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
    -- A name is a key: whoever renames waits; a new owner or other grants do not. Superusers are trusted with theirs.
    PERFORM FROM pg_namespace AS n JOIN pg_roles AS r ON r.oid = visrec._schema_owner(n.oid) AND NOT r.rolsuper
    WHERE n.oid IN (
        SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = a.relation
        UNION ALL SELECT t.typnamespace FROM pg_type AS t WHERE t.oid = ANY (a.types)
        UNION ALL SELECT e.extnamespace FROM pg_extension AS e WHERE e.extname = 'vector')
    ORDER BY n.oid FOR KEY SHARE OF n;
END
$$;
COMMENT ON FUNCTION visrec._lock_schemas(visrec.attachment) IS
    'Lets nobody rename the schemas of an attached table, its types and pgvector until the transaction ends; waits for who does. '
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

CREATE FUNCTION visrec._raise_owners_code(a visrec.attachment) RETURNS void
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
    IF to_regclass(locked) IS DISTINCT FROM a.relation THEN
        RAISE object_in_use USING MESSAGE = format('table "%s" is being renamed', visrec._label(a.relation));
    END IF;
    found := visrec._other_code(a) || ' may run more than PostgreSQL''s own code';
    found := coalesce(found, visrec._strangers_schema(a.relation, a.types[1]));
    IF found IS NOT NULL THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('to write vectors of table "%s" could run code of others in this session', visrec._label(a.relation)),
            DETAIL = upper(left(found, 1)) || substr(found, 2) || '.',
            HINT = 'Let the owner of the table make this call.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._raise_owners_code(visrec.attachment) IS
    'Raises an error where writing to the table of an owner whom the caller need not trust could run code of anybody''s: it would '
    'run as the owner, but what it left in the session would be the caller''s.';

CREATE FUNCTION visrec._session_state(written oid) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tables CONSTANT oid[] := ARRAY(SELECT written UNION SELECT p.relid FROM pg_partition_tree(written) AS p);
BEGIN
    RETURN jsonb_build_object(
        'settings', (SELECT jsonb_object_agg(s.name, s.setting) FROM pg_settings AS s
                     WHERE s.context = 'user' AND s.source = 'session' AND s.name <> 'search_path'),
        'cursors', (SELECT jsonb_object_agg(c.name, c.creation_time) FROM pg_cursors AS c),
        'prepared statements', visrec._prepared_statements(),
        'temporary objects', (SELECT jsonb_agg(o.oid ORDER BY o.oid) FROM (
            SELECT c.oid FROM pg_class AS c WHERE c.relnamespace = pg_my_temp_schema()
            UNION ALL SELECT t.oid FROM pg_type AS t WHERE t.typnamespace = pg_my_temp_schema()
            UNION ALL SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = pg_my_temp_schema()
            UNION ALL SELECT p.oid FROM pg_operator AS p WHERE p.oprnamespace = pg_my_temp_schema()) AS o),
        -- Since PostgreSQL 18 they run as the role that caused them. Those of constraints may have expressions, and casts.
        'deferred triggers', CASE WHEN current_setting('server_version_num')::integer < 180000 THEN (
            -- Of each table: a sum would not show that one went while another came.
            SELECT jsonb_object_agg(r.relation, r.written) FROM (
                SELECT t.tgrelid AS relation, max(pg_stat_get_xact_tuples_inserted(t.tgrelid)
                    + pg_stat_get_xact_tuples_updated(t.tgrelid) + pg_stat_get_xact_tuples_deleted(t.tgrelid)) AS written
                FROM pg_trigger AS t LEFT JOIN pg_constraint AS c ON c.oid = t.tgconstraint
                WHERE t.tgdeferrable AND (NOT t.tgisinternal OR c.contype = 'x' OR t.tgrelid <> ALL (tables)) GROUP BY t.tgrelid) AS r
            WHERE r.written > 0) END,
        'foreign keys', (SELECT jsonb_agg(c.oid ORDER BY c.oid) FROM pg_constraint AS c WHERE c.contype = 'f' AND c.conrelid = ANY (tables)));
END
$$;
COMMENT ON FUNCTION visrec._session_state(oid) IS
    'What of a session could run code, or change what later statements mean; for comparing before and after. written: the table '
    'that is written to meanwhile, whose foreign keys are checked when the transaction ends.';

CREATE FUNCTION visrec._check_session(before jsonb, relation oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    after jsonb := CASE WHEN before ? 'settings' THEN visrec._session_state(relation)
        ELSE jsonb_build_object('prepared statements', visrec._prepared_statements()) END;
    name text;
    changed text[] := ARRAY(SELECT b.key FROM jsonb_each(before) AS b WHERE b.value IS DISTINCT FROM after -> b.key ORDER BY b.key);
BEGIN
    IF visrec._other_connections() THEN         -- there were none: visrec._check_before
        PERFORM visrec._close_connections();
        changed := changed || 'connections of dblink'::text;
    END IF;
    IF changed = '{}' THEN
        RETURN;
    END IF;
    -- All but these go with the transaction.
    FOR name IN SELECT p.name FROM pg_prepared_statements AS p
                WHERE to_jsonb(p.prepare_time) IS DISTINCT FROM before -> 'prepared statements' -> p.name LOOP
        EXECUTE format('DEALLOCATE %I', name);
    END LOOP;
    RAISE insufficient_privilege USING
        MESSAGE = format('code of the owner of table "%s" left something in this session', visrec._label(relation)),
        DETAIL = format('It would run, or be used, with your rights: %s.', array_to_string(changed, ', ')),
        HINT = 'Let the owner of the table make this call.';
END
$$;
COMMENT ON FUNCTION visrec._check_session(jsonb, oid) IS
    'Raises an error, which ends the transaction and with it what was left, if the session is not as it was before.';

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
        OR EXISTS (SELECT FROM pg_constraint AS c WHERE c.conrelid = relation AND c.contype = 'c')
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
                JOIN pg_proc AS p ON p.oid = t.tgfoid AND p.pronamespace <> 'visrec'::regnamespace
                WHERE writes AND t.tgrelid = ANY (tables) AND NOT t.tgisinternal
                UNION ALL SELECT 'pg_constraint', c.oid, format('constraint "%s"', c.conname) FROM pg_constraint AS c
                WHERE writes AND c.conrelid = ANY (tables) AND c.contype = 'c'
                UNION ALL SELECT 'pg_attrdef', d.oid, format('generated column "%s"', a.attname) FROM pg_attrdef AS d
                JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated <> ''
                WHERE writes AND d.adrelid = ANY (tables)
                UNION ALL SELECT 'pg_class', x.indexrelid, format('index "%s"', x.indexrelid::regclass) FROM pg_index AS x
                WHERE writes AND x.indrelid = ANY (tables) AND (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL)
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
                WHERE writes AND k.partexprs IS NOT NULL
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

CREATE FUNCTION visrec._other_connections() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    schema name := (SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'dblink');
    named boolean;
BEGIN
    IF schema IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT cardinality(%I.dblink_get_connections()) > 0', schema) INTO named;
    IF named THEN
        RETURN true;
    END IF;
    BEGIN
        EXECUTE format('SELECT FROM %I.dblink(''SELECT 1''::text) AS r (one integer)', schema);       -- of the one without a name
        RETURN true;
    EXCEPTION WHEN connection_does_not_exist THEN
        RETURN false;
    WHEN OTHERS THEN        -- it is busy, or broken
        RETURN true;
    END;
END
$$;
COMMENT ON FUNCTION visrec._other_connections() IS
    'Whether the session has connections of dblink''s, which all code in it can use.';

CREATE FUNCTION visrec._close_connections() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE 'SELECT ' || visrec._dblink('dblink_disconnect(c) FROM ') || visrec._dblink('dblink_get_connections() AS g, unnest(g) AS c');
    EXECUTE 'SELECT ' || visrec._dblink('dblink_disconnect()');
EXCEPTION WHEN connection_does_not_exist THEN
    NULL;
END
$$;
COMMENT ON FUNCTION visrec._close_connections() IS 'Closes all of the session''s connections of dblink.';

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
