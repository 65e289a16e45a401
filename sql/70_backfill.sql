-- Backfill, retry, coverage: which rows have a vector, and how the others get one.

-- Whoever calls, the table's rows are read and written by a function of its owner's (SECURITY DEFINER), as in its
-- triggers: what the owner hung on the table never runs with the rights of an administrator who backfills it.

CREATE FUNCTION visrec._do_as_owner(relation oid, config jsonb, task text, arguments jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    CASE task
    WHEN 'tidy' THEN
        PERFORM visrec._drain_queue(relation);      -- of direct updates of partitions; they are pending
        PERFORM visrec._forget_failures(relation, config);
        PERFORM visrec._forget_vectors(relation, config);
        RETURN to_jsonb(row_security_active(relation));
    WHEN 'batch' THEN
        RETURN visrec._backfill_batch(relation, config, arguments ->> 'after', (arguments ->> 'size')::integer,
            (arguments ->> 'following')::integer);
    WHEN 'retry' THEN
        PERFORM visrec._embed_rows(relation, config || '{"on_error": "record", "lock": true}',
            ARRAY(SELECT jsonb_array_elements_text(arguments)));
    END CASE;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION visrec._do_as_owner(oid, jsonb, text, jsonb) IS
    'What visrec_backfill_<table> does. Open to all, since what embeds in it is not.';

CREATE FUNCTION visrec._as_owner(relation oid, config jsonb, task text, arguments jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text := format('%I.%I', config ->> 'functions_schema',
        visrec._function_name('visrec_backfill_', config ->> 'functions_name'));
    function regprocedure := to_regprocedure(name || '(text, jsonb)');
    sound boolean;
    result jsonb;
BEGIN
    IF function IS NULL THEN    -- a table attached under 0.1.0
        RETURN visrec._do_as_owner(relation, config, task, arguments);
    END IF;
    IF (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        -- Nobody changes the function between this look and the call.
        PERFORM FROM pg_proc AS p WHERE p.oid = function FOR SHARE;
    END IF;
    SELECT p.prosecdef AND p.proowner = c.relowner INTO sound
    FROM pg_proc AS p, pg_class AS c WHERE p.oid = function AND c.oid = relation;
    IF NOT sound THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('function %s does not run as the owner of table "%s"', function, relation::regclass),
            HINT = format('SELECT visrec.attach(%L, …) makes it anew.', relation::regclass);
    END IF;
    EXECUTE format('SELECT %s($1, $2)', name) INTO result USING task, arguments;
    RETURN result;
END
$$;
COMMENT ON FUNCTION visrec._as_owner(oid, jsonb, text, jsonb) IS 'Does a task on a table''s rows with its owner''s rights.';

CREATE FUNCTION visrec._make_backfill(relation regclass, config jsonb) RETURNS regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    function regprocedure;
BEGIN
    function := visrec._make_function(relation, config, 'visrec_backfill_', '',
        arguments => 'text, jsonb',
        declaration => 'task text, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER '
            'SET search_path = pg_catalog, pg_temp',
        comment => format('Reads and writes the rows of %s for visrec.backfill and visrec.retry.', relation),
        body => format($body$
BEGIN
    RETURN visrec._do_as_owner(%1$L::regclass, visrec._attachment(%1$L), task, arguments);
END
$body$, relation));
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);
    RETURN function;
END
$$;
COMMENT ON FUNCTION visrec._make_backfill(regclass, jsonb) IS 'Writes visrec_backfill_<table>.';

CREATE FUNCTION visrec._forget_failures(relation oid, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
BEGIN
    IF row_security_active(relation) THEN   -- a row that cannot be seen is not gone
        RETURN;
    END IF;
    SELECT * INTO names FROM visrec._names(relation, config);
    -- Lines that another session is at are passed over, so that nobody waits here.
    EXECUTE format($query$
        DELETE FROM visrec.failure AS f WHERE f.relation = $1 AND f.row_id = ANY (ARRAY(
            SELECT g.row_id FROM visrec.failure AS g WHERE g.relation = $1 AND NOT EXISTS (
                SELECT FROM %s AS t
                WHERE t.%s %s g.row_id::%s AND t.%s IS NOT NULL AND %s)
            FOR UPDATE SKIP LOCKED))
        $query$, names."table", names.key, names.equals, names.key_type, names.image, names.unembedded)
    USING relation;
END
$$;
COMMENT ON FUNCTION visrec._forget_failures(oid, jsonb) IS
    'Removes the failures of rows that are gone or healed while triggers were off.';

CREATE FUNCTION visrec._forget_vectors(relation oid, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
BEGIN
    SELECT * INTO names FROM visrec._names(relation, config);
    IF names.source IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format($query$
        UPDATE %1$s AS t SET %2$s = NULL, %3$s = NULL
        WHERE t.%4$s %5$s ANY (ARRAY(
            SELECT t.%4$s FROM %1$s AS t WHERE t.%6$s IS NULL AND t.%2$s IS NOT NULL AND t.%3$s IS NOT NULL
            FOR NO KEY UPDATE SKIP LOCKED))
        $query$, names."table", names.vector, names.source, names.key, names.equals, names.image);
END
$$;
COMMENT ON FUNCTION visrec._forget_vectors(oid, jsonb) IS
    'Takes away the vectors of images that their rows lost while triggers were off.';

CREATE PROCEDURE visrec.backfill(relation regclass, batch_size integer DEFAULT 64, max_rows bigint DEFAULT NULL)
LANGUAGE plpgsql AS $$
-- It commits, so it can have no SET clause: the search path is set anew in each transaction.
DECLARE
    config jsonb;
    names record;
    total bigint;
    wanted bigint;
    after text;
    outcome jsonb;
    embedded bigint := 0;
    failed bigint := 0;
    hidden boolean;
    started timestamptz := pg_catalog.clock_timestamp();
    told timestamptz := started;
    seconds double precision;
BEGIN
    COMMIT;     -- fails here, before any work, inside a transaction block
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    config := visrec._attachment(relation);
    PERFORM visrec._check_owner(relation);
    IF batch_size IS NULL OR batch_size < 1 OR max_rows < 0 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('cannot backfill %s rows in batches of %s', coalesce(max_rows::text, 'all'), batch_size);
    END IF;
    SELECT * INTO names FROM visrec._names(relation, config);
    EXECUTE format('SELECT count(*) FROM %s AS t WHERE t.%s IS NOT NULL AND %s',
        names."table", names.image, names.unembedded) INTO total;
    total := least(total, max_rows);
    hidden := visrec._as_owner(relation, config, 'tidy', NULL) = 'true';
    WHILE max_rows IS NULL OR embedded + failed < max_rows LOOP
        wanted := coalesce(max_rows - embedded - failed, 2 * batch_size::bigint);
        outcome := visrec._as_owner(relation, config, 'batch', jsonb_build_object('after', after,
            'size', least(batch_size, wanted), 'following', least(batch_size, greatest(wanted - batch_size, 0))));
        IF outcome ->> 'error' IS NOT NULL THEN
            PERFORM visrec._raise(outcome -> 'error', format('could not backfill table "%s"', relation));
        END IF;
        after := outcome ->> 'last';
        EXIT WHEN after IS NULL;
        embedded := embedded + (outcome ->> 'embedded')::bigint;
        failed := failed + (outcome ->> 'failed')::bigint;
        COMMIT;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        IF clock_timestamp() - told > interval '5 seconds' THEN
            told := clock_timestamp();
            seconds := extract(epoch FROM told - started);
            RAISE NOTICE '%: % of % rows, % rows/s, % left', relation, embedded + failed, total,
                round(((embedded + failed) / seconds)::numeric, 1),
                make_interval(secs => round(seconds * greatest(total - embedded - failed, 0) / (embedded + failed)));
        END IF;
    END LOOP;
    seconds := extract(epoch FROM clock_timestamp() - started);
    RAISE NOTICE '%: % rows embedded, % failed, in % s (% rows/s)', relation, embedded, failed,
        round(seconds::numeric, 1), round(((embedded + failed) / seconds)::numeric, 1);
    IF hidden AND total > embedded + failed THEN
        PERFORM visrec._warn_hidden(relation, total - embedded - failed);
    END IF;
    IF failed > 0 THEN
        RAISE WARNING USING
            MESSAGE = format('%s of %s images could not be embedded', failed, embedded + failed),
            HINT = format('SELECT * FROM visrec.failure WHERE relation = %L::regclass', relation);
    END IF;
END
$$;
COMMENT ON PROCEDURE visrec.backfill(regclass, integer, bigint) IS
    'Embed the rows that have an image and no vector, or the vector of another image or model, batch by batch, each '
    'committed: it can be interrupted, called again, and run in several sessions at once. Rows that failed before are '
    'tried again. Whoever calls it, the rows are written with the rights of the table''s owner.';
REVOKE ALL ON PROCEDURE visrec.backfill(regclass, integer, bigint) FROM PUBLIC;

CREATE FUNCTION visrec.retry(relation regclass) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    ids text[];
BEGIN
    PERFORM visrec._check_owner(relation);
    PERFORM visrec._as_owner(relation, config, 'tidy', NULL);
    SELECT coalesce(array_agg(f.row_id ORDER BY f.row_id), '{}') INTO ids
    FROM visrec.failure AS f WHERE f.relation = retry.relation;
    PERFORM visrec._as_owner(relation, config, 'retry', to_jsonb(ids));
    RETURN cardinality(ids) - (SELECT count(*) FROM visrec.failure AS f
                               WHERE f.relation = retry.relation AND f.row_id = ANY (ids));
END
$$;
COMMENT ON FUNCTION visrec.retry(regclass) IS 'Try the rows in visrec.failure again; how many left it.';
REVOKE ALL ON FUNCTION visrec.retry(regclass) FROM PUBLIC;

CREATE FUNCTION visrec.coverage(relation regclass, OUT state text, OUT rows bigint) RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 5 SET search_path = pg_catalog, pg_temp SET visrec.failures_of = '' AS $$
#variable_conflict use_column
DECLARE
    config jsonb := visrec._attachment(relation);
    names record;
    stale boolean;
BEGIN
    SELECT * INTO names FROM visrec._names(relation, config);
    PERFORM set_config('visrec.failures_of', relation::oid::text, true);    -- see the policy of visrec.failure
    SELECT m.fingerprint IS DISTINCT FROM config ->> 'fingerprint' INTO stale
    FROM visrec.model AS m WHERE m.name = config ->> 'model';
    RETURN QUERY EXECUTE format($query$
        SELECT s.state, count(r.state)
        FROM (VALUES (1, 'embedded'), (2, 'pending'), (3, 'failed'), (4, 'no_image'), (5, 'stale')) AS s (place, state)
        LEFT JOIN (
            SELECT CASE
                WHEN t.%2$s IS NOT NULL THEN CASE WHEN $2 OR %5$s THEN 'stale' ELSE 'embedded' END
                WHEN t.%3$s IS NULL THEN 'no_image'
                WHEN f.row_id IS NOT NULL THEN 'failed'
                ELSE 'pending' END AS state
            FROM %1$s AS t
            LEFT JOIN visrec.failure AS f ON f.relation = $1 AND f.row_id = %4$s
        ) AS r ON r.state = s.state
        GROUP BY s.place, s.state ORDER BY s.place
        $query$, names."table", names.vector, names.image, names.key_text, names.stale)
    USING relation, stale;
END
$$;
COMMENT ON FUNCTION visrec.coverage(regclass) IS
    'How many rows of an attached table are embedded, pending, failed, without an image, or stale (the vector is of '
    'other weights than the model''s, or of the image that the row had before); each row is in exactly one state.';
