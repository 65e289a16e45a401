-- A second session, by dblink: what PostgreSQL does in a statement of its own only, outside of any function, such as building an
-- index while others write. It is one that the caller may open. One at a time, by the name visrec_reindex.

CREATE FUNCTION visrec._dblink(call text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%I.%s', n.nspname, call) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'dblink'
$$;
COMMENT ON FUNCTION visrec._dblink(text) IS 'A call of a function of the extension dblink, with its schema; NULL where that is not installed.';

CREATE FUNCTION visrec._own_connection() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Only superusers are let in by what the server itself may do (peer, trust): dblink asks others for a password.
    SELECT format('host=%s port=%s dbname=''%s''', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'),
        replace(replace(current_database(), E'\\', E'\\\\'), '''', E'\\'''))
    WHERE (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) AND current_setting('unix_socket_directories') <> ''
$$;
COMMENT ON FUNCTION visrec._own_connection() IS 'How a superuser comes to this database by the server''s socket; NULL for others.';

CREATE FUNCTION visrec._open_session(relation regclass, connection text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own text := CASE WHEN connection IS NULL THEN visrec._own_connection() END;
    key integer := (random() * 2147483647)::integer;
    same boolean;
    detail text;
BEGIN
    IF (SELECT c.relkind = 'p' FROM pg_class AS c WHERE c.oid = relation) THEN
        RETURN 'The indexes of partitioned tables are built only so.';
    ELSIF visrec._dblink('') IS NULL THEN
        RETURN 'To build beside, a second session is needed, and extension "dblink" is not installed.';
    ELSIF coalesce(connection, own) IS NULL THEN
        RETURN CASE WHEN current_setting('is_superuser') = 'on' THEN 'To build beside, a second session is needed, and the server has no socket.'
            ELSE 'To build beside, a second session is needed, which only superusers have without a connection string.' END;
    END IF;
    EXECUTE 'SELECT ' || visrec._dblink('dblink_disconnect(c) FROM ') || visrec._dblink('dblink_get_connections() AS g, unnest(g) AS c WHERE c = $1')
    USING 'visrec_reindex'::text;
    EXECUTE 'SELECT ' || visrec._dblink('dblink_connect($1, $2)') USING 'visrec_reindex'::text, coalesce(connection, own);
    -- Somebody's connection may lead anywhere: the lock is only to be seen in this database.
    PERFORM pg_advisory_xact_lock(1986622067, key);
    EXECUTE 'SELECT r.same FROM ' || visrec._dblink('dblink($1, $2) AS r (same boolean)') INTO same
    USING 'visrec_reindex'::text, format('SELECT EXISTS (SELECT FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_database AS d ON d.oid = l.database '
        'WHERE d.datname = pg_catalog.current_database() AND l.locktype = ''advisory'' AND l.pid = %s AND l.classid = 1986622067 AND l.objid = %s)',
        pg_backend_pid(), key);
    IF same IS NOT TRUE THEN
        PERFORM visrec._close_session();
        RETURN 'The second session is not of this database.';
    END IF;
    EXECUTE 'SELECT ' || visrec._dblink('dblink_exec($1, $2)') USING 'visrec_reindex'::text, format(
        'SET search_path = pg_catalog, pg_temp; SET maintenance_work_mem = %L; SET max_parallel_maintenance_workers = %s; '
        'SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0; SET client_connection_check_interval = ''2s''',
        current_setting('maintenance_work_mem'), visrec._build_workers());
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN format('To build beside, a second session is needed: %s.', concat_ws(': ', SQLERRM, nullif(rtrim(detail, E'.\n'), '')));
END
$$;
COMMENT ON FUNCTION visrec._open_session(regclass, text) IS
    'Opens the second session by a connection string of the caller''s (dblink''s rules hold: others than superusers must give a '
    'password), or a superuser''s own; returns NULL, or why there is none. It ends its work by itself when this session is gone.';

CREATE FUNCTION visrec._close_session() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE 'SELECT ' || visrec._dblink('dblink_disconnect($1)') USING 'visrec_reindex'::text;
END
$$;
COMMENT ON FUNCTION visrec._close_session() IS 'Closes the second session.';

CREATE FUNCTION visrec._send(statement text) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pid integer;
BEGIN
    EXECUTE 'SELECT r.pid FROM ' || visrec._dblink('dblink($1, $2) AS r (pid integer)') INTO pid
    USING 'visrec_reindex'::text, 'SELECT pg_catalog.pg_backend_pid()'::text;
    EXECUTE 'SELECT ' || visrec._dblink('dblink_send_query($1, $2)') USING 'visrec_reindex'::text, statement;
    RETURN pid;
END
$$;
COMMENT ON FUNCTION visrec._send(text) IS 'Starts a statement in the second session, without waiting; returns that session''s pid.';

CREATE FUNCTION visrec._busy(cancel boolean) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    busy integer;
BEGIN
    IF cancel THEN
        EXECUTE 'SELECT ' || visrec._dblink('dblink_cancel_query($1)') USING 'visrec_reindex'::text;
    END IF;
    EXECUTE 'SELECT ' || visrec._dblink('dblink_is_busy($1)') INTO busy USING 'visrec_reindex'::text;
    RETURN busy = 1;
END
$$;
COMMENT ON FUNCTION visrec._busy(boolean) IS 'Whether the second session is still at its statement; cancel: which is told to stop.';

CREATE FUNCTION visrec._outcome() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    problem text;
    lines bigint := 1;
BEGIN
    WHILE lines > 0 LOOP        -- an empty answer is the last
        BEGIN
            EXECUTE 'SELECT count(*) FROM ' || visrec._dblink('dblink_get_result($1) AS r (status text)') INTO lines
            USING 'visrec_reindex'::text;
        EXCEPTION WHEN OTHERS OR query_canceled THEN
            EXIT WHEN problem IS NOT NULL;
            problem := SQLERRM;
        END;
    END LOOP;
    RETURN problem;
END
$$;
COMMENT ON FUNCTION visrec._outcome() IS 'NULL where the second session''s statement succeeded, or its error.';

CREATE FUNCTION visrec._note_progress(relation regclass, pid integer, started timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p record;
BEGIN
    SELECT * INTO p FROM pg_stat_progress_create_index AS s WHERE s.pid = _note_progress.pid;
    IF p.phase IS NOT NULL THEN
        RAISE NOTICE '%: %, % of % rows, % s', visrec._label(relation), p.phase, p.tuples_done, greatest(p.tuples_total, p.tuples_done,
                (SELECT c.reltuples::bigint FROM pg_class AS c WHERE c.oid = relation)),
            round(extract(epoch FROM clock_timestamp() - started));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._note_progress(regclass, integer, timestamptz) IS 'Says how far an index is that another session builds.';

CREATE PROCEDURE visrec._run_beside(relation regclass, statement text, INOUT problem text, INOUT cancelled boolean)
LANGUAGE plpgsql AS $$
-- It commits, so it can have no SET clause.
DECLARE
    started pg_catalog.timestamptz := pg_catalog.clock_timestamp();
    told pg_catalog.timestamptz := pg_catalog.clock_timestamp();
    pid integer;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    cancelled := false;
    BEGIN
        pid := visrec._send(statement);
    EXCEPTION WHEN OTHERS THEN      -- the session is gone
        problem := SQLERRM;
        RETURN;
    END;
    LOOP
        -- What is built concurrently waits for every older transaction: this one must not be among them.
        COMMIT;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        BEGIN
            PERFORM pg_sleep(0.1);
        EXCEPTION WHEN query_canceled THEN
            cancelled := true;
        END;
        IF cancelled THEN       -- the server sends the signal twice, and the second may be late
            BEGIN
                PERFORM pg_sleep(0.05);
            EXCEPTION WHEN query_canceled THEN
                NULL;
            END;
        END IF;
        EXIT WHEN NOT visrec._busy(cancelled);
        IF clock_timestamp() - told > interval '5 seconds' THEN
            told := clock_timestamp();
            PERFORM visrec._note_progress(relation, pid, started);
        END IF;
    END LOOP;
    problem := visrec._outcome();
END
$$;
COMMENT ON PROCEDURE visrec._run_beside(regclass, text, text, boolean) IS
    'Runs a statement in the second session, with progress; problem: its error. A cancelled caller cancels it.';
