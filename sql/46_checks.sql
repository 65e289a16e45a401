-- What attach checks before it changes anything.

CREATE FUNCTION visrec._check_table(relation regclass) RETURNS name
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    class pg_class;
    label text := visrec._label(relation);
    keys name[];
    type oid;
BEGIN
    SELECT c.* INTO class FROM pg_class AS c WHERE c.oid = relation;
    IF relation IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'the table must not be null';
    ELSIF class.oid IS NULL THEN
        RAISE undefined_table USING MESSAGE = format('relation "%s" does not exist', relation);
    ELSIF class.relkind NOT IN ('r', 'p') THEN
        RAISE wrong_object_type USING
            MESSAGE = format('"%s" is not a table', label),
            HINT = 'Attach the table that holds the rows.';
    ELSIF class.relpersistence = 't' THEN
        RAISE feature_not_supported USING
            MESSAGE = format('cannot attach temporary table "%s"', class.relname);
    ELSIF class.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = relation) THEN
        RAISE feature_not_supported USING
            MESSAGE = format('cannot attach table "%s" because it has child tables', label),
            DETAIL = 'Its primary key does not cover the rows of child tables.',
            HINT = 'Attach the child tables, or use partitions.';
    END IF;
    PERFORM visrec._check_owner(relation);
    SELECT array_agg(a.attname) INTO keys
    FROM pg_index AS x JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey[:x.indnkeyatts - 1])
    WHERE x.indrelid = relation AND x.indisprimary;
    IF keys IS NULL THEN
        RAISE invalid_table_definition USING
            MESSAGE = format('table "%s" has no primary key', label),
            HINT = format('Add one: ALTER TABLE %s ADD PRIMARY KEY (…);', relation);
    ELSIF cardinality(keys) > 1 THEN
        RAISE feature_not_supported USING
            MESSAGE = format('cannot attach table "%s" because its primary key has %s columns', label, cardinality(keys)),
            HINT = 'The key must be a single column.';
    END IF;
    type := (SELECT a.atttypid FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attname = keys[1]);
    IF EXISTS (SELECT FROM pg_type AS t WHERE t.oid = visrec._base_type(type) AND (t.typcategory IN ('A', 'C')
            OR t.typtype IN ('r', 'm') AND t.oid >= 16384)) THEN
        -- There are no arrays of arrays, unnest takes records apart, and what is read as a range may be of a domain, whose CHECK is code.
        RAISE feature_not_supported USING
            MESSAGE = format('cannot attach table "%s" because its primary key is of type %s', label, format_type(type, -1));
    END IF;
    RETURN keys[1];
END
$$;
COMMENT ON FUNCTION visrec._check_table(regclass) IS 'The key column of a table; raises an error if the table cannot be attached.';

CREATE FUNCTION visrec._check_triggers(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner oid := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = relation);
    suspect record;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('cannot attach a table in a %s transaction', upper(current_setting('transaction_isolation'))),
            DETAIL = 'Triggers that were created since it began would not be seen.',
            HINT = 'Attach in a READ COMMITTED transaction.';
    END IF;
    SELECT t.tgname, c.oid::regclass AS "table", a.grantee INTO suspect
    FROM (SELECT relation::oid AS oid UNION SELECT p.relid FROM pg_partition_tree(relation) AS p) AS r
    JOIN pg_class AS c ON c.oid = r.oid
    JOIN pg_trigger AS t ON t.tgrelid = c.oid AND NOT t.tgisinternal
    JOIN pg_proc AS p ON p.oid = t.tgfoid
        -- Another attachment's own, which only the owner could have made.
        AND NOT (p.pronamespace = 'visrec'::regnamespace AND p.proowner = owner)
    CROSS JOIN aclexplode(c.relacl) AS a
    WHERE a.privilege_type = 'TRIGGER' AND NOT (a.grantee <> 0 AND (pg_has_role(a.grantee, owner, 'MEMBER')
        OR (SELECT r.rolsuper FROM pg_roles AS r WHERE r.oid = a.grantee)))
    LIMIT 1;
    IF FOUND THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('triggers of table "%s" may be others'' than its owner''s', visrec._label(relation)),
            DETAIL = format('Role "%s" has the TRIGGER privilege. When visrec writes vectors, trigger "%s" runs with the rights of the owner.',
                CASE suspect.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(suspect.grantee) END, suspect.tgname),
            HINT = format('Look at the triggers; then: REVOKE TRIGGER ON %s FROM %s; and attach.', suspect."table",
                CASE suspect.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(suspect.grantee)) END);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_triggers(regclass) IS
    'Raises an error if a table has triggers that a role other than its owner may have made: PostgreSQL does not record who did. '
    'On attached tables only the owner makes triggers (see visrec._watch_table).';

