-- Accounts: which rows have a vector, why others have none, and how they get one.

-- Whoever calls: an attachment's own function, as the table's owner -----------------------------------

CREATE FUNCTION visrec._call(attachment integer, task text, arguments jsonb DEFAULT '{}') RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a visrec.attachment;
    before jsonb;
    result jsonb;
BEGIN
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = attachment;
    IF current_user <> (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = a.relation) THEN
        before := visrec._session_state();
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_proc AS p JOIN pg_class AS c ON c.relowner = p.proowner
        WHERE c.oid = a.relation AND p.pronamespace = 'visrec'::regnamespace AND p.proname = '_table_' || a.id
          AND p.prosecdef AND p.proconfig IS NULL)
    THEN
        PERFORM visrec._raise_problem(a);
    END IF;
    EXECUTE format('SELECT visrec.%I($1, $2)', '_table_' || attachment) INTO result
    USING task, arguments || jsonb_build_object('role', current_setting('role'), 'session_user', session_user);
    IF before IS NOT NULL THEN      -- until the path is known to be ours, each operator is qualified
        IF pg_catalog.current_setting('search_path') OPERATOR(pg_catalog.<>) 'pg_catalog, pg_temp' THEN
            PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
            before := pg_catalog.jsonb_set(before, '{search_path}', 'true');
        END IF;
        PERFORM visrec._check_session(before, a.relation);
    END IF;
    RETURN result;
END
$$;
COMMENT ON FUNCTION visrec._call(integer, text, jsonb) IS
    'Does a task on an attached table''s rows as its owner, by visrec._as_owner; for others than the owner, an error if the owner''s '
    'code left something in the session.';

CREATE FUNCTION visrec._acts_for_owner(relation regclass) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN visrec._owns(relation) AND current_user <> (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = relation);
END
$$;
COMMENT ON FUNCTION visrec._acts_for_owner(regclass) IS
    'Whether the current role is an administrator of the table and not its owner: what reads the table then runs as the owner. '
    'By the time it reads, a column may have another type, with a cast of the owner''s, or the name may be a view''s.';

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
    CASE task
    WHEN 'coverage' THEN
        RETURN jsonb_object_agg(s.state, s.rows) FROM visrec._count_states(attachment) AS s;
    WHEN 'count_due' THEN
        RETURN visrec._count_due(n);
    WHEN 'count_vectors' THEN
        RETURN visrec._count_vectors(n);
    WHEN 'recall' THEN
        RETURN (SELECT to_jsonb(r) FROM visrec.recall(n.relation, (arguments ->> 'k')::integer, (arguments ->> 'sample')::integer, n.name) AS r);
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
    WHEN 'foreign' THEN
        RETURN visrec._has_foreign(n, (arguments ->> 'unknown')::boolean);
    WHEN 'tidy' THEN
        PERFORM visrec._tidy(n);
        RETURN NULL;
    WHEN 'retry' THEN
        PERFORM visrec._tidy(n);
        RETURN visrec._retry_failures(n, visrec._schemas(arguments));
    WHEN 'recheck' THEN
        RETURN visrec._find_changed(n, arguments ->> 'after');
    WHEN 'batch' THEN
        PERFORM set_config('search_path', visrec._safe_path(visrec._schemas(arguments) || n.path), true);
        result := visrec._python_backfill_batch(n::pg_catalog.text, arguments ->> 'after', (arguments ->> 'size')::integer,
            (arguments ->> 'following')::integer);
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
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

-- Failures --------------------------------------------------------------------------------------------

CREATE FUNCTION visrec._sees_failure(attachment integer, row_id text, with_policies boolean) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation regclass := (SELECT a.relation FROM visrec.attachment AS a WHERE a.id = attachment);
    n visrec._names;
    seen boolean;
