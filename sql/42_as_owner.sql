-- Whoever calls: what is done with an attached table's rows is done as the table's owner.

CREATE FUNCTION visrec._call(attachment integer, task text, arguments jsonb DEFAULT '{}') RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    writes CONSTANT boolean := visrec._writes(task);
    settings CONSTANT text[] := '{visrec.released,visrec.released_states,visrec.giving,visrec.looks_at}';
    ours CONSTANT text[] := ARRAY(SELECT current_setting(s.name, true) FROM unnest(settings) WITH ORDINALITY AS s (name, n) ORDER BY s.n);
    a visrec.attachment;
    before jsonb;
    done boolean := false;
    context text;
    result jsonb;
BEGIN
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = attachment;
    IF current_user <> (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = a.relation) THEN
        PERFORM visrec._check_before(a.relation, writes);
        IF writes OR visrec._cursors_open() THEN
            PERFORM visrec._raise_owners_code(a, writes);
        END IF;
        before := CASE WHEN writes THEN visrec._session_state(a.relation)
            ELSE jsonb_build_object('prepared statements', visrec._prepared_statements()) END;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_proc AS p JOIN pg_class AS c ON c.relowner = p.proowner
        WHERE c.oid = a.relation AND p.pronamespace = 'visrec'::regnamespace AND p.proname = '_table_' || a.id
          AND p.prosecdef AND p.proconfig IS NULL)
    THEN
        PERFORM visrec._raise_problem(a);
    END IF;
    arguments := arguments || jsonb_build_object('role', current_setting('role'), 'session_user', session_user);
    IF before IS NULL OR writes THEN
        EXECUTE format('SELECT visrec.%I($1, $2)', '_table_' || attachment) INTO result USING task, arguments;
    ELSE
        BEGIN
            EXECUTE format('SELECT visrec.%I($1, $2)', '_table_' || attachment) INTO result USING task, arguments;
            done := true;
            RAISE EXCEPTION USING ERRCODE = 'VR000';    -- undoes all but the result, which is in a variable
        EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
            IF NOT done OR SQLSTATE <> 'VR000' THEN
                PERFORM visrec._raise_left(visrec._clean_session(before), a.relation);
                GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
                IF SQLSTATE = 'P0004' OR SQLSTATE = '57014' AND split_part(context, E'\n', 1) ~ '[[:<:]]RAISE$' THEN
                    RAISE EXCEPTION '%', SQLERRM;       -- nobody cancelled: who looks at all tables goes on
                END IF;
                RAISE;
            END IF;
        END;
    END IF;
    IF before IS NOT NULL THEN      -- until the path is known to be ours, each operator is qualified
        IF pg_catalog.current_setting('search_path') OPERATOR(pg_catalog.<>) 'pg_catalog, pg_temp' THEN
            PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
            before := pg_catalog.jsonb_set(before, '{search_path}', 'true');
        END IF;
        PERFORM visrec._check_session(before, a.relation);
        PERFORM set_config(s.name, coalesce(s.value, ''), false) FROM unnest(settings, ours) AS s (name, value)
        WHERE coalesce(current_setting(s.name, true), '') <> coalesce(s.value, '');
    END IF;
    RETURN result;
END
$$;
COMMENT ON FUNCTION visrec._call(integer, text, jsonb) IS
    'Does a task on an attached table''s rows as its owner, by visrec._as_owner. For others than the owner nothing that the '
    'owner''s code does stays if the task only reads; and if it writes, there is an error if that code left something in the session.';

