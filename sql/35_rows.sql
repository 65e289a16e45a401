-- Rows and what becomes of them: read for embedding, written with their vectors, or accounted for as failures.
-- All of this runs as the table's owner, inside a function of the attachment's (see 40_triggers.sql).

CREATE FUNCTION visrec._terms(attachment integer, OUT model text, OUT directory text, OUT registered text,
    OUT fingerprint text, OUT holds_bytes boolean, OUT settings jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a record;
BEGIN
    SELECT r.model, r.fingerprint, visrec._base_type(r.types[2]) = 'bytea'::regtype AS holds_bytes INTO a
    FROM visrec.attachment AS r WHERE r.id = attachment;
    model := a.model;
    fingerprint := a.fingerprint;
    holds_bytes := a.holds_bytes;
    SELECT m.directory, m.fingerprint, m.settings INTO directory, registered, settings FROM visrec._model_terms(a.model) AS m;
END
$$;
COMMENT ON FUNCTION visrec._terms(integer) IS
    'What the Python package must know to embed an attachment''s rows; fingerprint is that of the weights it was attached with.';

CREATE FUNCTION visrec._image_columns(n visrec._names) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    -- No longer path, and no larger image, than can be an image is read: $1 is max_image_bytes.
    SELECT CASE WHEN (n).holds_bytes THEN format('%1$s AS id, NULL::text AS path, CASE WHEN octet_length(t.%2$s::bytea) <= $1 '
            'THEN t.%2$s::bytea END AS bytes, octet_length(t.%2$s::bytea)::bigint AS size', (n).key_text, (n).image)
        ELSE format('%1$s AS id, left(t.%2$s::text, 4097) AS path, NULL::bytea AS bytes, octet_length(t.%2$s::text)::bigint AS '
            'size', (n).key_text, (n).image) END
$$;
COMMENT ON FUNCTION visrec._image_columns(visrec._names) IS 'What visrec._rows and its like select of a row t.';

CREATE FUNCTION visrec._rows(attachment integer, keys text[], lock boolean, max_bytes bigint)
RETURNS TABLE (id text, path text, bytes bytea, size bigint, source bigint, stale boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
BEGIN
    RETURN QUERY EXECUTE format('SELECT %s, %s, %s FROM %s AS t WHERE t.%s %s ANY (($2)::%s[]) AND %s%s',
        visrec._image_columns(n), n.source_value, n.stale, n."table", n.key, n.equals, n.key_type, n.due,
        CASE WHEN lock THEN ' FOR NO KEY UPDATE SKIP LOCKED' ELSE '' END)
    USING max_bytes, keys;
END
$$;
COMMENT ON FUNCTION visrec._rows(integer, text[], boolean, bigint) IS
    'Those of the rows with these keys that are to be embedded. path: at most 4097 characters; bytes: NULL where they are '
    'more than max_bytes; source: what source[1] must be; stale: whether there is a vector, of another image or model.';

CREATE FUNCTION visrec._due_rows(attachment integer, after text, count integer, max_bytes bigint)
RETURNS TABLE (id text, path text, bytes bytea, size bigint, source bigint, stale boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
BEGIN
    RETURN QUERY EXECUTE format('SELECT %s, %s, %s FROM %s AS t WHERE %s%s ORDER BY t.%s LIMIT $2 '
        'FOR NO KEY UPDATE SKIP LOCKED', visrec._image_columns(n), n.source_value, n.stale, n."table", n.due,
        CASE WHEN after IS NOT NULL THEN format(' AND t.%s %s ($3)::%s', n.key, n.greater, n.key_type) END, n.key)
    USING max_bytes, count, after;
END
$$;
COMMENT ON FUNCTION visrec._due_rows(integer, text, integer, bigint) IS
    'The next rows that are to be embedded, in the order of their keys after this one, locked until the transaction''s '
    'end; rows that others have locked are passed over.';

CREATE FUNCTION visrec._image_rows(attachment integer, keys text[], max_bytes bigint)
RETURNS TABLE (id text, path text, bytes bytea, size bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
BEGIN
    RETURN QUERY EXECUTE format('SELECT %s FROM %s AS t WHERE t.%s %s ANY (($2)::%s[]) AND %s',
        visrec._image_columns(n), n."table", n.key, n.equals, n.key_type, n.has_image)
    USING max_bytes, keys;
END
$$;
COMMENT ON FUNCTION visrec._image_rows(integer, text[], bigint) IS 'Those of the rows with these keys that have an image.';

CREATE FUNCTION visrec._store_statements(attachment integer, OUT given text, OUT taken text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
    rows text := format('UPDATE %s AS t SET %s = %%s, %s = %%s FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), '
        'pg_catalog.unnest($3), pg_catalog.unnest($4)) AS r (id, source, embedding, stamp) WHERE t.%s %s r.id::%s AND t.%s IS NOT NULL '
        'AND %s OPERATOR(pg_catalog.=) r.source AND r.embedding IS %%s',
        replace(n."table", '%', '%%'), replace(n.vector, '%', '%%'), replace(n.source, '%', '%%'), replace(n.key, '%', '%%'),
        n.equals, replace(n.key_type, '%', '%%'), replace(n.image, '%', '%%'), replace(n.source_value, '%', '%%'));
BEGIN
    given := format(rows, format('r.embedding::%s.vector', n.vector_schema), format('ARRAY[r.source, %s]',
        CASE WHEN n.holds_bytes THEN format('visrec._stamp(t.%s::pg_catalog.bytea)', n.image) ELSE 'r.stamp' END),
        format('NOT NULL AND (t.%s IS NULL OR t.%s[1] IS DISTINCT FROM r.source)', n.vector, n.source));
    taken := format(rows, 'NULL', 'NULL', format('NULL AND (t.%s IS NOT NULL OR t.%s IS NOT NULL)', n.vector, n.source));
END
$$;
COMMENT ON FUNCTION visrec._store_statements(integer) IS
    'The statements of visrec._store: rows get their vectors, where the image is still the one that was read; rows '
    'without one lose the vector of the image before.';

-- Without a search_path of its own: the user's triggers, which its UPDATE fires, see that of the statement.
CREATE FUNCTION visrec._store(attachment integer, ids text[], sources bigint[], vectors text[], stamps bigint[],
    codes text[], messages text[], images text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    statements pg_catalog.record := visrec._store_statements(attachment);
    failures pg_catalog.int4 := pg_catalog.cardinality(pg_catalog.array_remove(codes, NULL));
BEGIN
    PERFORM visrec._record_outcome(attachment, ids, codes, messages, images);
    IF failures OPERATOR(pg_catalog.>) 0 THEN
        EXECUTE statements.taken USING ids, sources, vectors, stamps;
    END IF;
    IF failures OPERATOR(pg_catalog.<) pg_catalog.cardinality(ids) THEN
        EXECUTE statements.given USING ids, sources, vectors, stamps;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._store(integer, text[], bigint[], text[], bigint[], text[], text[], text[]) IS
    'Gives rows their vectors, or records why there is none. The arrays have an element for each row; vectors is NULL '
    'where there is none, codes, messages and images (paths for visrec.failure) where there is one.';

CREATE FUNCTION visrec._record_outcome(attachment integer, ids text[], codes text[], messages text[], images text[])
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    DELETE FROM visrec.own_failed_row AS f WHERE f.attachment = _record_outcome.attachment AND f.row_id = ANY (ARRAY(
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
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM visrec.own_failed_row AS f WHERE f.attachment = $1 AND (keys IS NULL OR f.row_id = ANY (keys))
$$;
COMMENT ON FUNCTION visrec._forget_failures(integer, text[]) IS 'Removes the failures of rows, or all of an attachment.';

CREATE FUNCTION visrec._safe_path(schemas name[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Trusted are the current role, which is the table's owner, who may become it, superusers and the database's owner.
    -- In databases of PostgreSQL 14 and before everybody may create in public: there it is left to those who are trusted.
    WITH untrusted AS (
        SELECT r.oid FROM pg_roles AS r
        WHERE NOT (r.rolsuper OR pg_has_role(r.oid, current_user, 'MEMBER') OR r.rolname = 'pg_database_owner')
        UNION ALL SELECT 0
    )
    SELECT concat_ws(', ', string_agg(quote_ident(n.nspname), ', ' ORDER BY s.place), 'pg_temp')
    FROM unnest(schemas) WITH ORDINALITY AS s (name, place) JOIN pg_namespace AS n ON n.nspname = s.name
    WHERE n.nspowner NOT IN (SELECT u.oid FROM untrusted AS u)
      AND NOT EXISTS (SELECT FROM aclexplode(n.nspacl) AS a JOIN untrusted AS u ON u.oid = a.grantee
                      WHERE a.privilege_type = 'CREATE'
                        AND NOT (n.nspname = 'public' AND pg_has_role(session_user, current_user, 'MEMBER')))
$$;
COMMENT ON FUNCTION visrec._safe_path(name[]) IS
    'The search_path that a table''s owner''s triggers see when visrec writes a vector: that of the statement, without '
    'schemas in which somebody could create what the owner would then run.';

CREATE FUNCTION visrec._embed_rows(attachment integer, keys text[], schemas name[], may_raise boolean DEFAULT true,
    lock boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a record;
    outcome jsonb;
    failure jsonb;
    hidden bigint;
BEGIN
    IF keys IS NULL THEN
        RETURN;
    END IF;
    SELECT r.relation, r.on_error, pg_get_userbyid(c.relowner) = current_user AS is_owner INTO a
    FROM visrec.attachment AS r JOIN pg_class AS c ON c.oid = r.relation WHERE r.id = attachment;
    IF NOT a.is_owner THEN
        PERFORM visrec._raise_problem(r) FROM visrec.attachment AS r WHERE r.id = attachment;
    ELSIF NOT has_function_privilege('visrec._python_embed_rows(integer, text[], text, boolean)', 'EXECUTE') THEN
        RAISE WARNING USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied to embed images for role "%s"; the rows are kept without a vector', current_user),
            HINT = format('An administrator can allow it: SELECT visrec.grant_access(%L);', quote_ident(current_user));
        RETURN;
    END IF;
    PERFORM set_config('search_path', visrec._safe_path(schemas), true);
    outcome := visrec._python_embed_rows(attachment, keys, CASE WHEN may_raise THEN a.on_error ELSE 'record' END, lock);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    IF outcome ? 'missing' THEN
        PERFORM visrec._record_outcome(attachment, keys, array_fill(visrec._missing_package() ->> 'code', ARRAY[cardinality(keys)]),
            array_fill(visrec._missing_package() ->> 'message', ARRAY[cardinality(keys)]), NULL);
        outcome := jsonb_build_object('seen', cardinality(keys), 'failed', cardinality(keys),
            'first_failure', visrec._missing_package() || jsonb_build_object('id', keys[1]));
    END IF;
    outcome := visrec._checked(outcome);
    hidden := cardinality(keys) - (outcome ->> 'seen')::integer;
    IF hidden > 0 AND row_security_active(a.relation) THEN
        PERFORM visrec._warn_hidden(a.relation, hidden);
    END IF;
    IF (outcome ->> 'failed')::integer = 0 THEN
        RETURN;
    END IF;
    failure := outcome -> 'first_failure';
    IF a.on_error = 'raise' AND may_raise THEN
        PERFORM visrec._checked(jsonb_build_object('error', failure), format('could not embed the image of row %s of table "%s"',
            failure ->> 'id', visrec._label(a.relation)));
    END IF;
    RAISE WARNING USING
        ERRCODE = failure ->> 'sqlstate',
        MESSAGE = format('%s of %s images could not be embedded; the rows are kept without a vector',
            outcome ->> 'failed', cardinality(keys)),
        DETAIL = format('The first is of row %s: %s.', failure ->> 'id',
            concat_ws(': ', 'image "' || (failure ->> 'image') || '"', failure ->> 'message')),
        HINT = format('SELECT * FROM visrec.failure WHERE relation = %L::regclass;', a.relation);
END
$$;
COMMENT ON FUNCTION visrec._embed_rows(integer, text[], name[], boolean, boolean) IS
    'Embeds rows by key, as the table''s owner; schemas is the search_path of the statement. Failures become one WARNING, or '
    'an error where the attachment''s on_error is raise and may_raise.';

CREATE FUNCTION visrec._warn_hidden(relation regclass, rows bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE WARNING USING
        MESSAGE = format('%s rows have no vector because row-level security hides them from the owner of table "%s"', rows,
            visrec._label(relation)),
        HINT = format('Let a policy show them to the owner (FORCE ROW LEVEL SECURITY binds it, too), then: CALL visrec.backfill(%L);',
            relation);
END
$$;
COMMENT ON FUNCTION visrec._warn_hidden(regclass, bigint) IS 'Warns of rows that are pending and that the owner cannot see.';
