-- What a table's owner's code could leave behind in the session of an administrator who has something done on the table:
-- it runs as the owner, but what waits for the transaction's end, or for the next statement, would run as the administrator.
-- What only reads is done in a block that ends with an error, so that nothing of it stays (42_as_owner.sql); all but prepared
-- statements and connections, which no error undoes. What writes is compared with what was there before.

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

CREATE FUNCTION visrec._cursors_open() RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The one without a name is of the statement that runs now.
    RETURN EXISTS (SELECT FROM pg_cursors AS c WHERE c.name <> '');
END
$$;
COMMENT ON FUNCTION visrec._cursors_open() IS
    'Whether the session has cursors, from which all code in it can fetch, with the rights of who opened them; no error brings back what it took.';

CREATE FUNCTION visrec._session_state(written oid) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tables CONSTANT oid[] := ARRAY(SELECT written UNION SELECT p.relid FROM pg_partition_tree(written) AS p);
BEGIN
    RETURN jsonb_build_object(
        -- Those of no library are not listed anywhere.
        'settings', (SELECT jsonb_object_agg(s.name, s.setting) FROM pg_settings AS s
                     WHERE s.source = 'session' AND s.name <> ALL ('{search_path,role,session_authorization}'::text[])),
        -- All of the client's message have its time: another of the same name tells itself by what it runs.
        'cursors', (SELECT jsonb_agg(to_jsonb(c) ORDER BY c.name) FROM pg_cursors AS c),
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

CREATE FUNCTION visrec._clean_session(before jsonb) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    left_behind text[] := '{}';
    name text;
BEGIN
    IF visrec._other_connections() THEN         -- there were none: visrec._check_before
        PERFORM visrec._close_connections();
        left_behind := left_behind || 'connections of dblink'::text;
    END IF;
    IF visrec._prepared_statements() IS DISTINCT FROM before -> 'prepared statements' THEN
        FOR name IN SELECT p.name FROM pg_prepared_statements AS p
                    WHERE to_jsonb(p.prepare_time) IS DISTINCT FROM before -> 'prepared statements' -> p.name LOOP
            EXECUTE format('DEALLOCATE %I', name);
        END LOOP;
        left_behind := left_behind || 'prepared statements'::text;
    END IF;
    RETURN left_behind;
END
$$;
COMMENT ON FUNCTION visrec._clean_session(jsonb) IS
    'Takes back what neither an error nor the end of the transaction does, and says what that was.';

CREATE FUNCTION visrec._raise_left(left_behind text[], relation oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF left_behind <> '{}' THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('code of the owner of table "%s" left something in this session', visrec._label(relation)),
            DETAIL = format('It would run, or be used, with your rights: %s.', array_to_string(left_behind, ', ')),
            HINT = 'Let the owner of the table make this call.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._raise_left(text[], oid) IS
    'Raises an error, which ends the transaction and with it what was left, if anything was.';

CREATE FUNCTION visrec._check_session(before jsonb, relation oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    left_behind text[] := visrec._clean_session(before);
    after jsonb := CASE WHEN before ? 'settings' THEN visrec._session_state(relation) ELSE '{}' END;
BEGIN
    PERFORM visrec._raise_left(left_behind || ARRAY(SELECT b.key FROM jsonb_each(before) AS b
        WHERE b.key <> 'prepared statements' AND b.value IS DISTINCT FROM after -> b.key ORDER BY b.key), relation);
END
$$;
COMMENT ON FUNCTION visrec._check_session(jsonb, oid) IS
    'Raises an error if the session is not as it was before.';

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