BEGIN
    IF visrec._owns(relation) OR has_function_privilege('visrec._monitor_coverage(integer)', 'EXECUTE') THEN
        RETURN true;
    ELSIF NOT coalesce(has_table_privilege(relation, 'SELECT'), false) THEN
        RETURN false;
    ELSIF NOT row_security_active(relation) THEN
        RETURN true;
    ELSIF NOT with_policies THEN
        RETURN false;
    END IF;
    n := visrec._resolve(attachment);
    -- As a literal: a parameter would be cast from text, and a cast may be anybody's.
    EXECUTE format('SELECT EXISTS (SELECT FROM %s AS t WHERE t.%s %s %L::%s)', n."table", n.key, n.equals, row_id, n.key_type)
    INTO seen;
    RETURN seen;
END
$$;
COMMENT ON FUNCTION visrec._sees_failure(integer, text, boolean) IS
    'Whether the current role may see a row''s failure: as the owner, by the right to monitor, or because it sees the row.';

CREATE VIEW visrec.failure AS
SELECT a.relation, a.name, f.row_id, f.image, f.code, f.message, f.attempts, f.first_try, f.last_try
FROM visrec.failed_row AS f JOIN visrec.attachment AS a ON a.id = f.attachment
WHERE visrec._sees_failure(f.attachment, f.row_id, false);
ALTER VIEW visrec.failure SET (security_barrier = true);
COMMENT ON VIEW visrec.failure IS
    'Rows whose image gave no vector, and why. A line goes when its row''s image is embedded, and when the row goes; '
    'visrec.retry tries all of a table''s again. Each role sees the failures of tables that it may read. Where row-level '
    'security limits what it sees of a table, it asks visrec.failures(table).';
COMMENT ON COLUMN visrec.failure.row_id IS 'the row''s primary key as text; a date or time in ISO 8601, in UTC';
COMMENT ON COLUMN visrec.failure.image IS 'the image''s path as the row has it; NULL for an image stored as bytea';
COMMENT ON COLUMN visrec.failure.code IS
    'missing, outside_roots, unreadable, too_large, bomb, timeout, truncated, not_an_image or encoder_unavailable';
GRANT SELECT ON visrec.failure TO PUBLIC;

-- A query of this view runs the policies of each table it finds, so none must find those of tables it does not name.
CREATE VIEW visrec.visible_failed_row WITH (security_barrier) AS
SELECT f.* FROM visrec.failed_row AS f WHERE visrec._sees_failure(f.attachment, f.row_id, true);
COMMENT ON VIEW visrec.visible_failed_row IS 'What visrec.failures and visrec.coverage read, of one attachment at a time.';
GRANT SELECT ON visrec.visible_failed_row TO PUBLIC;

