-- attach and detach. Both run as the caller, whose right to the table is checked; what they make on it belongs to its owner.

CREATE FUNCTION visrec._make_columns(a visrec.attachment, dimension integer) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    vector text := (SELECT format('%I.vector(%s)', n.nspname, dimension) FROM pg_extension AS e
                    JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
    columns name[] := ARRAY(SELECT f.attname FROM pg_attribute AS f
                            WHERE f.attrelid = a.relation AND f.attnum > 0 AND NOT f.attisdropped);
    unknown boolean := a.columns[3] = ANY (columns) AND a.columns[4] <> ALL (columns);
BEGIN
    IF a.columns[3] <> ALL (columns) THEN
        IF a.columns[4] = ANY (columns)
            AND NOT EXISTS (SELECT FROM visrec._noted_sources(a.relation) AS n WHERE n.source = a.columns[4])
        THEN
            RAISE duplicate_column USING
                MESSAGE = format('column "%s" of table "%s" exists, and visrec did not make it', a.columns[4], visrec._label(a.relation)),
                HINT = 'Name another vector_column, or rename that column.';
        END IF;
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s', a.relation, a.columns[3], vector);
    END IF;
    IF a.columns[4] <> ALL (columns) THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I bigint[]', a.relation, a.columns[4]);
    END IF;
    PERFORM visrec._note_source(a.relation, a.columns[3], a.columns[4]);
    RETURN unknown;
END
$$;
COMMENT ON FUNCTION visrec._make_columns(visrec.attachment, integer) IS
    'Adds the column for the vectors and the one that says what each was made of, where they are missing. Whether there was only '
    'the first: nothing says what its vectors were made of.';

CREATE FUNCTION visrec._as_now(a visrec.attachment) RETURNS visrec.attachment
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT array_agg(coalesce(f.attname, c.name) ORDER BY c.n), array_agg(coalesce(f.atttypid, c.type)::regtype ORDER BY c.n)
    INTO a.columns, a.types
    FROM unnest(a.columns, a.numbers, a.types) WITH ORDINALITY AS c (name, number, type, n)
    LEFT JOIN pg_attribute AS f ON f.attrelid = a.relation AND f.attnum = c.number AND NOT f.attisdropped;
    a.event_columns := visrec._current_events(a);
    RETURN a;
END
$$;
COMMENT ON FUNCTION visrec._as_now(visrec.attachment) IS 'An attachment with the names and types that its columns have now.';

CREATE FUNCTION visrec._next_id() RETURNS integer
-- As the extension's owner: who could draw from the sequence by itself could run it dry, and nobody would attach any more.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    next_id integer;
BEGIN
    LOOP        -- past what a dump without data brought: functions of attachments that it left out
        next_id := nextval('visrec.attachment_id');
        EXIT WHEN NOT EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = 'visrec'::regnamespace
                              AND p.proname IN ('_table_' || next_id, '_trigger_' || next_id))
            AND NOT EXISTS (SELECT FROM visrec.attachment AS a WHERE a.id = next_id);
    END LOOP;
    RETURN next_id;
END
$$;
COMMENT ON FUNCTION visrec._next_id() IS 'An id for a new attachment.';
REVOKE ALL ON FUNCTION visrec._next_id() FROM PUBLIC;