CREATE FUNCTION visrec._warn_of_code(a visrec.attachment) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    former text := (SELECT pg_get_userbyid(p.proowner) FROM pg_proc AS p JOIN pg_class AS c ON c.oid = a.relation
                    WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname = '_table_' || a.id AND p.proowner <> c.relowner);
BEGIN
    IF former IS NOT NULL AND visrec._has_code(a.relation, a.types[1]) THEN
        RAISE WARNING USING
            MESSAGE = format('triggers, constraints or other code of table "%s" may be those of role "%s"', visrec._label(a.relation), former),
            DETAIL = 'The table has another owner since. When visrec writes vectors, its code runs with the rights of the owner.',
            HINT = E'Look at what the table has (\\d in psql), and drop what you do not trust.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._warn_of_code(visrec.attachment) IS
    'Warns, where a table has changed its owner, of code that the owner before may have left on it.';

CREATE FUNCTION visrec._check_columns(relation regclass, columns name[], model text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted name;
    shown name[] := columns[2] || columns[5:];
    dimension integer := (SELECT m.dimension FROM visrec.model AS m WHERE m.name = model);
    held record;
BEGIN
    IF columns[1] IS DISTINCT FROM visrec._check_table(relation) OR cardinality(columns) < 4
        OR array_position(columns, NULL) IS NOT NULL
        OR cardinality(columns[:4]) <> (SELECT count(DISTINCT c) FROM unnest(columns[:4]) AS c)
    THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'the key, the image and the vector must be three different columns',
            DETAIL = format('The key is "%s", image_column is "%s", vector_column is "%s".', columns[1], columns[2], columns[3]);
    ELSIF dimension IS NULL THEN
        RAISE undefined_object USING MESSAGE = format('model "%s" is not registered', model);
    END IF;
    FOREACH wanted IN ARRAY shown LOOP
        IF NOT EXISTS (SELECT FROM pg_attribute AS a
                       WHERE a.attrelid = relation AND a.attname = wanted AND a.attnum > 0 AND NOT a.attisdropped)
        THEN
            RAISE undefined_column USING
                MESSAGE = format('column "%s" of table "%s" does not exist', wanted, visrec._label(relation)),
                HINT = visrec._columns_hint(relation);
        ELSIF wanted::text IN (SELECT visrec._reserved_names()) THEN
            RAISE invalid_parameter_value USING
                MESSAGE = format('column "%s" cannot be shown', wanted),
                DETAIL = 'The search functions have an argument or a result of this name.',
                HINT = format('Join the table to show it. These names cannot be shown: %s.',
                    (SELECT string_agg(r, ', ' ORDER BY r) FROM visrec._reserved_names() AS r));
        END IF;
    END LOOP;
    IF cardinality(shown) <> (SELECT count(DISTINCT s) FROM unnest(shown) AS s) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'show_columns names a column twice',
            HINT = 'The image column is always shown.';
    END IF;

    SELECT a.attgenerated, format_type(a.atttypid, a.atttypmod) AS type, visrec._base_type(a.atttypid) AS base INTO held
    FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attname = columns[2] AND NOT a.attisdropped;
    IF held.base NOT IN ('text'::regtype, 'varchar'::regtype, 'bytea'::regtype) THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" cannot hold images because it is of type %s', columns[2], held.type),
            HINT = 'An image column is of type text or varchar (a path) or bytea (the image itself).';
    ELSIF held.attgenerated = 'v' THEN
        RAISE feature_not_supported USING
            MESSAGE = format('column "%s" cannot hold images because it is a virtual generated column', columns[2]),
            HINT = 'Use a stored generated column.';
    ELSIF held.attgenerated <> '' AND EXISTS (
        SELECT FROM pg_depend AS d JOIN pg_attribute AS f ON f.attrelid = d.refobjid AND f.attname = columns[2]
        LEFT JOIN pg_attrdef AS e ON e.adrelid = f.attrelid AND e.adnum = f.attnum
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND d.refobjsubid < 0
          AND (d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid
               OR d.classid = 'pg_class'::regclass AND d.objid = relation AND d.objsubid = f.attnum))
    THEN
        RAISE feature_not_supported USING
            MESSAGE = format('column "%s" cannot hold images because it is generated from the column tableoid', columns[2]),
            DETAIL = 'It changes when a row moves to another partition, with no column that could be watched.';
    END IF;

    SELECT format_type(a.atttypid, a.atttypmod) AS type, t.typname, t.typnamespace, a.atttypmod, a.attgenerated INTO held
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = relation AND a.attname = columns[3] AND a.attnum > 0 AND NOT a.attisdropped;
    IF FOUND AND (held.typname <> 'vector' OR held.atttypmod NOT IN (-1, dimension) OR held.attgenerated <> '' OR held.typnamespace <> (
        SELECT e.extnamespace FROM pg_extension AS e WHERE e.extname = 'vector'))
    THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" cannot hold vectors of model "%s" because it is of type %s', columns[3], model, held.type),
            HINT = format('Name another vector_column; attach adds it as vector(%s).', dimension);
    END IF;

    SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type INTO held FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attname = columns[4] AND a.attnum > 0
      AND NOT a.attisdropped AND (a.atttypid <> 'bigint[]'::regtype OR a.attgenerated <> '');
    IF FOUND THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" cannot hold the sources of vectors because it is of type %s', held.attname, held.type),
            HINT = 'Name another vector_column; attach adds a second column of that name with _source at the end.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_columns(regclass, name[], text) IS
    'Raises an error if a column (key, image, vector, source, shown …) cannot be used; those of vectors need not exist yet.';

CREATE FUNCTION visrec._check_name(id integer, relation regclass, name name) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other visrec.attachment;
BEGIN
    IF coalesce(name, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the name of an attachment must not be empty';
    END IF;
    SELECT a.* INTO other FROM visrec.attachment AS a JOIN pg_class AS c ON c.oid = a.relation
    WHERE a.id <> _check_name.id AND a.name = _check_name.name
      AND c.relnamespace = (SELECT o.relnamespace FROM pg_class AS o WHERE o.oid = _check_name.relation);
    IF FOUND THEN
        RAISE duplicate_object USING
            MESSAGE = format('the functions of table "%s" are already named after "%s"', visrec._label(other.relation), name),
            HINT = format('Choose another name: SELECT visrec.attach(%L, name => …);', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_name(integer, regclass, name) IS
    'Raises an error if another attachment in the table''s schema has the name.';

CREATE FUNCTION visrec._use_model(wanted text) RETURNS visrec.model
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    registered visrec.model;
    directory text;
BEGIN
    SELECT m.* INTO registered FROM visrec.model AS m WHERE m.name = wanted;
    IF FOUND THEN
        RETURN registered;
    END IF;
    -- A model that an administrator fetched is registered the first time an administrator uses it.
    IF has_function_privilege('visrec.register_model(text, text)', 'EXECUTE') THEN
        SELECT s.value || '/' || wanted INTO directory FROM visrec.setting AS s WHERE s.name = 'model_directory';
        IF wanted !~ '[/:]' AND (pg_stat_file(directory, true)).isdir THEN
            RETURN visrec._register_model(wanted, NULL);
        END IF;
    END IF;
    RAISE undefined_object USING
        MESSAGE = format('model "%s" is not registered', wanted),
        DETAIL = 'Registered: ' || (SELECT string_agg(m.name, ', ' ORDER BY m.name) FROM visrec.model AS m) || '.',
        HINT = format('An administrator fetches it on the server (visrec model pull %s) and registers it '
            '(SELECT visrec.register_model(%L);). The model "pixels" needs no weights.', wanted, wanted);
END
$$;
COMMENT ON FUNCTION visrec._use_model(text) IS 'A registered model, or an error that says how to get it.';
REVOKE ALL ON FUNCTION visrec._use_model(text) FROM PUBLIC;

CREATE FUNCTION visrec._check_vector_column(a visrec.attachment) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other visrec.attachment;
BEGIN
    -- The columns of partitions are those of the table, under the same names.
    SELECT o.* INTO other FROM visrec.attachment AS o
    WHERE o.id <> a.id AND (o.relation = a.relation OR EXISTS (SELECT FROM pg_partition_ancestors(a.relation) AS p WHERE p.relid = o.relation)
                            OR EXISTS (SELECT FROM pg_partition_tree(a.relation) AS p WHERE p.relid = o.relation))
        AND (a.columns[3] = visrec._current_name(o.relation, o.numbers[3]) OR a.columns[4] = visrec._current_name(o.relation, o.numbers[4]))
    ORDER BY o.relation = a.relation DESC, o.id LIMIT 1;
    IF other.relation = a.relation THEN
        RAISE duplicate_object USING
            MESSAGE = format('column "%s" already holds the vectors of attachment "%s"', a.columns[3], other.name),
            HINT = format('For another image or model, name another vector_column. To rename the functions: SELECT '
                'visrec.detach(%1$L, name => %2$L); SELECT visrec.attach(%1$L, name => %3$L);', a.relation, other.name, a.name);
    ELSIF other.id IS NOT NULL THEN
        RAISE duplicate_object USING
            MESSAGE = format('column "%s" already holds the vectors of attachment "%s" of table "%s"', a.columns[3], other.name,
                visrec._label(other.relation)),
            DETAIL = 'A table and its partitions are attached together or apart.',
            HINT = format('SELECT visrec.detach(%L, name => %L);', other.relation, other.name);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_vector_column(visrec.attachment) IS
    'Raises an error if another attachment of the table, of one that it is a partition of, or of a partition, has the same '
    'column for its vectors.';

CREATE FUNCTION visrec._check_vectors(a visrec.attachment, before visrec.attachment) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Of another model: by their sources, or, without one, since another made the column's others.
    IF visrec._call(a.id, 'foreign', jsonb_build_object('unknown', before.columns[3] = a.columns[3]
            AND before.fingerprint <> a.fingerprint))::boolean
    THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('table "%s" has vectors of another model', visrec._label(a.relation)),
            DETAIL = 'Vectors of different models cannot be compared.',
            HINT = format('Name another vector_column, or drop the vectors: SELECT visrec.detach(%1$L, drop_vectors => '
                'true%4$s); or ALTER TABLE %1$s DROP COLUMN %2$I, DROP COLUMN %3$I;', a.relation, a.columns[3], a.columns[4],
                visrec._name_argument(a.id));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_vectors(visrec.attachment, visrec.attachment) IS
    'Raises an error if the column has vectors of another model.';

CREATE FUNCTION visrec._has_foreign(n visrec._names, unknown boolean) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s AS t WHERE t.%s IS NOT NULL AND coalesce(t.%s[1] <> 0 AND t.%s[1] >> 32 <> $1, $2))',
        n."table", n.vector, n.source, n.source) INTO found USING n.weights, coalesce(unknown, false);
    RETURN to_jsonb(found);
END
$$;
COMMENT ON FUNCTION visrec._has_foreign(visrec._names, boolean) IS
    'Whether the column has vectors of another model; unknown: whether those without a source count as such.';
