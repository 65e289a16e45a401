-- Accounts: which rows have a vector, and why others have none.

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

-- Whether a row is seen is asked of its table, whose policies run as whoever asks: so of one attachment, which is named first.
CREATE VIEW visrec.visible_failed_row WITH (security_barrier) AS
SELECT f.* FROM visrec.failed_row AS f
WHERE CASE WHEN f.attachment::text = pg_catalog.current_setting('visrec.looks_at', true)
    THEN visrec._sees_failure(f.attachment, f.row_id, true) ELSE false END;
COMMENT ON VIEW visrec.visible_failed_row IS
    'What visrec.failures and visrec.coverage read: the failures of the one attachment that visrec._look_at named.';
GRANT SELECT ON visrec.visible_failed_row TO PUBLIC;

CREATE FUNCTION visrec._look_at(attachment integer) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('visrec.looks_at', attachment::text, true);
END
$$;
COMMENT ON FUNCTION visrec._look_at(integer) IS 'Names the attachment that visrec.visible_failed_row shows.';

CREATE FUNCTION visrec.failures(relation regclass, name name DEFAULT NULL) RETURNS TABLE (row_id text, image text, code text,
    message text, attempts integer, first_try timestamptz, last_try timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    attachment integer := visrec._find(relation, name);
BEGIN
    PERFORM visrec._look_at(attachment);
    RETURN QUERY SELECT f.row_id, f.image, f.code, f.message, f.attempts, f.first_try, f.last_try
        FROM visrec.visible_failed_row AS f ORDER BY f.last_try, f.row_id;
END
$$;
COMMENT ON FUNCTION visrec.failures(regclass, name) IS
    'The rows of an attached table whose image gave no vector, and why, as far as the current role sees the rows.';

-- Coverage --------------------------------------------------------------------------------------------

CREATE FUNCTION visrec._count_states(attachment integer) RETURNS TABLE (state text, rows bigint)
LANGUAGE plpgsql STABLE ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
BEGIN
    PERFORM visrec._look_at(attachment);
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
    monitors CONSTANT boolean := NOT visrec._owns(relation) AND has_function_privilege('visrec._monitor_coverage(integer)', 'EXECUTE');
BEGIN
    IF monitors OR visrec._acts_for_owner(relation) THEN
        PERFORM visrec._check_before(relation, false);
    END IF;
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = attachment;
    problem := visrec._problem(a);
    BEGIN
        IF problem IS NOT NULL THEN     -- no error: whoever looks at all tables sees the others
            RAISE WARNING USING
                MESSAGE = format('table "%s" has changed since it was attached', visrec._label(relation)),
                DETAIL = upper(left(problem, 1)) || substr(problem, 2) || '.', HINT = visrec._attach_call(a);
        ELSIF visrec._acts_for_owner(relation) THEN
            PERFORM visrec._note_hidden(relation);
            RETURN QUERY SELECT * FROM visrec._coverage(attachment);
        ELSIF monitors THEN
            -- Whatever else it may read: with its own rights it would run the table's policies.
            PERFORM visrec._note_hidden(relation);
            RETURN QUERY SELECT * FROM visrec._monitor_coverage(attachment);
        ELSE
            RETURN QUERY SELECT * FROM visrec._count_states(attachment);
        END IF;
    EXCEPTION WHEN OTHERS THEN      -- a policy of the owner's may raise any
        IF NOT monitors AND NOT visrec._acts_for_owner(relation)
            AND (SQLSTATE <> '42501' OR has_table_privilege(relation, 'SELECT') IS NOT TRUE) THEN
            RAISE;
        END IF;
        RAISE WARNING USING
            ERRCODE = SQLSTATE, MESSAGE = format('could not count the rows of table "%s": %s', visrec._label(relation), SQLERRM);
    END;
END
$$;
COMMENT ON FUNCTION visrec.coverage(regclass, name) IS
    'How many rows of an attached table are embedded, pending, failed, without an image, or stale (the vector is of '
    'other weights than the model''s, or of the image that the row had before); each row is in exactly one state. Counted '
    'as the table''s owner for its administrators and monitors, else as the caller. A file whose content changed under '
    'the same path counts as embedded until visrec.recheck has looked.';
