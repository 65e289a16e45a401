-- The triggers of an attached table: what their function asks, and how they are made.

CREATE FUNCTION visrec._is_within(part oid, relation oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT part = relation OR EXISTS (SELECT FROM pg_partition_ancestors(part) AS p WHERE p.relid = relation)
$$;
COMMENT ON FUNCTION visrec._is_within(oid, oid) IS
    'Whether a table is the attached one, or a partition of it: a trigger function does nothing for others.';

CREATE FUNCTION visrec._cannot_embed(attachment integer, relation regclass, level text, operation text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a visrec.attachment;
    problem text;
BEGIN
    -- Restored by itself, a table's triggers may call those of another that has its attachment's id.
    SELECT r.* INTO a FROM visrec.attachment AS r WHERE r.id = attachment AND visrec._is_within(_cannot_embed.relation, r.relation);
    IF operation = 'TRUNCATE' AND a.id IS NOT NULL THEN
        PERFORM visrec._forget_failures(attachment);
    ELSIF a.id IS NOT NULL AND (operation = 'UPDATE' AND visrec._current_name(a.relation, a.numbers[3]) IS NOT NULL
                                AND visrec._attached_above(a.relation, a.numbers[3]) IS NULL
                                OR operation = 'INSERT' AND a.on_error = 'raise') THEN
        PERFORM visrec._raise_problem(a);       -- an UPDATE would leave the vector of another picture
    ELSIF level = 'STATEMENT' AND a.id IS NOT NULL THEN
        problem := visrec._problem(a);
        RAISE WARNING USING
            MESSAGE = format('rows of table "%s" are kept without a vector', visrec._label(relation)),
            DETAIL = format('The table has changed since it was attached: %s.', problem),
            HINT = visrec._attach_call(a);
    ELSIF level = 'STATEMENT' AND operation <> 'TRUNCATE' THEN
        RAISE WARNING USING
            MESSAGE = format('table "%s" has visrec''s triggers and is not attached; its rows are kept without a vector',
                visrec._label(relation)),
            DETAIL = 'It was restored without the data of visrec.attachment.',
            HINT = format('SELECT visrec.attach(%L, …); CALL visrec.backfill(%L);', relation, relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._cannot_embed(integer, regclass, text, text) IS
    'What an attachment''s trigger does where the attachment is gone, or the table has changed: a WARNING, once a statement; an error '
    'for an UPDATE of images that have vectors, and where on_error is raise.';

CREATE FUNCTION visrec._check_snapshot(relation oid, trigger name) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = relation AND t.tgname = trigger) THEN
        RAISE serialization_failure USING
            MESSAGE = format('table "%s" was attached after this transaction began', visrec._label(relation)),
            DETAIL = 'Which vector goes with the image cannot be seen.', HINT = 'Run the transaction again.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_snapshot(oid, name) IS
    'Raises an error where a trigger runs that is not there yet in the transaction''s view: in REPEATABLE READ triggers of others '
    'take effect at once, and the attachment does not.';

CREATE FUNCTION visrec._check_current(attachment integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        PERFORM FROM visrec.own_attachment AS o WHERE o.id = _check_current.attachment FOR SHARE;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_current(integer) IS
    'A serialization failure where an attachment has been changed since the transaction began, which sees it as it was: which '
    'column is the image, and what its name is. Attach and ALTER TABLE write its line.';

CREATE FUNCTION visrec._orphaned_vectors(attachment integer, relation oid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Of pgvector's own type: what is set to NULL runs no code of a table's owner, as a domain would.
    SELECT coalesce(jsonb_object_agg(f.attname, NULL), '{}')
    FROM pg_trigger AS t
    JOIN pg_proc AS p ON p.oid = t.tgfoid AND p.pronamespace = 'visrec'::regnamespace AND p.proname = '_trigger_' || $1
    JOIN pg_depend AS d ON d.classid = 'pg_trigger'::regclass AND d.objid = t.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.tgrelid
    JOIN pg_attribute AS f ON f.attrelid = t.tgrelid AND f.attnum = d.refobjsubid
    JOIN pg_type AS y ON y.oid = f.atttypid AND y.typname = 'vector'
    JOIN pg_extension AS e ON e.extname = 'vector' AND e.extnamespace = y.typnamespace
    WHERE visrec._is_within($2, t.tgrelid) AND NOT EXISTS (
        SELECT FROM visrec.attachment AS a
        WHERE visrec._is_within($2, a.relation) AND visrec._current_name(a.relation, a.numbers[3]) = f.attname)
$$;
COMMENT ON FUNCTION visrec._orphaned_vectors(integer, oid) IS
    'NULL for each column of vectors that an attachment''s triggers on a table name, and that no attachment keeps current: they go '
    'with their image.';

CREATE FUNCTION visrec._inserted_keys(n visrec._names) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN format('SELECT pg_catalog.array_agg(%1$s) FILTER (WHERE t.%2$s IS NULL), pg_catalog.bool_or(t.%2$s IS NOT NULL) FROM new_rows AS t '
        'WHERE CASE WHEN t.%2$s IS NULL THEN %4$s ELSE t.%3$s[1] IS NOT NULL END', n.key_text, n.vector, n.source, n.has_image);
END
$$;
COMMENT ON FUNCTION visrec._inserted_keys(visrec._names) IS
    'The statement for the keys of inserted rows that are to be embedded, and whether others came with the vector of an image; for '
    'the trigger function, which sees new_rows.';

CREATE FUNCTION visrec._copied_keys(n visrec._names) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN format('SELECT pg_catalog.array_agg(%1$s) FILTER (WHERE %2$s), pg_catalog.array_agg(%1$s) FILTER (WHERE t.%3$s IS NOT NULL) '
        'FROM new_rows AS t WHERE CASE WHEN t.%3$s IS NULL THEN %2$s ELSE %4$s END',
        n.key_text, n.has_image, n.vector, visrec._of_another(n));
END
$$;
COMMENT ON FUNCTION visrec._copied_keys(visrec._names) IS
    'The statement for the keys of inserted rows that are to be embedded, and of those that came with the vector of another image.';

CREATE FUNCTION visrec._take_copied(n visrec._names, keys text[], schemas name[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    taken bigint;
BEGIN
    PERFORM visrec._raise_strangers_code(n.relation, n.key_oid, true);
    taken := visrec._take_stale(n, schemas, keys);
    IF taken < cardinality(keys) AND row_security_active(n.relation) THEN
        RAISE triggered_data_change_violation USING
            MESSAGE = format(CASE cardinality(keys) - taken WHEN 1 THEN 'could not remove the vector of another image from %s row of table "%s"'
                ELSE 'could not remove the vectors of other images from %s rows of table "%s"' END, cardinality(keys) - taken,
                visrec._label(n.relation)),
            DETAIL = 'Row-level security hides them from the table''s owner.',
            HINT = 'Insert them without a vector.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._take_copied(visrec._names, text[], name[]) IS
    'Takes the vectors from inserted rows (by their keys) that are copies of others, with another image. Raises an error where it could not.';

CREATE FUNCTION visrec._mark(n visrec._names) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('visrec.marked_' || n.id, 'yes', true);
    RETURN (
        SELECT jsonb_object_agg(f.attname, CASE f.attnum WHEN a.numbers[4] THEN jsonb_build_array(NULL, pg_current_xact_id()::text) END)
        FROM visrec.attachment AS a JOIN pg_attribute AS f ON f.attrelid = a.relation AND f.attnum = ANY (a.numbers[3:4])
        WHERE a.id = n.id);
END
$$;
COMMENT ON FUNCTION visrec._mark(visrec._names) IS
    'What a row is set to when its image changes: no vector, and the transaction''s number as its source, by which the '
    'AFTER trigger finds the row.';

CREATE FUNCTION visrec._marked_keys(n visrec._names) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys text[];
    bare text[];        -- of rows that lost their image
BEGIN
    PERFORM set_config('visrec.marked_' || n.id, '', true);
    IF pg_current_xact_id_if_assigned() IS NULL THEN      -- nothing is written, nothing marked
        RETURN NULL;
    END IF;
    -- A partial index holds the marked rows and no others.
    EXECUTE format('SELECT array_agg(%1$s) FILTER (WHERE %5$s), array_agg(%1$s) FILTER (WHERE NOT %5$s) FROM %2$s AS t '
        'WHERE t.%3$s IS NULL AND t.%4$s IS NOT NULL AND t.%4$s[2] = $1',
        n.key_text, n."table", n.vector, n.source, n.has_image) INTO keys, bare USING pg_current_xact_id()::text::bigint;
    IF bare IS NOT NULL THEN
        PERFORM visrec._forget_failures(n.id, bare);
    END IF;
    RETURN keys;
END
$$;
COMMENT ON FUNCTION visrec._marked_keys(visrec._names) IS 'The keys of the rows whose image this statement changed.';

CREATE FUNCTION visrec._row_image(n visrec._names) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN format('SELECT ARRAY[%s, %s] FROM (SELECT ($1).*) AS t', n.key_text, visrec._image_digest(n));
END
$$;
COMMENT ON FUNCTION visrec._row_image(visrec._names) IS
    'The statement for the key of a row that is its parameter, and the digest of its image.';

CREATE FUNCTION visrec._image_digest(n visrec._names) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(CASE WHEN (n).holds_bytes THEN 'pg_catalog.encode(pg_catalog.sha256(t.%s::pg_catalog.bytea), ''hex'')'
        ELSE 'pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(t.%s::pg_catalog.text, ''UTF8'')), ''hex'')' END, (n).image)
$$;
COMMENT ON FUNCTION visrec._image_digest(visrec._names) IS 'The expression for a digest of all of a row''s image, or of its path.';

CREATE FUNCTION visrec._mark_late(n visrec._names, row_ text[], schemas name[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    marked boolean;
    path text;
BEGIN
    PERFORM visrec._raise_strangers_code(n.relation, n.key_oid, true);
    path := visrec._enter_path(visrec._safe_path(schemas || n.path));
    EXECUTE pg_catalog.format('UPDATE %1$s AS t SET %2$s = NULL, %3$s = ARRAY[NULL, $2] WHERE t.%4$s %5$s ($1)::%6$s '
        'AND COALESCE(%7$s, '''') OPERATOR(pg_catalog.=) COALESCE($3, '''') RETURNING t.%2$s IS NULL',
        n."table", n.vector, n.source, n.key, n.equals, n.key_type, visrec._image_digest(n))
    INTO marked USING row_[1], pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8, row_[2];
    PERFORM visrec._leave_path(path);
    -- The row has changed again, which is looked at again; or it has another key by now, or a trigger undid this.
    IF marked IS NULL AND NOT row_security_active(n.relation) THEN
        EXECUTE format('SELECT NOT EXISTS (SELECT FROM %s AS t WHERE coalesce(%s, '''') = coalesce($1, '''') AND t.%s IS NOT NULL AND t.%s[1] IS NOT NULL AND (%s%s))',
            n."table", visrec._image_digest(n), n.vector, n.source, n.stale,
            CASE WHEN n.holds_bytes THEN format(' OR t.%s[2] IS DISTINCT FROM visrec._stamp(t.%s::bytea)', n.source, n.image) END)
        INTO marked USING row_[2];
    END IF;
    IF marked IS NOT TRUE THEN
        RAISE triggered_data_change_violation USING
            MESSAGE = format('could not remove the vector of row %s of table "%s"', row_[1], visrec._label(n.relation)),
            DETAIL = 'A trigger changed its image, and the row is hidden from the table''s owner, or other triggers changed it, too.',
            HINT = 'Let a BEFORE trigger do it whose name sorts before "~visrec", in an UPDATE that names the image column.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._mark_late(visrec._names, text[], name[]) IS
    'Takes the vector from a row (its key, and the digest of its image) whose image a trigger changed after visrec''s BEFORE '
    'trigger, or without it, and marks it. Raises an error where it could not, since the vector is of another picture.';

CREATE FUNCTION visrec._moved_row(n visrec._names) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN visrec._row_image(n) || ' WHERE ' || visrec._of_another(n);
END
$$;
COMMENT ON FUNCTION visrec._moved_row(visrec._names) IS
    'As visrec._row_image, for a row that came to a partition with the vector of another image; no row for others.';

CREATE FUNCTION visrec._row_key(n visrec._names) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN format('SELECT ARRAY[%s] FROM (SELECT ($1).*) AS t', n.key_text);
END
$$;
COMMENT ON FUNCTION visrec._row_key(visrec._names) IS 'The statement for the key of a row that is its parameter.';

-- The triggers -------------------------------------------------------------------------------------

CREATE FUNCTION visrec._image_sources(relation regclass, number smallint) RETURNS name[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(nullif(ARRAY(
        SELECT b.attname
        FROM pg_attribute AS f
        LEFT JOIN pg_attrdef AS e ON e.adrelid = f.attrelid AND e.adnum = f.attnum
        JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = f.attrelid AND d.refobjsubid <> f.attnum
            AND (d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid
                 OR d.classid = 'pg_class'::regclass AND d.objid = f.attrelid AND d.objsubid = f.attnum)
        JOIN pg_attribute AS b ON b.attrelid = f.attrelid AND b.attnum = d.refobjsubid AND b.attnum > 0
        WHERE f.attrelid = relation AND f.attnum = number AND f.attgenerated <> ''
        GROUP BY b.attnum, b.attname ORDER BY b.attnum), '{}'), ARRAY[visrec._current_name(relation, number)])
$$;
COMMENT ON FUNCTION visrec._image_sources(regclass, smallint) IS
    'The columns whose change changes the image: the image column, or those that a generated one is made of.';

CREATE FUNCTION visrec._watches_others(a visrec.attachment) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_trigger AS t JOIN visrec._our_triggers(a.relation) AS o ON o.name = t.tgname AND o.attachment = a.id
        WHERE t.tgrelid = a.relation AND t.tgname = format('~visrec_%s_image', a.id)
            AND ARRAY(SELECT f.attname FROM pg_attribute AS f WHERE f.attrelid = a.relation AND f.attnum = ANY (t.tgattr) ORDER BY f.attnum)
                <> visrec._image_sources(a.relation, a.numbers[2]))
$$;
COMMENT ON FUNCTION visrec._watches_others(visrec.attachment) IS
    'Whether the triggers watch other columns than those whose change changes the image, as after DROP EXPRESSION.';

CREATE FUNCTION visrec._watches_all(relation regclass) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM (SELECT relation::oid AS oid UNION SELECT p.relid FROM pg_partition_tree(relation) AS p) AS r
        JOIN pg_trigger AS t ON t.tgrelid = r.oid JOIN pg_proc AS p ON p.oid = t.tgfoid
        WHERE t.tgtype & 19 = 19        -- for each row, before, on update
          AND NOT (p.pronamespace = 'visrec'::regnamespace AND p.proname ~ '^_trigger_[0-9]{1,9}$'))
$$;
COMMENT ON FUNCTION visrec._watches_all(regclass) IS
    'Whether every UPDATE of the table is looked at, not only those that name the image column: a BEFORE trigger of its users'' may '
    'change the image in any of them. Without one, other UPDATEs pay nothing.';

CREATE FUNCTION visrec._watches_moves(relation regclass) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_partition_tree(relation) AS p JOIN pg_trigger AS t ON t.tgrelid = p.relid
        WHERE p.relid <> relation AND t.tgtype & 7 = 7)         -- for each row, before, on insert
$$;
COMMENT ON FUNCTION visrec._watches_moves(regclass) IS
    'Whether a BEFORE trigger of its users'' may change the image of a row that an UPDATE moves to another partition: for that, '
    'PostgreSQL inserts it there, and calls no trigger for UPDATE afterwards but the statement''s.';

CREATE FUNCTION visrec._trigger_definitions(a visrec.attachment) RETURNS TABLE (name name, definition text, pins boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key text := quote_ident(a.columns[1]);
    image text := quote_ident(a.columns[2]);
    vector text := quote_ident(a.columns[3]);
    -- What a generated column will hold is not known before the row is written: what it is made of counts. (UPDATE OF it would
    -- mean every UPDATE, visrec's own too: with a BEFORE trigger all generated columns are computed anew.)
    sources name[] := visrec._image_sources(a.relation, a.numbers[2]);
    updated text := (SELECT string_agg(quote_ident(c), ', ') FROM unnest(sources) AS c);
    -- Byte by byte: values that are equal, as 7 and 7.0 are, may read differently in what is made of them.
    changed text := (SELECT format('WHEN (pg_catalog.record_image_ne(ROW(%s), ROW(%s))) ', string_agg(format('OLD.%I', c), ', '),
                         string_agg(format('NEW.%I', c), ', ')) FROM unnest(sources) AS c);
    watched boolean := visrec._watches_all(a.relation);
    moves boolean := visrec._watches_moves(a.relation);
BEGIN
    -- The one BEFORE trigger comes after the user's, which may change the image: triggers fire in the order of their names.
    RETURN QUERY
    SELECT t.name::name, format('CREATE TRIGGER %I %s ON %s %s EXECUTE FUNCTION visrec.%I()', t.name, t.event, a.relation, t.rest,
        '_trigger_' || a.id), t.pins
    FROM (VALUES
        (format('visrec_%s_insert', a.id), 'AFTER INSERT', 'REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT', false),
        (format('~visrec_%s_image', a.id), format('BEFORE UPDATE OF %s', updated), 'FOR EACH ROW ' || changed, true),
        -- For all columns: of two UPDATEs of one statement (WITH, ON UPDATE CASCADE) PostgreSQL calls this after the second alone.
        (format('visrec_%s_update', a.id), 'AFTER UPDATE',
         format('FOR EACH STATEMENT WHEN (pg_catalog.current_setting(%L, true) OPERATOR(pg_catalog.=) ''yes'')', 'visrec.marked_' || a.id), false),
        -- Rows that may have failed are those without a vector: others cost a look at the condition.
        (format('visrec_%s_delete', a.id), 'AFTER DELETE',
         format('FOR EACH ROW WHEN (OLD.%s IS NULL AND OLD.%s IS NOT NULL)', vector, image), true),
        -- Whether the key changed is asked of its text: 0 and -0 are equal.
        (format('visrec_%s_key', a.id), format('AFTER UPDATE OF %s', key),
         format('FOR EACH ROW WHEN (OLD.%s IS NULL AND OLD.%s IS NOT NULL)', vector, image), true),
        (format('visrec_%s_truncate', a.id), 'AFTER TRUNCATE', 'FOR EACH STATEMENT', false),
        -- Where a user's BEFORE trigger changed the image, and the one above did not see it. This compares images themselves.
        (CASE WHEN watched THEN format('visrec_%s_late', a.id) END, 'AFTER UPDATE',
         format('FOR EACH ROW WHEN (OLD.%1$s%4$s IS DISTINCT FROM NEW.%1$s%4$s AND NOT (NEW.%2$s IS NULL AND NEW.%3$I IS NOT NULL))',
             image, vector, a.columns[4], (SELECT ' COLLATE pg_catalog."C"' FROM pg_attribute AS f
                 WHERE f.attrelid = a.relation AND f.attname = a.columns[2] AND f.attcollation <> 0)),
         true),
        (CASE WHEN moves THEN format('visrec_%s_moved', a.id) END, 'AFTER INSERT',
         format('FOR EACH ROW WHEN (NEW.%s IS NOT NULL AND NEW.%I IS NOT NULL)', vector, a.columns[4]), true),
        (CASE WHEN watched OR moves THEN format('visrec_%s_later', a.id) END, 'AFTER UPDATE', 'FOR EACH STATEMENT', false)
    ) AS t (name, event, rest, pins)
    WHERE t.name IS NOT NULL;
END
$$;
COMMENT ON FUNCTION visrec._trigger_definitions(visrec.attachment) IS
    'The triggers that keep an attachment''s vectors current. pins: it names columns, whose type then cannot be changed: see '
    'visrec._release_columns. The BEFORE trigger takes away the vector of a changed image, so that no row ever shows the '
    'vector of another picture; the AFTER trigger writes the new ones.';

CREATE FUNCTION visrec._our_triggers(relation oid) RETURNS TABLE (name name, attachment integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.tgname, substr(p.proname, 10)::integer
    FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgparentid = 0
      AND p.pronamespace = 'visrec'::regnamespace AND p.proname ~ '^_trigger_[0-9]{1,9}$'
$$;
COMMENT ON FUNCTION visrec._our_triggers(oid) IS
    'A table''s triggers that call an attachment''s function: only visrec makes those.';

CREATE FUNCTION visrec._make_triggers(a visrec.attachment) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT * FROM visrec._trigger_definitions(a) AS d
             WHERE NOT EXISTS (SELECT FROM visrec._our_triggers(a.relation) AS o WHERE o.name = d.name AND o.attachment = a.id) LOOP
        EXECUTE t.definition;
        EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION visrec', t.name, a.relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._make_triggers(visrec.attachment) IS 'Makes those of an attachment''s triggers that are missing.';

CREATE FUNCTION visrec._trigger_states(a visrec.attachment) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_object_agg(t.tgname, t.tgenabled), '{}')
    FROM visrec._our_triggers(a.relation) AS o JOIN pg_trigger AS t ON t.tgrelid = a.relation AND t.tgname = o.name
    WHERE o.attachment = a.id AND t.tgenabled <> 'O'
$$;
COMMENT ON FUNCTION visrec._trigger_states(visrec.attachment) IS
    'Those of an attachment''s triggers that are disabled, or fire in replicas: A, D or R by their names.';

CREATE FUNCTION visrec._set_trigger_states(a visrec.attachment, states jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT o.name, s.value FROM visrec._our_triggers(a.relation) AS o JOIN jsonb_each_text(states) AS s ON s.key = o.name
             WHERE o.attachment = a.id LOOP
        EXECUTE format('ALTER TABLE %s %s TRIGGER %I', a.relation,
            CASE t.value WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'DISABLE' END, t.name);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._set_trigger_states(visrec.attachment, jsonb) IS 'Gives triggers that were made anew the states they had.';

CREATE FUNCTION visrec._watch_all(attachment integer) RETURNS void
-- As the extension's owner: who makes a trigger need not own the table. What is made follows from the attachment alone.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a visrec.attachment := (SELECT visrec._as_now(r) FROM visrec.attachment AS r WHERE r.id = attachment);
BEGIN
    -- A dump that is being restored makes its triggers by itself.
    IF (visrec._watches_all(a.relation) OR visrec._watches_moves(a.relation))
        AND (SELECT count(*) FROM visrec._our_triggers(a.relation) AS o WHERE o.attachment = a.id AND o.name !~ '_(later?|moved)$') = 6 THEN
        PERFORM visrec._make_triggers(a);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._watch_all(integer) IS 'Makes the triggers that look at every UPDATE, where visrec._watches_all, or at rows that were moved, where visrec._watches_moves.';

CREATE FUNCTION visrec._drop_triggers(relation regclass, attachment integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT o.name FROM visrec._our_triggers(relation) AS o
             WHERE o.attachment = _drop_triggers.attachment
                OR NOT EXISTS (SELECT FROM visrec.attachment AS a WHERE a.id = o.attachment)
                OR o.name ~ format('^(~visrec_%1$s_image|visrec_%1$s_(insert|update|delete|key|truncate|later?|moved))$', o.attachment)
                    AND NOT EXISTS (SELECT FROM visrec.attachment AS a WHERE a.id = o.attachment AND a.relation = _drop_triggers.relation) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', t.name, relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_triggers(regclass, integer) IS
    'Drops an attachment''s triggers, and those of attachments that are gone, or are another table''s.';
