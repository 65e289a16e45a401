-- attach and detach. Both run as the caller: what they make belongs to the table's owner.

CREATE FUNCTION visrec._check_table(relation regclass) RETURNS name
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    class pg_class;
    keys name[];
BEGIN
    SELECT c.* INTO class FROM pg_class AS c WHERE c.oid = relation;
    IF class.oid IS NULL THEN
        RAISE undefined_table USING MESSAGE = format('relation "%s" does not exist', relation);
    ELSIF class.relkind NOT IN ('r', 'p') THEN
        RAISE wrong_object_type USING
            MESSAGE = format('cannot attach "%s": it is not a table', relation),
            HINT = 'Attach the table that holds the rows.';
    ELSIF class.relpersistence = 't' THEN
        RAISE feature_not_supported USING
            MESSAGE = format('cannot attach "%s": it is a temporary table', relation);
    END IF;
    PERFORM visrec._check_owner(relation);
    SELECT array_agg(a.attname) INTO keys
    FROM pg_index AS x JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey)
    WHERE x.indrelid = relation AND x.indisprimary;
    IF keys IS NULL THEN
        RAISE invalid_table_definition USING
            MESSAGE = format('cannot attach "%s": it has no primary key', relation),
            HINT = format('Add one: ALTER TABLE %s ADD PRIMARY KEY (…).', relation);
    ELSIF cardinality(keys) > 1 THEN
        RAISE feature_not_supported USING
            MESSAGE = format('cannot attach "%s": its primary key has %s columns', relation, cardinality(keys)),
            HINT = 'The key must be a single column.';
    END IF;
    RETURN keys[1];
END
$$;
COMMENT ON FUNCTION visrec._check_table(regclass) IS 'The key column of a table that can be attached, or an error.';

CREATE FUNCTION visrec._check_columns(relation regclass, key_column name, image_column name, vector_column name,
    show_columns name[], dimension integer) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted name;
    held record;
    shown name[] := ARRAY[image_column] || coalesce(show_columns, '{}');
BEGIN
    IF image_column IS NULL OR vector_column IS NULL OR vector_column IN (key_column, image_column) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'the image, the vector and the key are three different columns',
            DETAIL = format('key_column is "%s", image_column is "%s", vector_column is "%s".',
                key_column, image_column, vector_column);
    END IF;
    FOREACH wanted IN ARRAY shown LOOP
        IF NOT EXISTS (SELECT FROM pg_attribute AS a
                       WHERE a.attrelid = relation AND a.attname = wanted AND a.attnum > 0 AND NOT a.attisdropped)
        THEN
            RAISE undefined_column USING
                MESSAGE = format('column "%s" of table "%s" does not exist', wanted, relation),
                HINT = format('Columns: %s.', (
                    SELECT string_agg(a.attname, ', ' ORDER BY a.attnum) FROM pg_attribute AS a
                    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped));
        ELSIF wanted IN ('id', 'k', 'filter', 'similarity') THEN
            RAISE invalid_parameter_value USING
                MESSAGE = format('column "%s" cannot be shown: the search functions have an argument or a column of '
                    'this name', wanted);
        END IF;
    END LOOP;
    IF cardinality(shown) <> (SELECT count(DISTINCT s) FROM unnest(shown) AS s) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'show_columns names a column twice',
            HINT = 'The image column is shown anyway.';
    END IF;

    SELECT format_type(a.atttypid, a.atttypmod) AS type, coalesce(nullif(t.typbasetype, 0), t.oid) AS base INTO held
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = relation AND a.attname = image_column;
    IF held.base NOT IN ('text'::regtype, 'varchar'::regtype, 'bytea'::regtype) THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" cannot hold images: its type is %s', image_column, held.type),
            HINT = 'Image columns are text or varchar (a path) or bytea (the image itself).';
    END IF;

    SELECT format_type(a.atttypid, a.atttypmod) AS type, t.typname, a.atttypmod INTO held
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = relation AND a.attname = vector_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF FOUND AND (held.typname <> 'vector' OR held.atttypmod NOT IN (-1, dimension)) THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" cannot hold the vectors: its type is %s', vector_column, held.type),
            HINT = format('The model''s vectors are vector(%s): name another vector_column, which attach adds.',
                dimension);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_columns(regclass, name, name, name, name[], integer) IS
    'An error where a column cannot serve.';

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
            '(SELECT visrec.register_model(%L)). The model "pixels" needs no weights.', wanted, wanted);