CREATE FUNCTION visrec._still_shown(a visrec.attachment) RETURNS name[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reserved name := (SELECT min(c.name) FROM unnest(a.columns[5:]) AS c (name) WHERE c.name::text IN (SELECT visrec._reserved_names()));
BEGIN
    IF reserved IS NOT NULL THEN
        RAISE WARNING USING
            MESSAGE = format('column "%s" of table "%s" is no longer shown', reserved, visrec._label(a.relation)),
            DETAIL = 'The search functions have an argument or a result of this name.';
    END IF;
    RETURN ARRAY(SELECT c.name FROM unnest(a.columns[5:], a.numbers[5:]) WITH ORDINALITY AS c (name, number, n)
        WHERE visrec._current_name(a.relation, c.number) IS NOT NULL AND c.name::text NOT IN (SELECT visrec._reserved_names()) ORDER BY c.n);
END
$$;
COMMENT ON FUNCTION visrec._still_shown(visrec.attachment) IS
    'Of the shown columns, by their names now, those that can still be shown: they exist, and are not named as an argument.';

CREATE FUNCTION visrec._wanted(relation regclass, image_column name, vector_column name, model visrec.model, mode text,
    on_error text, show_columns name[], name name, recall double precision, before visrec.attachment) RETURNS visrec.attachment
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a visrec.attachment := visrec._as_now(before);
    vector name := coalesce(vector_column, a.columns[3], 'content_vector');
BEGIN
    a.id := coalesce(before.id, visrec._next_id());
    a.relation := relation;
    a.name := coalesce(name, before.name, (SELECT c.relname FROM pg_class AS c WHERE c.oid = relation));
    a.columns := ARRAY[visrec._check_table(relation), coalesce(image_column, a.columns[2], 'image_path'), vector,
        CASE WHEN vector = a.columns[3] THEN a.columns[4] ELSE visrec._source_column(relation, vector) END]
        || coalesce(show_columns, visrec._still_shown(a), '{}');
    a.model := model.name;
    a.fingerprint := model.fingerprint;
    a.mode := coalesce(mode, before.mode, 'sync');
    a.on_error := coalesce(on_error, before.on_error, 'record');
    a.index_method := coalesce(before.index_method, 'hnsw');
    a.index_metric := coalesce(before.index_metric, 'cosine');
    a.shells := coalesce(before.shells, '{}');
    a.recall := coalesce(recall, before.recall, 0.98);
    IF EXISTS (
        SELECT FROM pg_proc AS p JOIN pg_class AS c ON c.oid = relation AND c.relowner <> p.proowner
        JOIN pg_class AS e ON e.oid = a.events AND NOT pg_has_role(e.relowner, c.relowner, 'MEMBER')
        WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname = '_table_' || a.id)
        AND NOT (SELECT r.rolsuper FROM pg_class AS e JOIN pg_roles AS r ON r.oid = e.relowner WHERE e.oid = a.events)
    THEN
        RAISE WARNING USING
            MESSAGE = format('table "%s" no longer has a table of events', visrec._label(relation)),
            DETAIL = format('"%s" belongs to another role than the table''s new owner.', visrec._label(a.events)),
            HINT = format('SELECT visrec.attach_events(%L, %L);', relation, a.events);
        a.events := NULL;
        a.event_columns := NULL;
    END IF;
    IF a.components IS NOT NULL AND before.fingerprint <> model.fingerprint THEN
        RAISE NOTICE USING
            MESSAGE = format('the index of table "%s" is no longer reduced', visrec._label(relation)),
            DETAIL = 'Its components were fitted to another model''s vectors.',
            HINT = format('SELECT * FROM visrec.reduce(%L, %s%s);', relation, cardinality(a.components), visrec._name_argument(a.id));
        a.components := NULL;
        a.index_method := 'hnsw';
        a.index_metric := 'cosine';
    END IF;
    IF (before.fingerprint, before.columns[3], before.index_method) <> (model.fingerprint, vector, a.index_method) THEN
        a := visrec._untuned(a);
    END IF;
    IF NOT (a.recall > 0 AND a.recall <= 1) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('recall must be greater than 0 and at most 1, not %s', a.recall);
    ELSIF a.on_error NOT IN ('record', 'raise') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('invalid value for on_error: "%s"', a.on_error),
            HINT = 'Valid values are "record" and "raise".';
    ELSIF a.mode <> 'sync' THEN
        RAISE USING
            ERRCODE = CASE a.mode WHEN 'queue' THEN 'feature_not_supported' ELSE 'invalid_parameter_value' END,
            MESSAGE = format('invalid value for mode: "%s"', a.mode),
            HINT = 'The only mode is "sync".';
    END IF;
    RETURN a;
END
$$;
COMMENT ON FUNCTION visrec._wanted(regclass, name, name, visrec.model, text, text, name[], name, double precision, visrec.attachment) IS
    'The attachment as it will be; an argument that is NULL leaves its part as it was, or at the default.';

CREATE FUNCTION visrec._write_attachment(a visrec.attachment) RETURNS visrec.attachment
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shell regprocedure;
    owner regrole := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = a.relation);
