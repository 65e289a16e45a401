-- Rows and what becomes of them: read for embedding, written with their vectors, or accounted for as failures.
-- All of this runs as the table's owner, inside a function of the attachment's (see 39_functions.sql).

CREATE FUNCTION visrec._row_statements(n visrec._names, OUT rows text, OUT due_rows text, OUT next_rows text,
    OUT image_rows text, OUT give text, OUT take text, OUT same text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- They run with the owner's search_path, so that its triggers do: each name and operator is qualified.
    -- No longer path, and no larger image, than can be an image is read: $1 is max_image_bytes.
    image text := format(CASE WHEN n.holds_bytes THEN '%1$s AS id, NULL::pg_catalog.text AS path, CASE WHEN pg_catalog.octet_length(t.%2$s::pg_catalog.bytea) OPERATOR(pg_catalog.<=) $1 '
            'THEN t.%2$s::pg_catalog.bytea END AS bytes, pg_catalog.octet_length(t.%2$s::pg_catalog.bytea)::bigint AS size'
        ELSE '%1$s AS id, pg_catalog.left(t.%2$s::pg_catalog.text, 4097) AS path, NULL::pg_catalog.bytea AS bytes, pg_catalog.octet_length(t.%2$s::pg_catalog.text)::bigint AS size' END,
        n.key_text, n.image);
    -- What was read: bytes by all of them, since those of the same length and ends may be another picture's. $1 as above.
    stamp text := CASE WHEN n.holds_bytes THEN format('CASE WHEN pg_catalog.octet_length(t.%1$s::pg_catalog.bytea) OPERATOR(pg_catalog.<=) $1 '
        'THEN visrec._stamp(t.%1$s::pg_catalog.bytea) END', n.image) ELSE 'NULL::pg_catalog.int8' END;
    row text := format('%s, %s AS source, %s AS stamp FROM %s AS t WHERE %s', image, n.source_value, stamp, n."table", n.due);
    as_read text := format('(%s OPERATOR(pg_catalog.=) r.source) IS TRUE', n.source_value)
        || CASE WHEN n.holds_bytes THEN format(' AND (r.stamp IS NULL OR visrec._stamp(t.%s::pg_catalog.bytea) OPERATOR(pg_catalog.=) r.stamp)', n.image)
           ELSE '' END;
    -- IS TRUE below: not to be what tables are joined by, since it is computed for each row.
    results CONSTANT text := 'ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)) AS r (id, source, embedding, stamp)';
BEGIN
    rows := format('SELECT %s AND t.%s %s ANY (($2)::%s[])', row, n.key, n.equals, n.key_type);
    due_rows := format('SELECT %s ORDER BY t.%s LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED', row, n.key);
    next_rows := format('SELECT %s AND t.%2$s %3$s ($3)::%4$s ORDER BY t.%2$s LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED', row, n.key,
        n.greater, n.key_type);
    image_rows := format('SELECT %s FROM %s AS t WHERE t.%s %s ANY (($2)::%s[]) AND %s', image, n."table", n.key, n.equals,
        n.key_type, n.has_image);
    give := format('UPDATE %1$s AS t SET %2$s = r.embedding::%3$s.vector, %4$s = ARRAY[r.source, r.stamp] FROM %5$s WHERE t.%6$s %7$s r.id::%8$s '
        'AND %9$s AND r.embedding IS NOT NULL AND (t.%2$s IS NULL OR (t.%4$s[1] OPERATOR(pg_catalog.=) r.source) IS NOT TRUE)',
        n."table", n.vector, n.vector_schema, n.source, results, n.key, n.equals, n.key_type, as_read);
    take := format('UPDATE %1$s AS t SET %2$s = NULL, %3$s = NULL FROM %4$s WHERE t.%5$s %6$s r.id::%7$s '
        'AND %8$s AND r.embedding IS NULL AND (t.%2$s IS NOT NULL OR t.%3$s IS NOT NULL)',
        n."table", n.vector, n.source, results, n.key, n.equals, n.key_type, as_read);
    same := format('SELECT r.id FROM %s AS t, %s WHERE t.%s %s r.id::%s AND %s', n."table", results, n.key, n.equals,
        n.key_type, as_read);
END
$$;
COMMENT ON FUNCTION visrec._row_statements(visrec._names) IS
    'The statements by which rows are embedded. Those that read give id (the key as text), path (at most 4097 characters) or '
    'bytes (NULL where they are more than $1), size, source (what source[1] must be) and stamp (source[2]; NULL for a path): rows by their keys $2; the first $2 that are due, locked; the next $2 after the key $3; and all with an '
    'image by their keys. Those that write take arrays of keys, sources as read, vectors and stamps: give vectors to rows '
    'whose image is still the one that was read, take them from those without a new one; and say which '
    'rows are as they were read.';

CREATE FUNCTION visrec._terms(names text, OUT id integer, OUT model text, OUT directory text, OUT registered text,
    OUT fingerprint text, OUT holds_bytes boolean, OUT settings jsonb, OUT rows text, OUT due_rows text, OUT next_rows text,
    OUT image_rows text, OUT give text, OUT take text, OUT same text, OUT has_failures boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := names::visrec._names;
BEGIN
    id := n.id;
    model := n.model;
    fingerprint := n.fingerprint;
    holds_bytes := n.holds_bytes;
    SELECT m.directory, m.fingerprint INTO directory, registered FROM visrec.model AS m WHERE m.name = n.model;
    settings := visrec._settings();
    SELECT s.rows, s.due_rows, s.next_rows, s.image_rows, s.give, s.take, s.same
    INTO rows, due_rows, next_rows, image_rows, give, take, same
    FROM visrec._row_statements(n) AS s;
    has_failures := EXISTS (SELECT FROM visrec.own_failed_row AS f WHERE f.attachment = n.id);
END
$$;
COMMENT ON FUNCTION visrec._terms(text) IS
    'What the Python package needs to embed an attachment''s rows, from a visrec._names as text: the model and the weights '
    'it was attached with (registered: those of the registered model), the settings, the statements of '
    'visrec._row_statements, and whether any row has failed.';

CREATE FUNCTION visrec._record_outcome(attachment integer, ids text[], codes text[], messages text[], images text[])
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    UPDATE visrec.own_failed_row AS f SET gone = true WHERE f.attachment = _record_outcome.attachment AND f.row_id = ANY (ARRAY(
        SELECT r.id FROM unnest(ids, codes) AS r (id, code) WHERE r.code IS NULL));
    IF cardinality(array_remove(codes, NULL)) > 0 THEN
        INSERT INTO visrec.own_failed_row AS f (attachment, row_id, image, code, message)
        SELECT _record_outcome.attachment, r.id, r.image, r.code, r.message
        FROM unnest(ids, codes, messages, images) AS r (id, code, message, image) WHERE r.code IS NOT NULL
        ON CONFLICT (attachment, row_id) DO UPDATE
        SET image = excluded.image, code = excluded.code, message = excluded.message,
            attempts = f.attempts + 1, last_try = excluded.last_try;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._record_outcome(integer, text[], text[], text[], text[]) IS
    'Removes the failures of rows without a code, and records those with one.';

CREATE FUNCTION visrec._forget_failures(attachment integer, keys text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF keys IS NULL THEN
        UPDATE visrec.own_failed_row AS f SET gone = true WHERE f.attachment = _forget_failures.attachment;
    ELSE
        UPDATE visrec.own_failed_row AS f SET gone = true WHERE f.attachment = _forget_failures.attachment AND f.row_id = ANY (keys);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._forget_failures(integer, text[]) IS 'Removes the failures of rows, or all of an attachment.';

CREATE FUNCTION visrec._safe_path(schemas name[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
        SELECT concat_ws(', ', string_agg(quote_ident(n.nspname), ', ' ORDER BY array_position(schemas, n.nspname)), 'pg_temp')
        FROM pg_namespace AS n
        -- Trusted are the current role, a table's owner, and who may become it; superusers; and the database's owner (6171 is
        -- pg_database_owner). In databases of PostgreSQL 14 and before everybody (0) may create in public, which is on every path.
        WHERE n.nspname = ANY (schemas) AND n.nspname !~ '^pg_(toast_)?temp_' AND NOT EXISTS (
            SELECT FROM (SELECT a.grantee FROM aclexplode(n.nspacl) AS a WHERE a.privilege_type = 'CREATE'
                         UNION ALL SELECT n.nspowner) AS c (role)
            WHERE NOT (c.role = 6171 OR visrec._trusted(c.role)
                OR n.nspname = 'public' AND pg_has_role(session_user, current_user, 'MEMBER'))));
END
$$;
COMMENT ON FUNCTION visrec._safe_path(name[]) IS
    'The search_path that a table''s owner''s triggers see when visrec writes a vector: that of the statement, then that of '
    'visrec.attach and the table''s schema, so that nobody can hide these; without schemas in which somebody could create what '
    'the owner would then run.';

-- These two have no search_path of their own: what they set stays set. A path that is not as it should be is the owner's code's
-- doing, and is left for visrec._call to find.
CREATE FUNCTION visrec._enter_path(path text) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('search_path') OPERATOR(pg_catalog.<>) 'pg_catalog, pg_temp' THEN
        RETURN NULL;
    END IF;
    RETURN pg_catalog.set_config('search_path', path, true);
END
$$;
COMMENT ON FUNCTION visrec._enter_path(text) IS 'Sets the search_path that an owner''s triggers see; returns it, for visrec._leave_path.';

CREATE FUNCTION visrec._leave_path(path text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('search_path') OPERATOR(pg_catalog.=) path THEN
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._leave_path(text) IS 'Sets the search_path back to visrec''s own.';

CREATE FUNCTION visrec._embed_rows(n visrec._names, keys text[], schemas name[], may_raise boolean DEFAULT true,
    lock boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rows integer := cardinality(keys);
    has_code boolean;
    strangers text;
    giving text := coalesce(current_setting('visrec.giving', true), '');
    raises boolean := may_raise AND n.on_error = 'raise';
    outcome jsonb;
    failure jsonb;
BEGIN
    IF keys IS NULL THEN
        RETURN;
    ELSIF current_user <> pg_get_userbyid(n.owner) THEN
        PERFORM visrec._raise_problem(a) FROM visrec.attachment AS a WHERE a.id = n.id;
    ELSIF NOT has_function_privilege('visrec._python_embed_rows(text, text[], boolean, boolean)'::regprocedure, 'EXECUTE') THEN
        RAISE WARNING USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied to embed images for role "%s"', current_user),
            DETAIL = format('The rows of table "%s" are kept without a vector.', visrec._label(n.relation)),
            HINT = format('An administrator can allow it: SELECT visrec.grant_access(%L);', quote_ident(current_user));
        RETURN;
    END IF;
    has_code := visrec._has_code(n.relation, n.key_oid);
    IF has_code AND visrec._strangers_temporary() THEN
        strangers := 'this session has temporary tables of a role that the owner does not trust';
    ELSIF has_code THEN
        strangers := visrec._strangers_code(n.relation, n.key_oid, true);
    END IF;
    strangers := coalesce(strangers, visrec._strangers_schema(n.relation, n.key_oid));
    IF strangers IS NOT NULL THEN
        RAISE WARNING USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('rows of table "%s" are kept without a vector', visrec._label(n.relation)),
            DETAIL = format('To write vectors could run code of a stranger as the table''s owner: %s.', strangers),
            HINT = format('Once that is mended, the owner can call: CALL visrec.backfill(%L%s);', n.relation::regclass,
                visrec._name_argument(n.id));
        RETURN;
    END IF;
    PERFORM set_config('visrec.giving', n.relation::text, true);
    IF has_code THEN        -- which sees this
        PERFORM set_config('search_path', visrec._safe_path(schemas || n.path), true);
    END IF;
    outcome := visrec._python_embed_rows(n::pg_catalog.text, keys, raises, lock);
    IF has_code THEN
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    END IF;
    PERFORM set_config('visrec.giving', giving, true);
    IF outcome ? 'missing' THEN
        failure := visrec._missing_package();
        PERFORM visrec._record_outcome(n.id, keys, array_fill(failure ->> 'code', ARRAY[rows]),
            array_fill(failure ->> 'message', ARRAY[rows]), NULL);
        outcome := jsonb_build_object('seen', rows, 'failed', rows, 'first_failure', failure || jsonb_build_object('id', keys[1]));
    END IF;
    IF outcome ? 'error' THEN
        PERFORM visrec._checked(outcome);
    ELSIF (outcome ->> 'seen')::integer < rows AND row_security_active(n.relation) THEN
        PERFORM visrec._warn_hidden(n.id, rows - (outcome ->> 'seen')::integer);
    END IF;
    IF (outcome ->> 'failed')::integer = 0 THEN
        RETURN;
    END IF;
    failure := outcome -> 'first_failure';
    IF raises THEN
        PERFORM visrec._checked(jsonb_build_object('error', failure), format('could not embed the image of row %s of table "%s"',
            failure ->> 'id', visrec._label(n.relation)));
    END IF;
    RAISE WARNING USING
        ERRCODE = failure ->> 'sqlstate',
        MESSAGE = format('%s of %s images could not be embedded', outcome ->> 'failed', rows),
        DETAIL = format('The rows are kept without a vector. The first is row %s: %s.', failure ->> 'id',
            concat_ws(': ', 'image "' || (failure ->> 'image') || '"', failure ->> 'message')),
        HINT = format('SELECT * FROM visrec.failure WHERE relation = %L::regclass;', n.relation::regclass);
END
$$;
COMMENT ON FUNCTION visrec._embed_rows(visrec._names, text[], name[], boolean, boolean) IS
    'Embeds rows by key, as the table''s owner; schemas is the search_path of the statement. Failures become one WARNING, or '
    'an error where the attachment''s on_error is raise and may_raise.';

CREATE FUNCTION visrec._warn_hidden(attachment integer, rows bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation regclass := (SELECT a.relation FROM visrec.attachment AS a WHERE a.id = attachment);
BEGIN
    RAISE WARNING USING
        MESSAGE = format(CASE rows WHEN 1 THEN '%s row has no vector because row-level security hides it from the owner of table "%s"'
            ELSE '%s rows have no vector because row-level security hides them from the owner of table "%s"' END, rows,
            visrec._label(relation)),
        HINT = format('Let a policy show them to the owner (FORCE ROW LEVEL SECURITY binds it, too), then: CALL visrec.backfill(%L%s);',
            relation, visrec._name_argument(attachment));
END
$$;
COMMENT ON FUNCTION visrec._warn_hidden(integer, bigint) IS 'Warns of pending rows that the table''s owner cannot see.';