END
$$;
COMMENT ON FUNCTION visrec._use_model(text) IS 'A registered model, or an error that says how to get it.';
REVOKE ALL ON FUNCTION visrec._use_model(text) FROM PUBLIC;

CREATE FUNCTION visrec._make_function(relation regclass, config jsonb, prefix text, arguments text,
    declaration text, body text, comment text) RETURNS regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner regrole := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = relation);
    name text := format('%I.%I', config ->> 'functions_schema',
        visrec._function_name(prefix, config ->> 'functions_name'));
    made regprocedure := to_regprocedure(format('%s(%s)', name, arguments));
    statement text := format('CREATE OR REPLACE FUNCTION %s(%s AS %L', name, declaration, body);
BEGIN
    IF made IS NOT NULL AND NOT visrec._depends_on_extension('pg_proc', made) THEN
        RAISE duplicate_function USING
            MESSAGE = format('function %s exists and is not visrec''s', made),
            HINT = 'Rename or drop it, then attach again.';
    END IF;
    BEGIN
        EXECUTE statement;
    EXCEPTION WHEN invalid_function_definition THEN     -- other columns than before
        EXECUTE format('DROP FUNCTION %s', made);
        EXECUTE statement;
    END;
    made := to_regprocedure(format('%s(%s)', name, arguments));
    IF owner <> (SELECT p.proowner FROM pg_proc AS p WHERE p.oid = made) THEN
        EXECUTE format('ALTER FUNCTION %s OWNER TO %s', made, owner);
    END IF;
    EXECUTE format('ALTER FUNCTION %s DEPENDS ON EXTENSION visrec', made);
    EXECUTE format('COMMENT ON FUNCTION %s IS %L', made, comment);
    RETURN made;
END
$$;
COMMENT ON FUNCTION visrec._make_function(regclass, jsonb, text, text, text, text, text) IS
    'Writes one of a table''s functions: owned by the table''s owner, dropped with the extension.';

CREATE FUNCTION visrec._make_triggers(relation regclass, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
    function regprocedure;
    other regclass;
BEGIN
    SELECT * INTO names FROM visrec._names(relation, config);
    SELECT t.tgrelid INTO other FROM pg_trigger AS t
    WHERE t.tgrelid <> relation AND t.tgname = 'visrec_insert' AND t.tgfoid = to_regprocedure(format('%I.%I()',
        config ->> 'functions_schema', visrec._function_name('visrec_embed_', config ->> 'functions_name')));
    IF other IS NOT NULL THEN
        RAISE duplicate_function USING
            MESSAGE = format('the functions for the name "%s" are in use by table "%s"',
                config ->> 'functions_name', other),
            HINT = format('It was renamed. SELECT visrec.attach(%L, …) gives it functions of its own.', other);
    END IF;

    function := visrec._make_function(relation, config, 'visrec_embed_',
        arguments => '',
        -- SECURITY DEFINER, for the table's owner: who may insert into the table needs no right to
        -- update it, and none on what is inside visrec.
        declaration => ') RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp',
        comment => format('Gives the rows of %s their vectors.', relation),
        body => format($body$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM visrec._embed_rows(TG_RELID, TG_ARGV[0]::jsonb, ARRAY(
            SELECT n.%1$s::text FROM new_rows AS n WHERE n.%3$s IS NULL AND n.%2$s IS NOT NULL));
    ELSIF TG_LEVEL = 'ROW' THEN
        NEW.%3$s := NULL;   -- the vector of the image before
        INSERT INTO visrec.queue (relation, row_id) VALUES (TG_RELID, NEW.%1$s::text);
        RETURN NEW;
    ELSE
        PERFORM visrec._embed_queued(TG_RELID, TG_ARGV[0]::jsonb);
    END IF;
    RETURN NULL;
END
$body$, names.key, names.image, names.vector));
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);

    PERFORM visrec._drop_triggers(relation);
    EXECUTE format('CREATE TRIGGER visrec_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows '
        'FOR EACH STATEMENT EXECUTE FUNCTION %s(%L)', names."table", function::regproc, config);
    EXECUTE format('CREATE TRIGGER visrec_update_row BEFORE UPDATE OF %2$s ON %1$s FOR EACH ROW '
        'WHEN (OLD.%2$s IS DISTINCT FROM NEW.%2$s) EXECUTE FUNCTION %3$s()',
        names."table", names.image, function::regproc);
    EXECUTE format('CREATE TRIGGER visrec_update AFTER UPDATE OF %s ON %s FOR EACH STATEMENT '
        'EXECUTE FUNCTION %s(%L)', names.image, names."table", function::regproc, config);
    EXECUTE format('ALTER TRIGGER visrec_insert ON %s DEPENDS ON EXTENSION visrec', names."table");
    EXECUTE format('ALTER TRIGGER visrec_update_row ON %s DEPENDS ON EXTENSION visrec', names."table");
    EXECUTE format('ALTER TRIGGER visrec_update ON %s DEPENDS ON EXTENSION visrec', names."table");
