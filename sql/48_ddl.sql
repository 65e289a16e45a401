-- What ALTER TABLE, DROP TABLE and CREATE TRIGGER do to an attachment. Nothing here may be why an owner's statement fails.

CREATE FUNCTION visrec._forget_dropped() RETURNS event_trigger
-- As the extension's owner: who drops a table may own neither its functions nor what visrec keeps of it.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a visrec.attachment;
    owner oid;
    shell regprocedure;
BEGIN
    FOR a IN
        SELECT r.* FROM pg_event_trigger_dropped_objects() AS d JOIN visrec.attachment AS r ON r.relation = d.objid
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
    LOOP
        owner := (SELECT p.proowner FROM pg_proc AS p
                  WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname = '_table_' || a.id);
        FOR shell IN SELECT w.function FROM visrec._written_shells(a) AS w JOIN pg_proc AS p ON p.oid = w.function
                     WHERE p.proowner = owner LOOP
            BEGIN
                EXECUTE format('DROP FUNCTION %s', shell);
            EXCEPTION WHEN OTHERS THEN      -- a view of theirs uses it
                RAISE NOTICE 'could not drop function %: %', shell, SQLERRM;
            END;
        END LOOP;
        DELETE FROM visrec.attachment AS r WHERE r.id = a.id;
    END LOOP;
    -- Of tables that were attached after the snapshot of the transaction that dropped them.
    DELETE FROM visrec.attachment AS r WHERE r.id = ANY (ARRAY(
        SELECT o.id FROM visrec.attachment AS o WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = o.relation)
            -- Not when it is called for the functions that are dropped above.
            AND EXISTS (SELECT FROM pg_event_trigger_dropped_objects() AS d WHERE d.classid = 'pg_class'::regclass)
        FOR UPDATE SKIP LOCKED));
    -- A table of events. Whoever named it may hold the line locked: then it stays, and says what it lacks.
    UPDATE visrec.attachment AS r SET events = NULL, event_columns = NULL WHERE r.id = ANY (ARRAY(
        SELECT e.id FROM pg_event_trigger_dropped_objects() AS d JOIN visrec.attachment AS e ON e.events = d.objid
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 FOR UPDATE OF e SKIP LOCKED));
END
$$;
COMMENT ON FUNCTION visrec._forget_dropped() IS
    'After DROP TABLE of an attached table: removes its attachments, with their functions and failures.';
REVOKE ALL ON FUNCTION visrec._forget_dropped() FROM PUBLIC;

CREATE EVENT TRIGGER visrec_forget_dropped ON sql_drop EXECUTE FUNCTION visrec._forget_dropped();
COMMENT ON EVENT TRIGGER visrec_forget_dropped IS 'visrec: what attach made goes with its table';

-- PostgreSQL refuses to change the type of a column that a trigger names (UPDATE OF, WHEN), and a trigger that names none
-- would cost every UPDATE a look at each row. So those triggers step aside for an ALTER … TYPE, and come back after it. Which
-- table a statement is for is not known before it runs: the statement's text says which it may be.

CREATE FUNCTION visrec._may_change(relation oid, schemas name[]) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT current_query() ~* '[[:<:]]type[[:>:]]' AND visrec._owns(c.oid) AND (
        current_query() ~* (m.alter || '"?' || m.schema || '"?[[:space:]]*[.][[:space:]]*"?' || m.name || '"?(?![[:alnum:]_])')
        OR current_query() ~* (m.alter || '"?' || m.name || '"?(?![[:alnum:]_]|[[:space:]]*[.])') AND c.oid = (
            SELECT o.oid FROM pg_class AS o JOIN pg_namespace AS s ON s.oid = o.relnamespace
            WHERE o.relname = c.relname AND s.nspname = ANY (schemas) ORDER BY array_position(schemas, s.nspname) LIMIT 1))
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, LATERAL (
        SELECT '[[:<:]]alter[[:space:]]+table[[:space:]]+(if[[:space:]]+exists[[:space:]]+)?(only[[:space:]]+)?' AS alter,
               regexp_replace(n.nspname, '([^[:alnum:]_])', E'\\\\\\1', 'g') AS schema,
               regexp_replace(c.relname, '([^[:alnum:]_])', E'\\\\\\1', 'g') AS name) AS m
    WHERE c.oid = relation
$$;
COMMENT ON FUNCTION visrec._may_change(oid, name[]) IS
    'Whether the current statement says ALTER TABLE and TYPE of this table, which is of the current role''s; schemas: its '
    'search_path.';

