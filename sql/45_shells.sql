-- The functions that attach writes into a table's schema: shells with the types of its columns, which pass the call on.

CREATE FUNCTION visrec._fitted_name(prefix text, name text, id integer, suffix text) RETURNS name
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    -- What would be longer than PostgreSQL allows is cut, and has the attachment's number, so that no two are the same.
    SELECT CASE WHEN octet_length(prefix || name || suffix) <= 63 THEN prefix || name || suffix
        ELSE (SELECT prefix || left(name, l) || '_' || id || suffix FROM generate_series(1, 63) AS l
              WHERE octet_length(prefix || left(name, l) || '_' || id || suffix) <= 63 ORDER BY l DESC LIMIT 1)
        END::name
$$;
COMMENT ON FUNCTION visrec._fitted_name(text, text, integer, text) IS 'A name with something before and after it, in 63 bytes.';

CREATE FUNCTION visrec._object_name(a visrec.attachment, prefix text, suffix text DEFAULT '') RETURNS name
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT visrec._fitted_name(prefix, (a).name, (a).id, suffix)
$$;
COMMENT ON FUNCTION visrec._object_name(visrec.attachment, text, text) IS 'The name of an attachment''s function or index.';

CREATE FUNCTION visrec._shell_list() RETURNS TABLE (prefix text, suffix text, arguments text[], calls text, results text,
    volatile boolean, meaning text)
-- @key is the type of the key, @user of the user in the table of events, @id the attachment.
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM (VALUES
        ('similar_', '', ARRAY['id @key', 'k integer = 10', 'filter jsonb = NULL', 'max_distance double precision = NULL',
            'strict boolean = false'], '_similar_@id($1, $2, $3, $4, $5)', 'rows', false,
         'The k rows of %s that look most like the row with this key, best first; of those that the filter leaves, and no '
         'farther than max_distance. strict: an error instead of a NOTICE if there is no such row.'),
        ('search_', '', ARRAY['query text', 'k integer = 10', 'filter jsonb = NULL', 'max_distance double precision = NULL'],
         '_search(@id, NULL, NULL, $1, $2, $3, $4)', 'rows', true,
         'The k rows of %s whose images fit a text best, best first (for models with a text tower).'),
        ('search_', '_by_image', ARRAY['query text', 'k integer = 10', 'filter jsonb = NULL',
            'max_distance double precision = NULL'], '_search(@id, $1, NULL, NULL, $2, $3, $4)', 'rows', true,
         'The k rows of %s that look most like an image file inside image_roots, best first.'),
        ('search_', '_by_image', ARRAY['query bytea', 'k integer = 10', 'filter jsonb = NULL',
            'max_distance double precision = NULL'], '_search(@id, NULL, $1, NULL, $2, $3, $4)', 'rows', true,
         'The k rows of %s that look most like an encoded image (JPEG, PNG …), best first.'),
        ('recommend_', '', ARRAY['liked @key[]', 'disliked @key[] = ''{}''', 'k integer = 10', 'strategy text = ''mean''',
            'filter jsonb = NULL', 'max_distance double precision = NULL', 'diversity double precision = 0', 'toward text = NULL',
            'seen @key[] = ''{}''', 'liked_weights double precision[] = NULL', 'disliked_weights double precision[] = NULL',
            'strict boolean = false'], '_recommend(@id, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)', 'rows', false,
         'k rows of %s for the taste that liked and disliked rows show, best first, without those and the seen ones. '
         'strategy: mean, session (liked in order of time) or best_score; diversity: 0 to 1; toward: a text to steer by; '
         'strict: an error instead of a NOTICE if no liked row has a vector.'),
        ('recommend_', '_weighted', ARRAY['weighted jsonb', 'k integer = 10', 'strategy text = ''mean''', 'filter jsonb = NULL',
            'max_distance double precision = NULL', 'diversity double precision = 0', 'toward text = NULL', 'seen @key[] = ''{}''',
            'strict boolean = false'], '_recommend_weighted(@id, $1, $2, $3, $4, $5, $6, $7, $8, $9)', 'rows', false,
         'k rows of %s as the other recommend function gives them, with a weight for each: [[key, weight], …], below 0 for a '
         'disliked one.'),
        ('recommend_', '_for', ARRAY['user_id @user', 'k integer = 10', 'strategy text = ''mean''', 'filter jsonb = NULL',
            'max_distance double precision = NULL', 'diversity double precision = 0', 'toward text = NULL', 'history integer = 50',
            'strict boolean = false'], '_recommend_for(@id, $1, $2, $3, $4, $5, $6, $7, $8, $9)', 'rows', false,
         'k rows of %s for a user, by the latest (history) of the events named by visrec.attach_events, best first, without '
         'any that the user has events of.'),
        ('duplicates_', '', ARRAY['k integer = 5', 'max_distance double precision = 0.1'], '_duplicates(@id, $1, $2)', 'pairs', true,
         'What visrec.duplicates returns of %s, with keys of their own type.'),
        ('failures_', '', '{}', '_failures(@id)', 'failures', false,
         'What visrec.failures returns of %s, with keys of their own type.')
    ) AS s