END
$$;
COMMENT ON FUNCTION visrec._make_triggers(regclass, jsonb) IS
    'Writes the triggers that keep a table''s vectors current. One BEFORE UPDATE trigger takes away the vector of a '
    'changed image, so that no row ever shows the vector of another picture; the statement''s end brings the new ones.';

CREATE FUNCTION visrec._drop_triggers(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trigger name;
BEGIN
    FOR trigger IN
        SELECT t.tgname FROM pg_trigger AS t
        WHERE t.tgrelid = relation AND visrec._depends_on_extension('pg_trigger', t.oid)
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', trigger, relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_triggers(regclass) IS 'Drops the triggers that attach made.';

CREATE FUNCTION visrec._drop_functions(config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    prefix text;
    made regprocedure;
BEGIN
    FOREACH prefix IN ARRAY ARRAY['similar_', 'visrec_embed_'] LOOP
        FOR made IN SELECT visrec._made_functions((config ->> 'functions_schema')::name,
                        visrec._function_name(prefix, config ->> 'functions_name'))
        LOOP
            EXECUTE format('DROP FUNCTION %s', made);
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_functions(jsonb) IS 'Drops the functions that attach made for a table.';

CREATE FUNCTION visrec._vector_index(relation regclass, vector_column name, made_by_attach boolean) RETURNS regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.indexrelid::regclass
    FROM pg_index AS x
    JOIN pg_class AS c ON c.oid = x.indexrelid
    JOIN pg_am AS m ON m.oid = c.relam
    JOIN pg_opclass AS o ON o.oid = x.indclass[0]
    JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
    WHERE x.indrelid = relation AND a.attname = vector_column AND x.indpred IS NULL AND x.indisvalid
      AND m.amname = 'hnsw' AND o.opcname = 'vector_cosine_ops'
      AND (NOT made_by_attach OR visrec._depends_on_extension('pg_class', x.indexrelid))
    LIMIT 1
$$;
COMMENT ON FUNCTION visrec._vector_index(regclass, name, boolean) IS 'The HNSW cosine index of a column.';

CREATE FUNCTION visrec._make_index(relation regclass, config jsonb, dimension integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
    workers text := current_setting('max_parallel_maintenance_workers');
    version int[] := (SELECT string_to_array(e.extversion, '.')::int[] FROM pg_extension AS e WHERE e.extname = 'vector');
BEGIN
    SELECT * INTO names FROM visrec._names(relation, config);
    IF visrec._vector_index(relation, (config ->> 'vector_column')::name, false) IS NOT NULL THEN
        RETURN;
    ELSIF dimension > 2000 THEN
        RAISE NOTICE USING
            MESSAGE = format('no index on column %s: pgvector indexes vectors of at most 2000 numbers', names.vector),
            DETAIL = format('The model''s vectors have %s; searches scan the table.', dimension);
        RETURN;
    END IF;
    IF version < '{0,8,2}' THEN     -- earlier ones can overflow in a parallel build
        PERFORM set_config('max_parallel_maintenance_workers', '0', true);
    END IF;
    EXECUTE format('CREATE INDEX ON %s USING hnsw (%s %s.vector_cosine_ops)',
        names."table", names.vector, names.vector_schema);
    PERFORM set_config('max_parallel_maintenance_workers', workers, true);
    EXECUTE format('ALTER INDEX %s DEPENDS ON EXTENSION visrec',
        visrec._vector_index(relation, (config ->> 'vector_column')::name, false));
END
$$;
COMMENT ON FUNCTION visrec._make_index(regclass, jsonb, integer) IS
    'Builds the HNSW cosine index, unless the column has one.';

CREATE FUNCTION visrec.attach(relation regclass, image_column name DEFAULT 'image_path',
    vector_column name DEFAULT 'content_vector', model text DEFAULT 'clip-ViT-B-32', mode text DEFAULT 'sync',
    on_error text DEFAULT 'record', show_columns name[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key_column name := visrec._check_table(relation);
    used visrec.model;
    before jsonb := (SELECT to_jsonb(a) FROM visrec.attached AS a WHERE a.relation = attach.relation);
    config jsonb;
    rows_with_vector boolean;
    pending bigint;
BEGIN
    IF mode IS DISTINCT FROM 'sync' OR on_error IS NULL OR on_error NOT IN ('record', 'raise') THEN
        RAISE USING
            ERRCODE = CASE mode WHEN 'queue' THEN 'feature_not_supported' ELSE 'invalid_parameter_value' END,
            MESSAGE = format('cannot attach with mode "%s" and on_error "%s"', mode, on_error),
            HINT = 'This version has the mode "sync"; on_error is "record" or "raise".';
    END IF;
    used := visrec._use_model(model);
    PERFORM visrec._check_columns(relation, key_column, image_column, vector_column, show_columns, used.dimension);
    PERFORM visrec._check_access(relation);

    IF NOT EXISTS (SELECT FROM pg_attribute AS a
                   WHERE a.attrelid = attach.relation AND a.attname = vector_column AND NOT a.attisdropped)
    THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s.vector(%s)', relation, vector_column,
            (SELECT e.extnamespace::regnamespace::text FROM pg_extension AS e WHERE e.extname = 'vector'),
            used.dimension);
    END IF;
    IF before ->> 'fingerprint' <> used.fingerprint AND before ->> 'vector_column' = vector_column THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %I IS NOT NULL)', relation, vector_column)
        INTO rows_with_vector;
        IF rows_with_vector THEN
            RAISE object_not_in_prerequisite_state USING
                MESSAGE = format('table "%s" has vectors of the model "%s"', relation, before ->> 'model'),
                DETAIL = 'Vectors of two models cannot be compared.',
                HINT = format('SELECT visrec.detach(%L, drop_vectors => true) first, or name another vector_column.',
                    relation);
        END IF;
    END IF;

    SELECT jsonb_build_object(
        'key_column', key_column, 'image_column', image_column, 'vector_column', vector_column,
        'model', used.name, 'fingerprint', used.fingerprint, 'mode', mode, 'on_error', on_error,
        'show_columns', coalesce(to_jsonb(show_columns), '[]'),
        'functions_schema', n.nspname, 'functions_name', c.relname)
    INTO config FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation;

    PERFORM visrec._make_triggers(relation, config);
    PERFORM visrec._make_similar(relation, config);
    PERFORM visrec._make_index(relation, config, used.dimension);
    -- What was made under the table's name before a rename, unless another table took that name over.
    IF (before ->> 'functions_schema', before ->> 'functions_name')
            <> (config ->> 'functions_schema', config ->> 'functions_name')
        AND NOT EXISTS (SELECT FROM visrec.attached AS a
                        WHERE a.functions_schema = before ->> 'functions_schema'
                          AND a.functions_name = before ->> 'functions_name')
    THEN
        PERFORM visrec._drop_functions(before);
    END IF;

    EXECUTE format('SELECT count(*) FROM %s WHERE %I IS NULL AND %I IS NOT NULL',
        relation, vector_column, image_column) INTO pending;
    IF pending > 0 THEN
        RAISE NOTICE USING
            MESSAGE = format('table "%s" has images without a vector: %s', relation, pending),
            HINT = format('CALL visrec.backfill(%L);', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec.attach(regclass, name, name, text, text, text, name[]) IS
    'Make a table''s images have vectors: adds the vector column, triggers, an HNSW cosine index and similar_<table>. '
    'Again, it brings them up to date. on_error: record (a bad image leaves its row without a vector and a line in '
    'visrec.failure) or raise (it fails the statement).';
REVOKE ALL ON FUNCTION visrec.attach(regclass, name, name, text, text, text, name[]) FROM PUBLIC;

CREATE FUNCTION visrec.detach(relation regclass, drop_vectors boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    made_index regclass;
BEGIN
    PERFORM visrec._check_owner(relation);
    PERFORM visrec._drop_triggers(relation);
    PERFORM visrec._drop_functions(config);
    made_index := visrec._vector_index(relation, (config ->> 'vector_column')::name, true);
    IF made_index IS NOT NULL THEN
        EXECUTE format('DROP INDEX %s', made_index);
    END IF;
    IF drop_vectors THEN
        EXECUTE format('ALTER TABLE %s DROP COLUMN %I', relation, config ->> 'vector_column');
    END IF;
    DELETE FROM visrec.failure AS f WHERE f.relation = detach.relation;
    PERFORM visrec._drain_queue(relation);
END
$$;
COMMENT ON FUNCTION visrec.detach(regclass, boolean) IS
    'Remove what attach made. The vectors stay in their column, unless drop_vectors.';