BEGIN
    -- After OWNER TO, while the functions in schema visrec still tell whose shells were visrec's.
    FOR shell IN SELECT w.function FROM visrec._written_shells(a) AS w JOIN pg_proc AS p ON p.oid = w.function
                 WHERE p.proowner <> owner LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %s', shell, owner);
    END LOOP;
    a.types := ARRAY(
        SELECT f.atttypid::regtype FROM unnest(a.columns) WITH ORDINALITY AS c (name, n)
        JOIN pg_attribute AS f ON f.attrelid = a.relation AND f.attname = c.name AND NOT f.attisdropped ORDER BY c.n);
    a.numbers := '{}';      -- which the table's trigger finds
    UPDATE visrec.own_attachment AS o SET (relation, name, columns, numbers, types, model, fingerprint, mode, on_error,
            index_method, index_metric, reduction, components, events, event_columns, path, shells, recall, width, tuned_recall, tuned_at,
            tuned_queries, tuned_rows)
        = ROW (a.relation, a.name, a.columns, a.numbers, a.types, a.model, a.fingerprint, a.mode, a.on_error,
            a.index_method, a.index_metric, a.reduction, a.components, a.events, a.event_columns, a.path, a.shells, a.recall, a.width,
            a.tuned_recall, a.tuned_at, a.tuned_queries, a.tuned_rows)
    WHERE o.id = a.id;
    IF NOT FOUND THEN
        INSERT INTO visrec.own_attachment SELECT a.*;
    END IF;
    SELECT * INTO a FROM visrec.attachment AS w WHERE w.id = a.id;
    RETURN a;
END
$$;
COMMENT ON FUNCTION visrec._write_attachment(visrec.attachment) IS
    'Writes an attachment, as its table''s owner may, and with it the functions in schema visrec.';

