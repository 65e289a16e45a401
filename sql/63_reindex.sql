-- reindex: the index of an attached table anew, beside the one that is there. PostgreSQL builds an index while others write only in
-- a statement of its own, outside of any function. So a second session has to do it: see 62_session.sql.

CREATE FUNCTION visrec._wanted_index(relation regclass, method text, metric text, name name, m integer, ef_construction integer)
RETURNS visrec.attachment
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(visrec._find(relation, name));
    a visrec.attachment;
BEGIN
    PERFORM visrec._check_owner(relation);
    n.index_method := coalesce(method, 'NULL');
    n.index_metric := coalesce(metric, 'NULL');
    PERFORM visrec._check_index(n);
    IF coalesce(m, ef_construction) IS NOT NULL AND method NOT LIKE 'hnsw%' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('index method "%s" has neither m nor ef_construction', method),
            DETAIL = 'They are of hnsw, hnsw_half and hnsw_binary.';
    ELSIF m NOT BETWEEN 2 AND 100 OR ef_construction NOT BETWEEN 4 AND 1000 OR ef_construction < 2 * coalesce(m, 16) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('cannot build an index with m = %s and ef_construction = %s', coalesce(m, 16), coalesce(ef_construction, 64)),
            DETAIL = 'm is from 2 to 100, ef_construction from 4 to 1000 and at least twice m.';
    END IF;
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = n.id;
    a := visrec._as_now(a);
    IF (a.index_method, a.index_metric) <> (method, metric) THEN
        a := visrec._untuned(a);
    END IF;
    a.index_method := method;
    a.index_metric := metric;
    a.components := NULL;
    RETURN a;
END
$$;
COMMENT ON FUNCTION visrec._wanted_index(regclass, text, text, name, integer, integer) IS
    'An attachment as it will be with another index; checks the caller and the arguments.';

CREATE FUNCTION visrec._reindex_here(relation regclass, method text, metric text, name name, m integer, ef_construction integer)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM visrec._replace_index(visrec._wanted_index(relation, method, metric, name, m, ef_construction), m, ef_construction);
END
$$;
COMMENT ON FUNCTION visrec._reindex_here(regclass, text, text, name, integer, integer) IS
    'Builds the index anew in this session; writers of the table wait.';

-- The swap -----------------------------------------------------------------------------------------

CREATE FUNCTION visrec._beside_statement(a visrec.attachment, m integer, ef_construction integer) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(a.id);
BEGIN
    IF EXISTS (SELECT FROM visrec._leftovers(a) AS l JOIN pg_stat_progress_create_index AS p ON p.index_relid = l.index) THEN
        RAISE object_in_use USING
            MESSAGE = format('the index of table "%s" is being built by another session', visrec._label(a.relation)),
            HINT = 'SELECT * FROM pg_stat_progress_create_index;';
    END IF;
    n.index_method := a.index_method;
    n.index_metric := a.index_metric;
    RETURN format('CREATE INDEX CONCURRENTLY %I ON %s %s', format('visrec_%s_new', a.id), a.relation,
        visrec._index_definition(n, m, ef_construction));
END
$$;
COMMENT ON FUNCTION visrec._beside_statement(visrec.attachment, integer, integer) IS
    'The statement that builds an attachment''s index beside the one that is there.';

CREATE FUNCTION visrec._free_name(a visrec.attachment) RETURNS name
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.name FROM pg_class AS c, generate_series(0, 1000) AS i,
        visrec._fitted_name('', c.relname || '_' || a.columns[3], a.id, '_idx' || coalesce(nullif(i, 0)::text, '')) AS f (name)
    WHERE c.oid = a.relation AND NOT EXISTS (SELECT FROM pg_class AS o WHERE o.relnamespace = c.relnamespace AND o.relname = f.name)
    ORDER BY i LIMIT 1
$$;
COMMENT ON FUNCTION visrec._free_name(visrec.attachment) IS 'A name for an attachment''s index, as PostgreSQL would choose it.';