CREATE FUNCTION visrec._writes(task text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN task OPERATOR(pg_catalog.=) ANY ('{batch,retry,tidy,take_stale,recheck}'::pg_catalog.text[]);
COMMENT ON FUNCTION visrec._writes(text) IS 'Whether a task of visrec._as_owner writes.';

CREATE FUNCTION visrec._acts_for_owner(relation regclass) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN visrec._owns(relation) AND current_user <> (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = relation);
END
$$;
COMMENT ON FUNCTION visrec._acts_for_owner(regclass) IS
    'Whether the current role is an administrator of the table and not its owner: what reads the table then runs as the owner. '
    'By the time it reads, a column may have another type, with a cast of the owner''s, or the name may be a view''s.';

CREATE FUNCTION visrec._hold_table(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    locked CONSTANT text := relation;
BEGIN
    EXECUTE format('LOCK TABLE %s IN ROW EXCLUSIVE MODE', locked);
    IF to_regclass(locked) IS DISTINCT FROM relation THEN
        RAISE object_in_use USING MESSAGE = format('table "%s" is being changed', visrec._label(relation));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._hold_table(regclass) IS
    'Locks a table as a writer does, so that no ALTER TABLE comes between looking at its columns and writing.';

CREATE FUNCTION visrec._as_owner(attachment integer, task text, arguments jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
    result jsonb;
BEGIN
    -- The owner cannot replace the function that called this, but can make it run as its caller, or with a role set. Only
    -- SECURITY DEFINER brings the owner's rights without touching either, and without a way back to the caller's.
    IF current_user <> pg_get_userbyid(n.owner) OR arguments ->> 'role' IS DISTINCT FROM current_setting('role')
        OR arguments ->> 'session_user' IS DISTINCT FROM session_user
    THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('function visrec._table_%s does not run as the owner of table "%s"', attachment, visrec._label(n.relation)),
            HINT = (SELECT visrec._attach_call(a) FROM visrec.attachment AS a WHERE a.id = attachment);
    END IF;
    IF visrec._writes(task) THEN        -- or what its columns are could change while this waits to write
        PERFORM visrec._hold_table(n.relation);
        PERFORM visrec._check_current(attachment);
        n := visrec._resolve(attachment);
    END IF;
    PERFORM visrec._raise_strangers_code(n.relation, n.key_oid, visrec._writes(task));
    CASE task
    WHEN 'coverage' THEN
        RETURN jsonb_object_agg(s.state, s.rows) FROM visrec._count_states(attachment) AS s;
    WHEN 'count_due' THEN
        RETURN visrec._count_due(n);
    WHEN 'count_vectors' THEN
        RETURN visrec._count_vectors(n);
    WHEN 'recall' THEN
        RETURN (SELECT to_jsonb(r) FROM visrec.recall(n.relation, (arguments ->> 'k')::integer, (arguments ->> 'sample')::integer, n.name) AS r);
    WHEN 'measure' THEN
        RETURN visrec._measure_widths(n, (arguments ->> 'seconds')::float8);
    WHEN 'evaluate' THEN
        RETURN (SELECT jsonb_agg(r) FROM visrec.evaluate(n.relation, (arguments ->> 'label')::name,
            visrec._texts(arguments -> 'k')::integer[], (arguments ->> 'sample')::integer, n.name) AS r);
    WHEN 'evaluate_taste' THEN
        RETURN (SELECT jsonb_agg(r) FROM visrec._evaluate_taste(n, (arguments ->> 'events')::oid,
            visrec._texts(arguments -> 'columns')::name[],
            visrec._texts(arguments -> 'k')::integer[], (arguments ->> 'holdout')::float8,
            visrec._texts(arguments -> 'strategies'), (arguments ->> 'sample')::integer) AS r);
    WHEN 'duplicates' THEN
        RETURN (SELECT jsonb_agg(r) FROM visrec._duplicate_pairs(n, (arguments ->> 'k')::integer, (arguments ->> 'max_distance')::float8) AS r);
    WHEN 'taste' THEN
        RETURN to_jsonb(visrec._taste_of(n, visrec._texts(arguments -> 'liked'),
            visrec._texts(arguments -> 'disliked'), arguments ->> 'strategy', arguments ->> 'toward',
            visrec._texts(arguments -> 'liked_weights')::float8[],
            visrec._texts(arguments -> 'disliked_weights')::float8[],
            (arguments ->> 'strict')::boolean)::text);
    WHEN 'sample' THEN
        RETURN visrec._sample(n);
    WHEN 'holds_stale' THEN
        RETURN visrec._holds_stale(n);
    WHEN 'take_stale' THEN
        RETURN visrec._take_stale(n, visrec._schemas(arguments));
    WHEN 'foreign' THEN
        RETURN visrec._has_foreign(n, (arguments ->> 'unknown')::boolean);
    WHEN 'tidy' THEN
        PERFORM visrec._tidy(n);
        RETURN NULL;
    WHEN 'retry' THEN
        PERFORM visrec._tidy(n);
        RETURN visrec._retry_failures(n, visrec._schemas(arguments));
    WHEN 'recheck' THEN
        RETURN visrec._find_changed(n, arguments ->> 'after', visrec._schemas(arguments));
    WHEN 'batch' THEN
        PERFORM set_config('visrec.giving', n.relation::text, true);
        PERFORM set_config('search_path', visrec._safe_path(visrec._schemas(arguments) || n.path), true);
        result := visrec._python_backfill_batch(n::pg_catalog.text, arguments ->> 'after', (arguments ->> 'size')::integer,
            (arguments ->> 'following')::integer);
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        PERFORM set_config('visrec.giving', '', true);
        RETURN result;
    END CASE;
END
$$;
COMMENT ON FUNCTION visrec._as_owner(integer, text, jsonb) IS
    'What an attachment''s function visrec._table_<id> does: a task on the table''s rows, as its owner or not at all.';

CREATE FUNCTION visrec._texts(value jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE jsonb_typeof(value) WHEN 'array' THEN ARRAY(SELECT jsonb_array_elements_text(value)) END
$$;
COMMENT ON FUNCTION visrec._texts(jsonb) IS 'A JSON array as an array of text; NULL for anything else.';

CREATE FUNCTION visrec._schemas(arguments jsonb) RETURNS name[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT jsonb_array_elements_text(arguments -> 'schemas'))::name[]
$$;
COMMENT ON FUNCTION visrec._schemas(jsonb) IS 'The search_path of the statement, out of a task''s arguments.';