$$;
COMMENT ON FUNCTION visrec._shell_list() IS
    'The functions that attach writes into a table''s schema. results: rows (id, similarity, the image and the shown columns), pairs '
    'or failures. The names that shown columns cannot have follow from this list.';

CREATE FUNCTION visrec._reserved_names() RETURNS SETOF text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT split_part(u.argument, ' ', 1) FROM visrec._shell_list() AS s, unnest(s.arguments) AS u (argument)
    WHERE s.results = 'rows' UNION VALUES ('id'), ('similarity')
$$;
COMMENT ON FUNCTION visrec._reserved_names() IS 'Names of arguments and results, which a shown column cannot have.';

CREATE FUNCTION visrec._shells(a visrec.attachment) RETURNS TABLE (name name, types text, declaration text, body text, comment text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    key text := visrec._type_name(visrec._base_type(a.types[1]));        -- what is cast to a domain runs its CHECK
    user_type text := (SELECT visrec._type_name(visrec._base_type(f.atttypid)) FROM pg_attribute AS f
                       WHERE f.attrelid = a.events AND f.attname = a.event_columns[1] AND NOT f.attisdropped);
    columns text[] := ARRAY(SELECT format('%I %s', c.name, visrec._type_name(c.type))
                            FROM unnest(a.columns, a.types) WITH ORDINALITY AS c (name, type, n) WHERE c.n = 2 OR c.n > 4 ORDER BY c.n);
BEGIN
    RETURN QUERY
    WITH listed AS (
        SELECT s.*, visrec._object_name(a, s.prefix, s.suffix) AS name,
               CASE s.results
                   WHEN 'rows' THEN format('id %s, similarity double precision, %s', key, array_to_string(columns, ', '))
                   WHEN 'pairs' THEN format('id_a %1$s, id_b %1$s, kind pg_catalog.text, similarity double precision, '
                       'percentile double precision', key)
                   ELSE format('id %s, image pg_catalog.text, code pg_catalog.text, message pg_catalog.text, attempts integer, '
                       'first_try timestamp with time zone, last_try timestamp with time zone', key) END AS row
        FROM visrec._shell_list() AS s WHERE s.suffix <> '_for' OR user_type IS NOT NULL
    )
    SELECT l.name, p.types,
           -- The key of similar_ is an argument and a column of its result.
           CASE WHEN l.prefix = 'similar_' THEN format('(INOUT %s, OUT similarity double precision, OUT %s) RETURNS SETOF record',
                    p.declared, array_to_string(columns, ', OUT '))
                ELSE format('(%s) RETURNS TABLE (%s)', p.declared, l.row) END
           || format(' LANGUAGE sql %s ROWS 10', CASE WHEN l.volatile THEN 'VOLATILE' ELSE 'STABLE' END),
           format(E'\n    SELECT * FROM visrec.%s%s\n', replace(l.calls, '@id', a.id::text),
               CASE WHEN l.prefix <> 'similar_' THEN format(E'\n    AS r (%s)', l.row) END),
           format(l.meaning, visrec._label(a.relation))
    FROM listed AS l, LATERAL (
        SELECT string_agg(concat_ws(' ', split_part(u.argument, ' ', 1), t.type,
                   'DEFAULT ' || nullif(split_part(u.argument, ' = ', 2), '')), ', ' ORDER BY u.n) AS declared,
               coalesce(string_agg(t.type, ', ' ORDER BY u.n), '') AS types
        FROM unnest(l.arguments) WITH ORDINALITY AS u (argument, n),
            regexp_replace(split_part(u.argument, ' = ', 1), '^[^ ]+ ', '') AS w (type),
            -- Not replaced within a text that has the other's name in it already.
            LATERAL (SELECT CASE w.type WHEN '@key' THEN key WHEN '@key[]' THEN key || '[]' WHEN '@user' THEN user_type
                ELSE w.type END) AS t (type)
    ) AS p;
END
$$;
COMMENT ON FUNCTION visrec._shells(visrec.attachment) IS 'An attachment''s shells as they are to be written.';

CREATE FUNCTION visrec._shell_digest(name name, body text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT encode(sha256(convert_to(name || body, 'UTF8')), 'hex')
$$;
COMMENT ON FUNCTION visrec._shell_digest(name, text) IS 'The digest by which a shell is recognized: of its name and its text.';

CREATE FUNCTION visrec._written_shells(a visrec.attachment) RETURNS TABLE (function regprocedure, name name, schema oid, acl aclitem[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.oid::regprocedure, p.proname, p.pronamespace, p.proacl
    FROM (SELECT DISTINCT visrec._object_name(a, s.prefix, s.suffix) AS name FROM visrec._shell_list() AS s) AS s
    JOIN pg_proc AS p ON p.proname = s.name
    WHERE pg_has_role(p.proowner, 'USAGE') AND NOT p.prosecdef AND p.proconfig IS NULL
        AND p.prolang = (SELECT l.oid FROM pg_language AS l WHERE l.lanname = 'sql') AND (
        -- A copy of the text, of a role that has nothing to do with the table, is not visrec's.
        visrec._shell_digest(p.proname, p.prosrc) = ANY ((a).shells)
            AND (p.proowner = (SELECT c.relowner FROM pg_class AS c WHERE c.oid = (a).relation)
                 OR EXISTS (SELECT FROM pg_proc AS t WHERE t.pronamespace = 'visrec'::regnamespace
                            AND t.proname = '_table_' || (a).id AND t.proowner = p.proowner))
        -- Shells without their attachment, which is what a dump without data restores.
        OR EXISTS (SELECT FROM pg_class AS c, LATERAL (SELECT coalesce(
                       substring(p.prosrc FROM E'^\n    SELECT [*] FROM visrec[.]_similar_([0-9]{1,9})[(]'),
                       substring(p.prosrc FROM E'^\n    SELECT [*] FROM visrec[.]_[a-z_]+[(]([0-9]{1,9})[,)]'))::integer AS id) AS called
                   WHERE c.oid = (a).relation AND p.proowner = c.relowner AND c.relnamespace = p.pronamespace
                     AND called.id IS NOT NULL AND NOT EXISTS (SELECT FROM visrec.attachment AS o WHERE o.id = called.id)))
$$;
COMMENT ON FUNCTION visrec._written_shells(visrec.attachment) IS
    'The shells of an attachment that exist: the functions whose text is what attach wrote, and those of the table''s owner '
    'that call an attachment that does not exist.';

CREATE FUNCTION visrec._drop_shell(shell regprocedure) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    aside text := 'visrec_unused_' || replace(gen_random_uuid()::text, '-', '');      -- which nobody has taken
    former text;
BEGIN
    EXECUTE format('DROP FUNCTION %s', shell);
EXCEPTION WHEN dependent_objects_still_exist THEN
    -- Anybody who may call it may have made a view of it.
    former := shell::text;
    EXECUTE format('ALTER FUNCTION %s RENAME TO %I', shell, aside);
    RAISE WARNING USING
        MESSAGE = format('function %s is now named %s, because other objects depend on it', former, aside),
        HINT = 'Drop it, with what depends on it: it is not kept current.';
END
$$;
COMMENT ON FUNCTION visrec._drop_shell(regprocedure) IS 'Drops a shell; one that others depend on steps aside.';

CREATE FUNCTION visrec._make_shell(a visrec.attachment, before regprocedure[], shell record) RETURNS regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place record;
    full_name text;
    made regprocedure;
    others regprocedure;
    acl aclitem[];
    grantee oid;
    statement text;
BEGIN
    -- Where they are, also when the table has gone to another schema.
    SELECT coalesce(p.pronamespace, c.relnamespace) AS schema, pg_get_userbyid(c.relowner) AS owner INTO place
    FROM pg_class AS c LEFT JOIN pg_proc AS p ON p.oid = ANY (before::oid[])
    WHERE c.oid = a.relation ORDER BY p.pronamespace <> c.relnamespace, p.pronamespace LIMIT 1;
    full_name := format('%I.%I', (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = place.schema), shell.name);
    others := (SELECT min(p.oid) FROM pg_proc AS p
               WHERE p.proname = shell.name AND p.pronamespace = place.schema AND p.oid <> ALL (before::oid[]));
    IF others IS NOT NULL THEN      -- with other arguments, too: a call could mean either
        RAISE duplicate_function USING
            MESSAGE = format('function %s already exists and was not created by visrec', others),
            HINT = format('Rename or drop it, or choose another name: SELECT visrec.attach(%L, name => …);', a.relation);
    END IF;
    made := to_regprocedure(format('%s(%s)', full_name, shell.types));
    statement := format('CREATE OR REPLACE FUNCTION %s%s AS %L', full_name, shell.declaration, shell.body);
    BEGIN
        EXECUTE statement;
    EXCEPTION WHEN invalid_function_definition THEN     -- other columns than before
        IF made IS NULL THEN
            RAISE;
        END IF;
        acl := (SELECT p.proacl FROM pg_proc AS p WHERE p.oid = made);
        PERFORM visrec._drop_shell(made);
        EXECUTE statement;
        made := to_regprocedure(format('%s(%s)', full_name, shell.types));
        IF acl IS NOT NULL THEN
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made);
            FOR grantee IN SELECT x.grantee FROM aclexplode(acl) AS x LOOP
                EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', made,
                    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END);
            END LOOP;
        END IF;
    END;
    made := to_regprocedure(format('%s(%s)', full_name, shell.types));
    IF place.owner <> (SELECT pg_get_userbyid(p.proowner) FROM pg_proc AS p WHERE p.oid = made) THEN
        EXECUTE format('ALTER FUNCTION %s OWNER TO %I', made, place.owner);
    END IF;
    EXECUTE format('ALTER FUNCTION %s DEPENDS ON EXTENSION visrec', made);
    EXECUTE format('COMMENT ON FUNCTION %s IS %L', made, shell.comment);
    RETURN made;
END
$$;
COMMENT ON FUNCTION visrec._make_shell(visrec.attachment, regprocedure[], record) IS
    'Writes a shell, owned by the table''s owner; of the functions that exist it replaces only the given ones.';

CREATE FUNCTION visrec._make_shells(a visrec.attachment, known regprocedure[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before regprocedure[] := coalesce(known, ARRAY(SELECT w.function FROM visrec._written_shells(a) AS w));
    made regprocedure[] := '{}';
    shell record;
    unused regprocedure;
BEGIN
    FOR shell IN SELECT * FROM visrec._shells(a) LOOP
        made := made || visrec._make_shell(a, before || made, shell);
    END LOOP;
    FOREACH unused IN ARRAY before LOOP
        IF unused <> ALL (made) AND EXISTS (SELECT FROM pg_proc AS p WHERE p.oid = unused AND p.proname !~ '^visrec_unused_') THEN
            IF visrec._events_problem(a) IS NOT NULL THEN
                RAISE WARNING USING
                    MESSAGE = format('function %s is dropped', unused),
                    DETAIL = format('It needs what was dropped: %s.', visrec._events_problem(a)),
                    HINT = format('SELECT visrec.attach_events(%L, …);', a.relation);
            END IF;
            PERFORM visrec._drop_shell(unused);
        END IF;
    END LOOP;
    UPDATE visrec.own_attachment AS o SET shells = ARRAY(SELECT visrec._shell_digest(s.name, s.body) FROM visrec._shells(a) AS s)
    WHERE o.id = a.id;
END
$$;
COMMENT ON FUNCTION visrec._make_shells(visrec.attachment, regprocedure[]) IS
    'Writes an attachment''s shells, and drops those of before: known, where they were found before the attachment was written.';

CREATE FUNCTION visrec._drop_shells(a visrec.attachment) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shell regprocedure;
BEGIN
    FOR shell IN SELECT w.function FROM visrec._written_shells(a) AS w LOOP
        PERFORM visrec._drop_shell(shell);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_shells(visrec.attachment) IS 'Drops an attachment''s shells.';