CREATE FUNCTION visrec._release(schemas name[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
    states jsonb := '{}';
BEGIN
    IF current_setting('visrec.released', true) = 'busy' THEN       -- within what visrec._follow_table does
        RETURN;
    END IF;
    PERFORM set_config('visrec.released', '', true);
    FOR t IN
        SELECT a.id, a.relation, d.name, visrec._trigger_states(a) AS states FROM visrec.attachment AS a
        CROSS JOIN LATERAL visrec._trigger_definitions(visrec._as_now(a)) AS d
        JOIN LATERAL visrec._our_triggers(a.relation) AS o ON o.name = d.name
        WHERE visrec._may_change(a.relation, schemas) AND d.pins
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', t.name, t.relation);
        PERFORM set_config('visrec.released', concat_ws(',', nullif(current_setting('visrec.released', true), ''), t.id), true);
        states := t.states || states;       -- of the first time, before any is dropped
    END LOOP;
    PERFORM set_config('visrec.released_states', states::text, true);
EXCEPTION WHEN OTHERS THEN
    NULL;       -- the ALTER TABLE itself says what is wrong
END
$$;
COMMENT ON FUNCTION visrec._release(name[]) IS
    'Before an ALTER TABLE … TYPE of what may be a table of the current role''s: drops the triggers that name columns.';

CREATE FUNCTION visrec._release_columns() RETURNS event_trigger
-- Without a search_path of its own: that of the statement says which table it is for.
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM visrec._release(pg_catalog.current_schemas(true));
END
$$;
COMMENT ON FUNCTION visrec._release_columns() IS 'Before an ALTER TABLE: see visrec._release.';
REVOKE ALL ON FUNCTION visrec._release_columns() FROM PUBLIC;

CREATE EVENT TRIGGER visrec_release_columns ON ddl_command_start WHEN TAG IN ('ALTER TABLE')
EXECUTE FUNCTION visrec._release_columns();
COMMENT ON EVENT TRIGGER visrec_release_columns IS 'visrec: columns of attached tables can change their type';

CREATE FUNCTION visrec._is_made_of(relation oid) RETURNS SETOF oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY WITH RECURSIVE made (oid) AS (
        SELECT _is_made_of.relation UNION SELECT i.inhparent FROM made AS m JOIN pg_inherits AS i ON i.inhrelid = m.oid)
    SELECT m.oid FROM made AS m UNION SELECT c.reloftype FROM made AS m JOIN pg_class AS c ON c.oid = m.oid WHERE c.reloftype <> 0;
END
$$;
COMMENT ON FUNCTION visrec._is_made_of(oid) IS
    'A table, those that it is a partition of or inherits from, and their types: whose columns are renamed with it.';

CREATE FUNCTION visrec._follow_table() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a visrec.attachment;
    now visrec.attachment;
    released text[] := CASE WHEN TG_TAG = 'ALTER TABLE' THEN string_to_array(current_setting('visrec.released', true), ',') END;
    required boolean := false;      -- what is done now must succeed: the table would be without triggers
BEGIN
    IF released = '{busy}' THEN
        RETURN;
    END IF;
    PERFORM set_config('visrec.released', 'busy', true);
    -- Not a loop over a query, which is a cursor: visrec._cursors_open.
    FOREACH a IN ARRAY ARRAY(
        SELECT r FROM visrec.attachment AS r
        WHERE EXISTS (SELECT FROM pg_event_trigger_ddl_commands() AS d JOIN pg_class AS c ON c.oid = r.relation
                      WHERE d.classid IN ('pg_class'::regclass, 'pg_type'::regclass) AND (d.objid = c.oid
                            OR (c.reloftype <> 0 OR EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid))
                                AND d.objid IN (SELECT visrec._is_made_of(c.oid)))
                         OR d.classid = 'pg_class'::regclass AND d.objid = r.events
                         OR d.classid = 'pg_type'::regclass AND d.objid = ANY (r.types::oid[])
                         OR d.classid = 'pg_namespace'::regclass AND (d.objid = c.relnamespace OR EXISTS (
                            SELECT FROM pg_type AS t WHERE t.oid = ANY (r.types::oid[]) AND t.typnamespace = d.objid))
                         OR d.classid = 'pg_extension'::regclass AND EXISTS (
                            SELECT FROM pg_extension AS e WHERE e.oid = d.objid AND (e.extname = 'visrec' OR EXISTS (
                                SELECT FROM pg_depend AS m WHERE m.classid = 'pg_type'::regclass AND m.objid = ANY (r.types::oid[])
                                    AND m.refclassid = 'pg_extension'::regclass AND m.refobjid = d.objid AND m.deptype = 'e'))))
           OR r.id::text = ANY (released) AND visrec._owns(r.relation))
    LOOP
        IF visrec._owns(a.relation) IS NOT TRUE THEN    -- another's table in the current role's schema, or of its types
            CONTINUE WHEN TG_TAG IN ('ALTER TABLE', 'ALTER INDEX');
            BEGIN
                PERFORM visrec._renew_searches(a.id);
            EXCEPTION WHEN OTHERS THEN
                NULL;       -- they ask whether their names hold
            END;
            CONTINUE;
        END IF;
        -- In a restored dump they have numbers of another database in them.
        IF visrec._problem(a, false) IS NULL AND NOT visrec._searches_hold(a) THEN
            PERFORM visrec._renew_searches(a.id);
        END IF;
        -- A dump that is being restored makes its triggers last.
        CONTINUE WHEN NOT EXISTS (SELECT FROM visrec._our_triggers(a.relation) AS o WHERE o.attachment = a.id);
        now := visrec._as_now(a);
        IF a.id::text = ANY (released) THEN
            required := true;
            PERFORM visrec._make_triggers(now);
            PERFORM visrec._set_trigger_states(now, nullif(current_setting('visrec.released_states', true), '')::jsonb);
            required := false;
        END IF;
        BEGIN
            PERFORM visrec._watch_all(a.id);        -- a partition may have come
            -- The planned searches have names of the table, its columns and types in them, which this writes anew.
            IF TG_TAG <> 'ALTER TABLE' OR now.columns <> a.columns OR NOT visrec._searches_hold(a) THEN
                UPDATE visrec.own_attachment AS o SET relation = o.relation, columns = now.columns, event_columns = now.event_columns
                WHERE o.id = a.id;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            NULL;       -- what follows says why
        END;
        BEGIN
            -- Attach would grant the owner what it lacks, and add a column of vectors that was dropped: nobody asked for that.
            IF TG_TAG IN ('ALTER TABLE', 'ALTER TYPE')
                AND ((now.columns, now.types, now.event_columns) IS DISTINCT FROM (a.columns, a.types, a.event_columns)
                    OR visrec._problem(a, false) IS NOT NULL      -- in a restore, its triggers come one by one
                    OR visrec._watches_others(now))
                AND visrec._may_embed((SELECT c.relowner FROM pg_class AS c WHERE c.oid = a.relation))
            THEN
                IF visrec._current_name(a.relation, a.numbers[2]) IS NULL OR visrec._current_name(a.relation, a.numbers[3]) IS NULL
                    OR visrec._current_name(a.relation, a.numbers[4]) IS NULL
                THEN
                    RAISE object_not_in_prerequisite_state USING MESSAGE = visrec._problem(a);
                END IF;
                PERFORM visrec._attach(a.relation, NULL, NULL, NULL, NULL, NULL, NULL, a.name, NULL, NULL);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING USING
                MESSAGE = format('could not bring the attachment of table "%s" up to date: %s', visrec._label(a.relation), SQLERRM),
                HINT = visrec._attach_call(a);
        END;
    END LOOP;
    PERFORM set_config('visrec.released', '', true);
EXCEPTION WHEN OTHERS THEN
    IF required THEN
        RAISE;
    END IF;
    RAISE WARNING 'visrec did not follow the statement: %', SQLERRM;
END
$$;
COMMENT ON FUNCTION visrec._follow_table() IS
    'After ALTER TABLE of an attached table, or of its schema or types: brings its attachments up to date, and the triggers back.';
REVOKE ALL ON FUNCTION visrec._follow_table() FROM PUBLIC;

CREATE EVENT TRIGGER visrec_follow_table ON ddl_command_end
WHEN TAG IN ('ALTER TABLE', 'ALTER INDEX', 'ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN', 'ALTER EXTENSION')
EXECUTE FUNCTION visrec._follow_table();
COMMENT ON EVENT TRIGGER visrec_follow_table IS 'visrec: attachments follow their tables';

CREATE FUNCTION visrec._watch_table() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a visrec.attachment;
    relation regclass := (SELECT t.tgrelid FROM pg_event_trigger_ddl_commands() AS d
                          JOIN pg_trigger AS t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid LIMIT 1);
BEGIN
    -- What is attached is not known for certain: it may have been attached since.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') AND visrec._owns(relation) IS NOT TRUE THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('must be owner of table "%s" to create triggers on it in a %s transaction', visrec._label(relation),
                upper(current_setting('transaction_isolation'))),
            HINT = 'Create it in a READ COMMITTED transaction.';
    END IF;
    FOR a IN
        SELECT r.* FROM pg_event_trigger_ddl_commands() AS d
        JOIN pg_trigger AS t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
        JOIN visrec.attachment AS r ON r.relation = t.tgrelid
            OR EXISTS (SELECT FROM pg_partition_ancestors(t.tgrelid) AS o WHERE o.relid = r.relation)
        JOIN pg_proc AS p ON p.oid = t.tgfoid
        WHERE NOT (p.pronamespace = 'visrec'::regnamespace AND visrec._owns(r.relation))        -- visrec's own
    LOOP
        IF visrec._owns(a.relation) IS NOT TRUE THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('must be owner of table "%s" to create triggers on it, because it is attached', visrec._label(a.relation)),
                DETAIL = 'When visrec writes vectors, triggers run with the rights of the owner.';
        END IF;
        PERFORM visrec._watch_all(a.id);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._watch_table() IS
    'After CREATE TRIGGER: only the owner makes triggers on attached tables; and see visrec._watch_all.';
REVOKE ALL ON FUNCTION visrec._watch_table() FROM PUBLIC;

CREATE EVENT TRIGGER visrec_watch_table ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER') EXECUTE FUNCTION visrec._watch_table();
COMMENT ON EVENT TRIGGER visrec_watch_table IS 'visrec: images that triggers change get new vectors';
