-- Backfill, retry and recheck: how rows without a vector, or with an outdated one, get theirs.

CREATE FUNCTION visrec._tidy(n visrec._names) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    path text;
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
    path := visrec._enter_path(visrec._safe_path(n.path));
    EXECUTE pg_catalog.format($query$
        UPDATE %1$s AS t SET %2$s = NULL, %3$s = NULL
        WHERE t.%4$s %5$s ANY (ARRAY(
            SELECT t.%4$s FROM %1$s AS t WHERE NOT %6$s AND t.%2$s IS NOT NULL AND t.%3$s[1] IS NOT NULL
            FOR NO KEY UPDATE SKIP LOCKED))
        $query$, n."table", n.vector, n.source, n.key, n.equals, n.has_image);
    PERFORM visrec._leave_path(path);
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

CREATE FUNCTION visrec._find_changed(n visrec._names, after text, schemas name[]) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    size CONSTANT integer := CASE WHEN n.holds_bytes THEN 100 ELSE 1000 END;
    keys text[];
    paths text[];
    kept bigint[];
    stamps bigint[];
    changed bigint;
    path text;
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
    path := visrec._enter_path(visrec._safe_path(schemas || n.path));
    EXECUTE pg_catalog.format('UPDATE %1$s AS t SET %2$s = ARRAY[0, NULL]::bigint[] WHERE t.%3$s %4$s ANY (ARRAY(SELECT c.key FROM '
        'ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS c (key, kept, stamp) WHERE (c.kept OPERATOR(pg_catalog.=) c.stamp) IS NOT TRUE)::%5$s[])',
        n."table", n.source, n.key, n.equals, n.key_type) USING keys, kept, stamps;
    GET DIAGNOSTICS changed = ROW_COUNT;
    PERFORM visrec._leave_path(path);
    RETURN jsonb_build_object('changed', changed, 'last', keys[cardinality(keys)]);
END
$$;
COMMENT ON FUNCTION visrec._find_changed(visrec._names, text, name[]) IS 'What visrec.recheck does with the next rows, as the table''s owner.';

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
    first boolean := true;
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
        IF first AND max_rows IS NULL AND total >= 10000 THEN       -- images are being embedded, so vectors will come
            PERFORM visrec._set_index_aside(attachment, total);
        END IF;
        first := false;
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
    COMMIT;
    IF embedded > 0 THEN
        CALL visrec._build_what_lacks(attachment);
        COMMIT;
    END IF;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    IF embedded >= 1000 THEN
        PERFORM visrec._tune_again(attachment, least(greatest(seconds / 10, 1), 30), false);
    END IF;
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
    'tried again. Of a table of 10,000 rows or more without vectors the index is built at the end, in a second session as by '
    'visrec.reindex, where the caller is the owner and has one without a connection string. Where it wrote 1000 or more and the table '
    'has doubled since, it ends with visrec.tune, for a tenth of its own time (1 to 30 s). Whoever calls it, the rows are written with the rights of the table''s owner.';
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

CREATE FUNCTION visrec._recheck(relation regclass, name name, schemas jsonb) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    attachment integer := visrec._find(relation, name);
    outcome jsonb := '{}';
    changed bigint := 0;
BEGIN
    PERFORM visrec._check_owner(relation);
    LOOP
        outcome := visrec._call(attachment, 'recheck', jsonb_build_object('after', outcome -> 'last', 'schemas', schemas));
        EXIT WHEN outcome IS NULL;
        changed := changed + (outcome ->> 'changed')::bigint;
    END LOOP;
    IF changed > 0 THEN
        RAISE NOTICE USING
            MESSAGE = format(CASE changed WHEN 1 THEN '%s image of table "%s" has changed' ELSE '%s images of table "%s" have changed' END,
                changed, visrec._label(relation)),
            HINT = format('CALL visrec.backfill(%L%s);', relation, visrec._name_argument(attachment));
    END IF;
    RETURN changed;
END
$$;
COMMENT ON FUNCTION visrec._recheck(regclass, name, jsonb) IS 'What visrec.recheck does; schemas: the search_path of its caller.';

CREATE FUNCTION visrec.recheck(relation regclass, name name DEFAULT NULL) RETURNS bigint
-- Without a search_path of its own: it hands that of the statement on.
LANGUAGE plpgsql AS $$
DECLARE
    schemas CONSTANT pg_catalog.jsonb := pg_catalog.to_jsonb(pg_catalog.current_schemas(false));
BEGIN
    RETURN visrec._recheck(relation, name, schemas);
END
$$;
COMMENT ON FUNCTION visrec.recheck(regclass, name) IS
    'Checks whether the images of a table are still those that were embedded: files by their size and time of modification, '
    'bytea by all of its bytes. Rows whose image changed, or can no longer be read, become stale; returns how many.';
REVOKE ALL ON FUNCTION visrec.recheck(regclass, name) FROM PUBLIC;