CREATE FUNCTION visrec._attach(relation regclass, image_column name, vector_column name, model text, mode text, on_error text,
    show_columns name[], name name, recall double precision, path name[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before visrec.attachment;
    used visrec.model;
    a visrec.attachment;
    due bigint;
    shells regprocedure[];
    states jsonb;
    unknown boolean;
BEGIN
    PERFORM visrec._check_table(relation);
    -- Or triggers could come after they are checked. As strong as what follows needs: who waits for more can be waited for.
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', relation);
    SELECT * INTO before FROM visrec.attachment AS r
    WHERE r.relation = _attach.relation AND r.name = coalesce(_attach.name, r.name) ORDER BY r.id LIMIT 1;
    used := visrec._use_model(coalesce(model, before.model, 'clip-ViT-B-32'));
    a := visrec._wanted(relation, image_column, vector_column, used, mode, on_error, show_columns, name, recall, before);
    a.path := coalesce(nullif(array_remove(path, 'pg_catalog'), '{}'), before.path, '{}');
    PERFORM visrec._check_columns(relation, a.columns, used.name);
    PERFORM visrec._check_name(a.id, relation, a.name);
    PERFORM visrec._check_vector_column(a);
    -- Once a table is attached, only its owner makes triggers.
    IF NOT EXISTS (SELECT FROM visrec.attachment AS o WHERE o.relation = a.relation) THEN
        PERFORM visrec._check_triggers(relation);
    END IF;
    PERFORM visrec._warn_of_code(a);
    PERFORM visrec._check_access(relation);

    IF visrec._current_name(relation, before.numbers[3]) <> a.columns[3] THEN       -- for when it is taken again
        PERFORM visrec._note_source(relation, visrec._current_name(relation, before.numbers[3]), visrec._current_name(relation, before.numbers[4]));
    END IF;
    unknown := visrec._make_columns(a, used.dimension);
    shells := ARRAY(SELECT w.function FROM visrec._written_shells(a) AS w);     -- while the owner is the one they were written for
    a := visrec._write_attachment(a);
    IF before.types[1] <> a.types[1] THEN
        BEGIN
            PERFORM visrec._call(a.id, 'tidy');
        EXCEPTION WHEN data_exception THEN      -- its failures have keys that the new type does not have: the rows are pending
            PERFORM visrec._forget_failures(a.id);
        END;
    END IF;
    PERFORM visrec._check_vectors(a, before);
    IF unknown AND visrec._call(a.id, 'foreign', '{"unknown": true}')::boolean THEN
        RAISE NOTICE USING
            MESSAGE = format('column "%s" of table "%s" has vectors that visrec did not make', a.columns[3], visrec._label(relation)),
            DETAIL = 'They count as yours: they are searched, and are not compared with the images.';
    END IF;
    states := visrec._trigger_states(a);
    PERFORM visrec._drop_triggers(relation, a.id);
    PERFORM visrec._make_triggers(a);
    PERFORM visrec._set_trigger_states(a, states);
    PERFORM visrec._make_shells(a, shells);
    PERFORM visrec._make_index(visrec._resolve(a.id));
    PERFORM visrec._make_mark_index(a);
    PERFORM visrec._take_others(a, before, path);
    due := visrec._call(a.id, 'count_due');
    IF due > 0 AND EXISTS (SELECT FROM visrec.own_failed_row AS f WHERE f.attachment = a.id) THEN      -- which it told of at the time
        due := due - (visrec._call(a.id, 'coverage') ->> 'failed')::bigint;
    END IF;
    IF due > 0 THEN
        RAISE NOTICE USING
            MESSAGE = format(CASE due WHEN 1 THEN '%s row of table "%s" has an image but no vector'
                ELSE '%s rows of table "%s" have an image but no vector' END, due, visrec._label(relation)),
            HINT = format('CALL visrec.backfill(%L%s);', relation, visrec._name_argument(a.id));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._attach(regclass, name, name, text, text, text, name[], name, double precision, name[]) IS
    'What visrec.attach does; path: the schemas on the search_path of its caller.';
REVOKE ALL ON FUNCTION visrec._attach(regclass, name, name, text, text, text, name[], name, double precision, name[]) FROM PUBLIC;

CREATE FUNCTION visrec.attach(relation regclass, image_column name DEFAULT NULL, vector_column name DEFAULT NULL,
    model text DEFAULT NULL, mode text DEFAULT NULL, on_error text DEFAULT NULL, show_columns name[] DEFAULT NULL,
    name name DEFAULT NULL, recall double precision DEFAULT NULL) RETURNS void
-- Without a search_path of its own: it notes that of its caller.
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM visrec._attach(relation, image_column, vector_column, model, mode, on_error, show_columns, name, recall,
        pg_catalog.current_schemas(false));
END
$$;
COMMENT ON FUNCTION visrec.attach(regclass, name, name, text, text, text, name[], name, double precision) IS
    'Gives a table''s images vectors: adds the vector column, triggers, an index (see visrec.reindex) and the functions '
    'similar_<name>, search_<name>, recommend_<name> and others. Called again, it changes what is given and brings the rest up to '
    'date; what is NULL stays as it is. The defaults of a new attachment are image_path, content_vector, clip-ViT-B-32, sync, '
    'record, no shown columns, the table''s name, and a recall of 0.98: the share of the ten nearest rows that searches are to '
    'find, which visrec.tune sees to. on_error: record (a bad image leaves its row without a vector and a line in '
    'visrec.failure) or raise (it fails the statement). With another name and vector_column, a table has several attachments.';
REVOKE ALL ON FUNCTION visrec.attach(regclass, name, name, text, text, text, name[], name, double precision) FROM PUBLIC;

CREATE FUNCTION visrec._take_others(a visrec.attachment, before visrec.attachment, path name[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    taken bigint;
BEGIN
    IF before.numbers[2:3] = a.numbers[2:3] THEN
        RETURN;
    ELSIF before.columns[3] <> a.columns[3]
        OR before.numbers[2] <> a.numbers[2] AND visrec._current_name(a.relation, before.numbers[2]) IS NOT NULL
    THEN
        RAISE NOTICE USING
            MESSAGE = CASE WHEN before.numbers[2] = a.numbers[2] THEN format('attachment "%s" now has its vectors in column "%s"', a.name, a.columns[3])
                ELSE format('attachment "%s" now embeds column "%s"', a.name, a.columns[2]) END,
            DETAIL = CASE WHEN before.columns[3] = a.columns[3] THEN format('Column "%s" is embedded no more.', before.columns[2])
                ELSE format('Columns "%s" and "%s" stay as they are, and are no longer kept current.', before.columns[3], before.columns[4]) END,
            HINT = 'To embed both, attach with another name and vector_column.';
    END IF;
    IF visrec._acts_for_owner(a.relation) AND NOT visrec._call(a.id, 'holds_stale')::boolean THEN      -- reading it can be undone, writing not
        RETURN;
    END IF;
    taken := visrec._call(a.id, 'take_stale', jsonb_build_object('schemas', coalesce(path, '{}')));
    IF taken > 0 THEN
        RAISE NOTICE USING
            MESSAGE = format(CASE taken WHEN 1 THEN '%s row of table "%s" had the vector of another image'
                ELSE '%s rows of table "%s" had the vectors of other images' END, taken, visrec._label(a.relation)),
            DETAIL = 'These vectors were removed.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._take_others(visrec.attachment, visrec.attachment, name[]) IS
    'Removes vectors of other images, where nobody has kept them current: after detach, or with another column.';

CREATE FUNCTION visrec._of_another(n visrec._names) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Also where the row has no image any more.
    SELECT format('(%1$s OR t.%2$s[1] IS NOT NULL AND (NOT %3$s%4$s))', (n).stale, (n).source, (n).has_image,
        CASE WHEN (n).holds_bytes THEN format(' OR (t.%s[2] OPERATOR(pg_catalog.=) visrec._stamp(t.%s::pg_catalog.bytea)) IS NOT TRUE',
            (n).source, (n).image) END)
$$;
COMMENT ON FUNCTION visrec._of_another(visrec._names) IS
    'The condition for a row whose vector is of another image than it has; by all of the bytes, and by a path alone.';

CREATE FUNCTION visrec._holds_stale(n visrec._names) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s AS t WHERE %s)', n."table", visrec._of_another(n)) INTO found;
    RETURN to_jsonb(found);
END
$$;
COMMENT ON FUNCTION visrec._holds_stale(visrec._names) IS 'Whether a row has the vector of another image than it has.';

CREATE FUNCTION visrec._take_stale(n visrec._names, schemas name[], keys text[] DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    taken bigint;
    path text := visrec._enter_path(visrec._safe_path(schemas || n.path));
BEGIN
    EXECUTE pg_catalog.format('UPDATE %1$s AS t SET %2$s = NULL, %3$s = NULL WHERE %4$s%5$s',
        n."table", n.vector, n.source, CASE WHEN keys IS NOT NULL
            THEN pg_catalog.format('t.%s %s ANY (($1)::%s[]) AND ', n.key, n.equals, n.key_type) END, visrec._of_another(n)) USING keys;
    GET DIAGNOSTICS taken = ROW_COUNT;
    PERFORM visrec._leave_path(path);
    RETURN pg_catalog.to_jsonb(taken);
END
$$;
COMMENT ON FUNCTION visrec._take_stale(visrec._names, name[], text[]) IS
    'Removes the vectors of other images than the rows have, of all or of those with these keys; returns how many.';

CREATE FUNCTION visrec.detach(relation regclass, drop_vectors boolean DEFAULT false, name name DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    a visrec.attachment;
    dropped text;
BEGIN
    PERFORM visrec._check_owner(relation);
    dropped := (SELECT string_agg(format('DROP COLUMN %I', f.attname), ', ' ORDER BY f.attnum) FROM pg_attribute AS f
                WHERE f.attrelid = relation AND NOT f.attisdropped AND EXISTS (
                    SELECT FROM visrec._noted_sources(relation) AS s WHERE f.attname IN (s.vector, s.source)));
    IF dropped IS NOT NULL AND NOT EXISTS (SELECT FROM visrec.attachment AS r WHERE r.relation = detach.relation) THEN
        IF EXISTS (SELECT FROM visrec._our_triggers(relation)) THEN        -- restored without their attachment
            PERFORM visrec._drop_triggers(relation, NULL);
            IF drop_vectors THEN
                EXECUTE format('ALTER TABLE %s %s', relation, dropped);
            END IF;
            RETURN;
        END IF;
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('table "%s" is not attached', visrec._label(relation)),
            HINT = format('To remove its vectors: ALTER TABLE %s %s;', relation, dropped);
    END IF;
    SELECT r.* INTO a FROM visrec._find(relation, name) AS f JOIN visrec.attachment AS r ON r.id = f;
    PERFORM visrec._drop_triggers(relation, a.id);
    PERFORM visrec._drop_shells(a);
    PERFORM visrec._drop_indexes(a);
    PERFORM visrec._note_source(relation, visrec._current_name(relation, a.numbers[3]), visrec._current_name(relation, a.numbers[4]));
    UPDATE visrec.own_attachment AS o SET gone = true WHERE o.id = a.id;
    dropped := (SELECT string_agg(format('DROP COLUMN %I', f.attname), ', ') FROM pg_attribute AS f
                WHERE f.attrelid = relation AND f.attnum = ANY (a.numbers[3:4]) AND NOT f.attisdropped);
    IF drop_vectors AND dropped IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s %s', relation, dropped);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec.detach(regclass, boolean, name) IS
    'Removes what attach made. The vectors stay in their column unless drop_vectors is true.';