CREATE FUNCTION visrec._swap_index(attachment integer, method text, metric text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    a visrec.attachment;
    built regclass;
    former regclass;
    name name;
    label text;
BEGIN
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = attachment;
    a := visrec._as_now(a);
    PERFORM visrec._check_owner(a.relation);
    built := (SELECT l.index FROM visrec._leftovers(a) AS l JOIN pg_index AS x ON x.indexrelid = l.index AND x.indisvalid WHERE l.is_new);
    former := (SELECT min(i.index::oid) FROM visrec._indexes(a.relation, a.numbers[3]) AS i WHERE i.made AND i.access <> 'btree');
    name := coalesce((SELECT c.relname FROM pg_class AS c WHERE c.oid = former), visrec._free_name(a));
    IF (a.index_method, a.index_metric) <> (method, metric) THEN
        a := visrec._untuned(a);
    END IF;
    a.index_method := method;
    a.index_metric := metric;
    a.components := NULL;
    a := visrec._write_attachment(a);
    -- Renaming does not wait for those who use the index.
    IF former IS NOT NULL THEN
        EXECUTE format('ALTER INDEX %s RENAME TO %I', former, format('visrec_%s_old', attachment));
        IF obj_description(former, 'pg_class') IS NOT NULL THEN
            EXECUTE format('COMMENT ON INDEX %s IS %L', built, obj_description(former, 'pg_class'));
        END IF;
    END IF;
    EXECUTE format('ALTER INDEX %s RENAME TO %I', built, name);
    EXECUTE format('ALTER INDEX %s DEPENDS ON EXTENSION visrec', built);        -- which waits for them, and is last
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION visrec._swap_index(integer, text, text) IS
    'Puts the index that was built beside in the place, and under the name, of the one before; false where it could not within '
    'a tenth of a second, for which writers may have waited.';

CREATE PROCEDURE visrec._reindex_beside(attachment integer, method text, metric text, m integer, ef_construction integer)
LANGUAGE plpgsql AS $$
-- It commits, so it can have no SET clause.
DECLARE
    a visrec.attachment;
    statement pg_catalog.text;
    leftovers pg_catalog.text[];
    leftover pg_catalog.text;
    problem pg_catalog.text;
    cause pg_catalog.text;
    cancelled boolean;
    ignored boolean;
    swapped boolean;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = attachment;
    a.index_method := method;
    a.index_metric := metric;
    statement := visrec._beside_statement(a, m, ef_construction);
    leftovers := ARRAY(SELECT l.index::text FROM visrec._leftovers(a) AS l);
    FOREACH leftover IN ARRAY leftovers LOOP        -- of a call that did not end
        CALL visrec._run_beside(a.relation, format('DROP INDEX CONCURRENTLY %s', leftover), cause, cancelled);
        EXIT WHEN cause IS NOT NULL;
    END LOOP;
    IF cause IS NULL THEN
        CALL visrec._run_beside(a.relation, statement, cause, cancelled);
    END IF;
    IF cause IS NOT NULL THEN
        leftovers := ARRAY(SELECT l.index::text FROM visrec._leftovers(a) AS l);
        FOREACH leftover IN ARRAY leftovers LOOP
            EXIT WHEN problem IS NOT NULL;      -- the session is gone, perhaps
            CALL visrec._run_beside(a.relation, format('DROP INDEX CONCURRENTLY %s', leftover), problem, ignored);
        END LOOP;
        PERFORM visrec._close_session();
        RAISE USING
            ERRCODE = CASE WHEN cancelled THEN 'query_canceled' ELSE 'object_not_in_prerequisite_state' END,
            MESSAGE = format('could not build the index of table "%s": %s', visrec._label(a.relation), cause),
            DETAIL = CASE WHEN problem IS NULL THEN 'What was there before is as it was.'
                ELSE format('What was there before is as it was. The unfinished index %s is left.', leftover) END,
            HINT = CASE WHEN problem IS NOT NULL THEN format('DROP INDEX CONCURRENTLY %s;', leftover) ELSE '' END;
    END IF;
    FOR attempt IN 1 .. 10 LOOP         -- a second of waiting writers at most, in all
        COMMIT;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        swapped := visrec._swap_index(attachment, method, metric);
        EXIT WHEN swapped;
        COMMIT;
        PERFORM pg_catalog.pg_sleep(least(2 ^ attempt / 4, 60));
    END LOOP;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    IF NOT swapped THEN
        PERFORM visrec._close_session();
        RAISE lock_not_available USING
            MESSAGE = format('could not put the new index of table "%s" in place', visrec._label(a.relation)),
            DETAIL = 'Long transactions have written to the table. Both indexes are there.',
            HINT = 'Call again once they have ended.';
    END IF;
    COMMIT;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    leftovers := ARRAY(SELECT l.index::text FROM visrec._leftovers(a) AS l);
    FOREACH leftover IN ARRAY leftovers LOOP
        CALL visrec._run_beside(a.relation, format('DROP INDEX CONCURRENTLY %s', leftover), problem, cancelled);
        IF problem IS NOT NULL THEN
            RAISE WARNING USING
                MESSAGE = format('could not drop index %s, which is no longer used: %s', leftover, problem),
                HINT = format('DROP INDEX CONCURRENTLY %s;', leftover);
        END IF;
    END LOOP;
    PERFORM visrec._close_session();
    -- Has the registry's trigger drop a projection that no index is made of any more.
    UPDATE visrec.own_attachment AS o SET relation = o.relation WHERE o.id = attachment;
    COMMIT;
END
$$;
COMMENT ON PROCEDURE visrec._reindex_beside(integer, text, text, integer, integer) IS
    'Builds an attachment''s index in the second session, puts it in the place of the one before, and drops that.';

CREATE FUNCTION visrec._beside(a visrec.attachment, m integer, ef_construction integer, connection text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(a.id);
    parts record;
    reason text;
BEGIN
    n.index_method := a.index_method;
    n.index_metric := a.index_metric;
    parts := visrec._index_parts(n);
    IF a.index_method = 'none' OR EXISTS (SELECT FROM visrec._indexes(a.relation, a.numbers[3]) AS i
            WHERE i.plain AND NOT i.made AND i.access = parts.access AND i.opclass = parts.opclass)
        OR connection IS NULL AND visrec._call(a.id, 'count_vectors')::bigint < 1000       -- built in less than a second
    THEN
        RETURN false;
    END IF;
    IF visrec._acts_for_owner(a.relation) THEN
        -- All code in this session could use the second one, or read the connection out of the statement: the owner's, too.
        reason := 'The second session is for the table''s owner alone, whose code runs in this one.';
    ELSE
        reason := visrec._open_session(a.relation, connection);
    END IF;
    IF reason IS NULL THEN
        RETURN true;
    ELSIF connection IS NOT NULL THEN
        RAISE sqlclient_unable_to_establish_sqlconnection USING
            MESSAGE = format('cannot build the index of table "%s" beside the one that is there', visrec._label(a.relation)),
            DETAIL = reason;
    END IF;
    RAISE NOTICE USING
        MESSAGE = format('writers of table "%s" wait until its index is built', visrec._label(a.relation)),
        DETAIL = reason,
        HINT = CASE WHEN visrec._acts_for_owner(a.relation) THEN 'Let the owner of the table make this call.'
            WHEN (SELECT c.relkind = 'p' FROM pg_class AS c WHERE c.oid = a.relation) THEN 'Cancel it if that cannot be now.'
            ELSE 'CREATE EXTENSION dblink; ' || replace(visrec._reindex_call(a, m, ef_construction), ');', ', connection => ''…'');') END;
    RETURN false;
END
$$;
COMMENT ON FUNCTION visrec._beside(visrec.attachment, integer, integer, text) IS
    'Whether to build an index in a second session, which is open then. Says so where it should and cannot; an error where the '
    'caller gave a connection.';

CREATE PROCEDURE visrec.reindex(relation regclass, method text DEFAULT 'hnsw', metric text DEFAULT 'cosine', name name DEFAULT NULL,
    m integer DEFAULT NULL, ef_construction integer DEFAULT NULL, connection text DEFAULT NULL)
LANGUAGE plpgsql AS $$
-- It commits, so it can have no SET clause: the search path is set anew in each transaction.
DECLARE
    committed boolean := false;
    a visrec.attachment;
BEGIN
    IF pg_catalog.has_function_privilege('visrec._commit(boolean)', 'EXECUTE') THEN
        CALL visrec._commit(committed);     -- before any work
    END IF;
    IF NOT committed THEN
        IF connection IS NOT NULL THEN
            RAISE invalid_transaction_termination USING
                MESSAGE = 'visrec.reindex cannot build beside the index that is there inside a transaction block',
                HINT = 'Call it by itself: in psql outside BEGIN, with a driver in autocommit mode.';
        END IF;
        PERFORM visrec._reindex_here(relation, method, metric, name, m, ef_construction);
        RETURN;
    END IF;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    a := visrec._wanted_index(relation, method, metric, name, m, ef_construction);
    IF visrec._beside(a, m, ef_construction, connection) THEN
        CALL visrec._reindex_beside(a.id, method, metric, m, ef_construction);
    ELSE
        PERFORM visrec._reindex_here(relation, method, metric, name, m, ef_construction);
    END IF;
    COMMIT;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    PERFORM visrec._tune_again(a.id, 30, true);
END
$$;
COMMENT ON PROCEDURE visrec.reindex(regclass, text, text, name, integer, integer, text) IS
    'Builds the index of a table''s vectors anew, for its search functions to use. method: hnsw; hnsw_half (half the '
    'size, of half-precision numbers); hnsw_binary (a fraction of the size, of one bit a number; finds candidates, which '
    'are compared by the vectors themselves); ivfflat (built faster, searched slower; build it when the rows are there); '
    'none (every row is compared: exact). metric: cosine, inner_product or l2, which order unit vectors alike, so that '
    'results are the same; similarity is the cosine whichever. m, ef_construction: how dense an hnsw index is (16 and 64): '
    'more finds more, and takes longer to build. Only what visrec made is dropped. Rows are read and written meanwhile: '
    'a second session, by extension dblink, builds beside the index that is there, and the two are swapped. It is opened with '
    'connection, dblink''s string (with a password, unless the caller is a superuser; a superuser may leave it out, and gets in '
    'as the server''s own user may). Where there is none, inside a transaction block, and for partitioned tables, writers '
    'wait, and a NOTICE says so. It ends with visrec.tune for a table of at least 1000 vectors, unless inside a transaction block. '
    'For a large load: reindex with none, load or backfill, then reindex with hnsw: building once is faster than growing.';