CREATE FUNCTION visrec.failures(relation regclass, name name DEFAULT NULL) RETURNS TABLE (row_id text, image text, code text,
    message text, attempts integer, first_try timestamptz, last_try timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.row_id, f.image, f.code, f.message, f.attempts, f.first_try, f.last_try
    FROM visrec.visible_failed_row AS f WHERE f.attachment = visrec._find($1, $2) ORDER BY f.last_try, f.row_id
$$;
COMMENT ON FUNCTION visrec.failures(regclass, name) IS
    'The rows of an attached table whose image gave no vector, and why, as far as the current role sees the rows.';

-- Coverage --------------------------------------------------------------------------------------------

CREATE FUNCTION visrec._count_states(attachment integer) RETURNS TABLE (state text, rows bigint)
LANGUAGE plpgsql STABLE ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
BEGIN
    RETURN QUERY EXECUTE format($query$
        SELECT s.state, count(r.state)
        FROM (VALUES (1, 'embedded'), (2, 'pending'), (3, 'failed'), (4, 'no_image'), (5, 'stale')) AS s (place, state)
        LEFT JOIN (
            SELECT CASE
                WHEN t.%1$s IS NOT NULL THEN CASE WHEN $2 OR %2$s THEN 'stale' ELSE 'embedded' END
                WHEN NOT %3$s THEN 'no_image'
                WHEN f.row_id IS NOT NULL THEN 'failed'
                ELSE 'pending' END AS state
            FROM %4$s AS t
            LEFT JOIN (SELECT v.row_id FROM visrec.visible_failed_row AS v WHERE v.attachment = $1) AS f ON f.row_id = %5$s
        ) AS r ON r.state = s.state
        GROUP BY s.place, s.state ORDER BY s.place
        $query$, n.vector, n.stale, n.has_image, n."table", n.key_text)
    USING attachment, (SELECT m.fingerprint IS DISTINCT FROM n.fingerprint FROM visrec.model AS m WHERE m.name = n.model);
END
$$;
COMMENT ON FUNCTION visrec._count_states(integer) IS 'What visrec.coverage returns, of the rows that the current role sees.';

CREATE FUNCTION visrec._coverage(attachment integer) RETURNS TABLE (state text, rows bigint)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.state, (c ->> s.state)::bigint FROM visrec._call($1, 'coverage') AS c,
        unnest('{embedded,pending,failed,no_image,stale}'::text[]) WITH ORDINALITY AS s (state, n) ORDER BY s.n
$$;
COMMENT ON FUNCTION visrec._coverage(integer) IS 'What visrec.coverage returns, counted as the table''s owner.';

CREATE FUNCTION visrec._monitor_coverage(attachment integer) RETURNS TABLE (state text, rows bigint)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM visrec._coverage($1)
$$;
COMMENT ON FUNCTION visrec._monitor_coverage(integer) IS
    'visrec._coverage for a role with the right to monitor: as the extension''s owner, who calls the table''s owner''s function.';
REVOKE ALL ON FUNCTION visrec._monitor_coverage(integer) FROM PUBLIC;

CREATE FUNCTION visrec._note_hidden(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_class AS c JOIN pg_roles AS r ON r.oid = c.relowner
               WHERE c.oid = relation AND c.relrowsecurity AND c.relforcerowsecurity AND NOT (r.rolsuper OR r.rolbypassrls)) THEN
        RAISE NOTICE USING
            MESSAGE = format('row-level security binds the owner of table "%s"', visrec._label(relation)),
            DETAIL = 'Rows that it hides from the owner are neither counted nor embedded.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._note_hidden(regclass) IS 'Tells who acts for a table''s owner that the owner may not see all of it.';

CREATE FUNCTION visrec.coverage(relation regclass, name name DEFAULT NULL) RETURNS TABLE (state text, rows bigint)
LANGUAGE plpgsql ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    attachment integer := visrec._find(relation, name);
    a visrec.attachment;
    problem text;
BEGIN
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = attachment;
    problem := visrec._problem(a);
    IF problem IS NOT NULL THEN     -- no error: whoever looks at all tables sees the others
        RAISE WARNING USING
            MESSAGE = format('table "%s" has changed since it was attached', visrec._label(relation)),
            DETAIL = upper(left(problem, 1)) || substr(problem, 2) || '.', HINT = visrec._attach_call(a);
    ELSIF visrec._acts_for_owner(relation) THEN
        PERFORM visrec._note_hidden(relation);
        RETURN QUERY SELECT * FROM visrec._coverage(attachment);
    ELSIF NOT has_table_privilege(relation, 'SELECT')
        AND has_function_privilege('visrec._monitor_coverage(integer)', 'EXECUTE') THEN
        PERFORM visrec._note_hidden(relation);
        RETURN QUERY SELECT * FROM visrec._monitor_coverage(attachment);
    ELSE
        RETURN QUERY SELECT * FROM visrec._count_states(attachment);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    IF NOT visrec._acts_for_owner(relation) AND has_table_privilege(relation, 'SELECT') IS NOT TRUE
        AND NOT has_function_privilege('visrec._monitor_coverage(integer)', 'EXECUTE') THEN
        RAISE;
    END IF;
    RAISE WARNING '%', SQLERRM;
END
$$;
COMMENT ON FUNCTION visrec.coverage(regclass, name) IS
    'How many rows of an attached table are embedded, pending, failed, without an image, or stale (the vector is of '
    'other weights than the model''s, or of the image that the row had before); each row is in exactly one state. Counted '
    'as the table''s owner for its administrators and monitors, else as the caller. A file whose content changed under '
    'the same path counts as embedded until visrec.recheck has looked.';

-- Backfill, retry, recheck ----------------------------------------------------------------------------

CREATE FUNCTION visrec._tidy(n visrec._names) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Lines and rows that another session is at are passed over, so that nobody waits here.
    IF NOT row_security_active(n.relation) THEN     -- a row that cannot be seen is not gone
        EXECUTE format($query$
            UPDATE visrec.own_failed_row AS f SET gone = true WHERE f.attachment = $1 AND f.row_id = ANY (ARRAY(
                SELECT g.row_id FROM visrec.own_failed_row AS g WHERE g.attachment = $1 AND g.row_id <> ALL (ARRAY(
                    SELECT %s FROM %s AS t WHERE %s AND t.%s %s ANY (ARRAY(
                        SELECT h.row_id FROM visrec.own_failed_row AS h WHERE h.attachment = $1)::%s[])))
                FOR UPDATE SKIP LOCKED))
            $query$, n.key_text, n."table", n.due, n.key, n.equals, n.key_type)
        USING n.id;
    END IF;
    EXECUTE format($query$
        UPDATE %1$s AS t SET %2$s = NULL, %3$s = NULL
        WHERE t.%4$s %5$s ANY (ARRAY(
            SELECT t.%4$s FROM %1$s AS t WHERE NOT %6$s AND t.%2$s IS NOT NULL AND t.%3$s[1] IS NOT NULL
            FOR NO KEY UPDATE SKIP LOCKED))
        $query$, n."table", n.vector, n.source, n.key, n.equals, n.has_image);
END
$$;
COMMENT ON FUNCTION visrec._tidy(visrec._names) IS
    'Removes the failures of rows that are gone or healed, and the vectors of images that are gone, while triggers were off.';

CREATE FUNCTION visrec._count_due(n visrec._names) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    due bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM %s AS t WHERE %s', n."table", n.due) INTO due;
    RETURN to_jsonb(due);
END
$$;
COMMENT ON FUNCTION visrec._count_due(visrec._names) IS 'How many rows are to be embedded.';

CREATE FUNCTION visrec._count_vectors(n visrec._names) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    vectors bigint;
BEGIN
    EXECUTE format('SELECT count(t.%s) FROM %s AS t', n.vector, n."table") INTO vectors;
    RETURN to_jsonb(vectors);
END
$$;
COMMENT ON FUNCTION visrec._count_vectors(visrec._names) IS 'How many rows have a vector.';

CREATE FUNCTION visrec._retry_failures(n visrec._names, schemas name[]) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys text[] := ARRAY(SELECT f.row_id FROM visrec.own_failed_row AS f WHERE f.attachment = n.id ORDER BY f.row_id);
BEGIN
    PERFORM visrec._embed_rows(n, nullif(keys, '{}'), schemas, may_raise => false, lock => true);
    RETURN to_jsonb(cardinality(keys) - (SELECT count(*) FROM visrec.own_failed_row AS f
                                         WHERE f.attachment = n.id AND f.row_id = ANY (keys)));
END
$$;
COMMENT ON FUNCTION visrec._retry_failures(visrec._names, name[]) IS 'What visrec.retry does, as the table''s owner.';

CREATE FUNCTION visrec._find_changed(n visrec._names, after text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    size CONSTANT integer := CASE WHEN n.holds_bytes THEN 100 ELSE 1000 END;
    keys text[];
    paths text[];
    kept bigint[];
    stamps bigint[];
    changed bigint;
BEGIN
    EXECUTE format('SELECT array_agg(s.key ORDER BY s.id), array_agg(s.path ORDER BY s.id), array_agg(s.kept ORDER BY s.id), '
        'array_agg(s.stamp ORDER BY s.id) FROM (SELECT t.%1$s AS id, %2$s AS key, %3$s AS path, t.%4$s[2] AS kept, %5$s AS stamp '
        'FROM %6$s AS t WHERE t.%7$s IS NOT NULL AND t.%4$s[1] IS NOT NULL AND t.%4$s[2] IS NOT NULL AND t.%8$s IS NOT NULL%9$s ORDER BY t.%1$s LIMIT %10$s) AS s',
        n.key, n.key_text, CASE WHEN n.holds_bytes THEN 'NULL::text' ELSE format('t.%s::text', n.image) END, n.source,
        CASE WHEN n.holds_bytes THEN format('visrec._stamp(t.%s::bytea)', n.image) ELSE 'NULL::bigint' END, n."table", n.vector, n.image,
        CASE WHEN after IS NOT NULL THEN format(' AND t.%s %s ($1)::%s', n.key, n.greater, n.key_type) END, size)
    INTO keys, paths, kept, stamps USING after;
    IF keys IS NULL THEN
        RETURN NULL;
    ELSIF NOT n.holds_bytes THEN
        stamps := ARRAY(SELECT e.stamp::bigint FROM jsonb_array_elements_text(visrec._checked(visrec._file_stamps(paths)) -> 'stamps')
                        WITH ORDINALITY AS e (stamp, n) ORDER BY e.n);
    END IF;
    -- A source that no image has: the vector is stale, and the next backfill looks at the image again.
    EXECUTE format('UPDATE %1$s AS t SET %2$s = ARRAY[0, NULL]::bigint[] WHERE t.%3$s %4$s ANY (ARRAY(SELECT c.key FROM '
        'unnest($1, $2, $3) AS c (key, kept, stamp) WHERE c.kept IS DISTINCT FROM c.stamp)::%5$s[])',
        n."table", n.source, n.key, n.equals, n.key_type) USING keys, kept, stamps;
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN jsonb_build_object('changed', changed, 'last', keys[cardinality(keys)]);
END
$$;
COMMENT ON FUNCTION visrec._find_changed(visrec._names, text) IS 'What visrec.recheck does with the next rows, as the table''s owner.';

CREATE FUNCTION visrec._start_backfill(relation regclass, name name, batch_size integer, max_rows bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    attachment integer := visrec._find(relation, name);
BEGIN
    PERFORM visrec._check_owner(relation);
    IF batch_size IS NULL OR batch_size < 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('batch_size must be at least 1, not %s', coalesce(batch_size::text, 'NULL'));
    ELSIF max_rows < 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('max_rows must be at least 0, not %s', max_rows);
    END IF;
    RETURN attachment;
END
$$;
COMMENT ON FUNCTION visrec._start_backfill(regclass, name, integer, bigint) IS
    'The attachment that is to be backfilled; checks the caller and the arguments.';

CREATE PROCEDURE visrec.backfill(relation regclass, batch_size integer DEFAULT 64, max_rows bigint DEFAULT NULL,
    name name DEFAULT NULL)
LANGUAGE plpgsql AS $$
-- It commits, so it can have no SET clause: the search path is set anew in each transaction.
DECLARE
    schemas CONSTANT pg_catalog.jsonb := pg_catalog.to_jsonb(pg_catalog.current_schemas(false));
    attachment integer;
    committed boolean;
    total bigint;
    wanted bigint;
    outcome pg_catalog.jsonb;
    after pg_catalog.text;
    embedded bigint := 0;
    failed bigint := 0;
    started pg_catalog.timestamptz := pg_catalog.clock_timestamp();
    told pg_catalog.timestamptz := started;
    seconds double precision;
BEGIN
    CALL visrec._commit(committed);     -- before any work
    IF NOT committed THEN
        RAISE invalid_transaction_termination USING
            MESSAGE = 'visrec.backfill cannot run inside a transaction block',
            DETAIL = 'It commits after each batch.',
            HINT = 'Call it by itself: in psql outside BEGIN, with a driver in autocommit mode.';
    END IF;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    attachment := visrec._start_backfill(relation, name, batch_size, max_rows);
    total := least((visrec._call(attachment, 'count_due'))::bigint, max_rows);
    PERFORM visrec._call(attachment, 'tidy');
    WHILE max_rows IS NULL OR embedded + failed < max_rows LOOP
        wanted := coalesce(max_rows - embedded - failed, 2 * batch_size::bigint);
        outcome := visrec._checked(visrec._call(attachment, 'batch', jsonb_build_object('after', after, 'schemas', schemas,
            'size', least(batch_size, wanted), 'following', least(batch_size, greatest(wanted - batch_size, 0)))),
            format('could not backfill table "%s"', visrec._label(relation)));
        after := outcome ->> 'last';
        EXIT WHEN after IS NULL;
        embedded := embedded + (outcome ->> 'embedded')::bigint;
        failed := failed + (outcome ->> 'failed')::bigint;
        COMMIT;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        IF clock_timestamp() - told > interval '5 seconds' THEN
            told := clock_timestamp();
            seconds := extract(epoch FROM told - started);
            RAISE NOTICE '%: % of % rows, % rows/s, % left', visrec._label(relation), embedded + failed, total,
                round(((embedded + failed) / seconds)::numeric, 1),
                make_interval(secs => round(seconds * greatest(total - embedded - failed, 0) / (embedded + failed)));
        END IF;
    END LOOP;
    seconds := extract(epoch FROM clock_timestamp() - started);
    RAISE NOTICE '%: % rows embedded, % failed, in % s (% rows/s)', visrec._label(relation), embedded, failed,
        round(seconds::numeric, 1), round(((embedded + failed) / seconds)::numeric, 1);
    PERFORM visrec._note_hidden(relation);
    IF failed > 0 THEN
        RAISE WARNING USING
            MESSAGE = format('%s of %s images could not be embedded', failed, embedded + failed),
            HINT = format('SELECT * FROM visrec.failure WHERE relation = %L::regclass;', relation);
    END IF;
END
$$;
COMMENT ON PROCEDURE visrec.backfill(regclass, integer, bigint, name) IS
    'Embeds the rows that have an image and no vector, or the vector of another image or model, batch by batch, each '
    'committed: it can be interrupted, called again, and run in several sessions at once. Rows that failed before are '
    'tried again. Whoever calls it, the rows are written with the rights of the table''s owner.';
REVOKE ALL ON PROCEDURE visrec.backfill(regclass, integer, bigint, name) FROM PUBLIC;

CREATE FUNCTION visrec.retry(relation regclass, name name DEFAULT NULL) RETURNS bigint
-- Without a search_path of its own: it hands that of the statement on.
LANGUAGE plpgsql AS $$
DECLARE
    schemas CONSTANT pg_catalog.jsonb := pg_catalog.to_jsonb(pg_catalog.current_schemas(false));
BEGIN
    RETURN visrec._retry(relation, name, schemas);
END
$$;
COMMENT ON FUNCTION visrec.retry(regclass, name) IS 'Tries the rows in visrec.failure again; returns how many of them are embedded now.';
REVOKE ALL ON FUNCTION visrec.retry(regclass, name) FROM PUBLIC;

CREATE FUNCTION visrec._retry(relation regclass, name name, schemas jsonb) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM visrec._check_owner(relation);
    RETURN visrec._call(visrec._find(relation, name), 'retry', jsonb_build_object('schemas', schemas));
END
$$;
COMMENT ON FUNCTION visrec._retry(regclass, name, jsonb) IS 'What visrec.retry does; schemas: the search_path of its caller.';

CREATE FUNCTION visrec.recheck(relation regclass, name name DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    attachment integer := visrec._find(relation, name);
    outcome jsonb := '{}';
    changed bigint := 0;
BEGIN
    PERFORM visrec._check_owner(relation);
    LOOP
        outcome := visrec._call(attachment, 'recheck', jsonb_build_object('after', outcome -> 'last'));
        EXIT WHEN outcome IS NULL;
        changed := changed + (outcome ->> 'changed')::bigint;
    END LOOP;
    IF changed > 0 THEN
        RAISE NOTICE USING
            MESSAGE = format('%s images of table "%s" have changed', changed, visrec._label(relation)),
            HINT = format('CALL visrec.backfill(%L%s);', relation, visrec._name_argument(attachment));
    END IF;
    RETURN changed;
END
$$;
COMMENT ON FUNCTION visrec.recheck(regclass, name) IS
    'Checks whether the images of a table are still those that were embedded: files by their size and time of modification, '
    'bytea by all of its bytes. Rows whose image changed, or can no longer be read, become stale; returns how many.';
REVOKE ALL ON FUNCTION visrec.recheck(regclass, name) FROM PUBLIC;
