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
                HINT = visrec._columns_hint(relation);
        ELSIF wanted IN ('id', 'k', 'filter', 'similarity', 'max_distance', 'query', 'excluded', 'liked', 'disliked',
            'strategy', 'diversity', 'toward', 'seen', 'liked_weights', 'disliked_weights') THEN
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

    SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type INTO held FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attname = visrec._function_name('', vector_column, '_source')
      AND NOT a.attisdropped AND (a.atttypid <> 'bigint'::regtype OR a.attname IN (key_column, image_column));
    IF FOUND THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" cannot hold where vectors come from: its type is %s', held.attname, held.type),
            HINT = 'Name another vector_column: attach adds a column of its name with _source after it.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_columns(regclass, name, name, name, name[], integer) IS
    'An error where a column cannot serve.';

CREATE FUNCTION visrec._make_columns(relation regclass, vector_column name, source_column name, dimension integer)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    vector text := (SELECT format('%I.vector(%s)', n.nspname, dimension) FROM pg_extension AS e
                    JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
    columns name[] := ARRAY(SELECT a.attname FROM pg_attribute AS a
                            WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped);
BEGIN
    IF vector_column <> ALL (columns) THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s', relation, vector_column, vector);
    END IF;
    IF source_column <> ALL (columns) THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I bigint', relation, source_column);
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', relation, source_column, format(
            'what %I was made of: 32 bits for the model''s weights, 32 for the image; NULL where visrec did not make it',
            vector_column));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._make_columns(regclass, name, name, integer) IS
    'Adds the column for the vectors and the one that says what each was made of, where they are missing.';

CREATE FUNCTION visrec._check_vectors(relation regclass, vector_column name, source_column name, fingerprint text,
    fingerprint_before text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    others boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s AS t WHERE t.%I IS NOT NULL AND coalesce(t.%I >> 32 <> $1, $2))',
        relation, vector_column, source_column)
    INTO others USING visrec._weights(fingerprint), coalesce(fingerprint_before <> fingerprint, false);
    IF others THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('table "%s" has vectors of another model', relation),
            DETAIL = 'Vectors of two models cannot be compared.',
            HINT = format('Name another vector_column, or drop the vectors: SELECT visrec.detach(%1$L, drop_vectors => '
                'true), or ALTER TABLE %1$s DROP COLUMN %2$I, DROP COLUMN %3$I.', relation, vector_column, source_column);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_vectors(regclass, name, name, text, text) IS
    'An error where the vectors that are there are of other weights.';

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

CREATE FUNCTION visrec._write(relation regclass, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM visrec._drop_replaced(config, ARRAY[
        visrec._make_triggers(relation, config),
        visrec._make_backfill(relation, config),
        visrec._make_nearest(relation, config),
        visrec._make_similar(relation, config)
    ] || ARRAY(SELECT visrec._make_search(relation, config)
               UNION ALL SELECT visrec._make_recommend(relation, config)
               UNION ALL SELECT visrec._make_recommend_for(relation, config)));
END
$$;
COMMENT ON FUNCTION visrec._write(regclass, jsonb) IS 'Writes a table''s attachment, its triggers and its functions.';

CREATE FUNCTION visrec._kept(relation regclass) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_object_agg(c.key, c.value)
    FROM pg_trigger AS t, jsonb_each(visrec._config(t.tgargs)) AS c
    WHERE t.tgrelid = relation AND t.tgname = 'visrec_insert' AND NOT t.tgisinternal
      AND c.key IN ('events', 'index_method', 'index_metric', 'reduction')
$$;
COMMENT ON FUNCTION visrec._kept(regclass) IS 'What of an attachment stays when visrec.attach is called again.';

CREATE FUNCTION visrec.attach(relation regclass, image_column name DEFAULT 'image_path',
    vector_column name DEFAULT 'content_vector', model text DEFAULT 'clip-ViT-B-32', mode text DEFAULT 'sync',
    on_error text DEFAULT 'record', show_columns name[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key_column name := visrec._check_table(relation);
    source_column name := visrec._function_name('', vector_column, '_source');
    used visrec.model;
    before jsonb := (SELECT to_jsonb(a) FROM visrec.attached AS a WHERE a.relation = attach.relation);
    config jsonb;
    pending bigint;
    names record;
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

    PERFORM visrec._make_columns(relation, vector_column, source_column, used.dimension);
    PERFORM visrec._check_vectors(relation, vector_column, source_column, used.fingerprint,
        CASE WHEN before ->> 'vector_column' = vector_column THEN before ->> 'fingerprint' END);

    SELECT jsonb_build_object(
        'key_column', key_column, 'image_column', image_column, 'vector_column', vector_column,
        'source_column', source_column, 'model', used.name, 'fingerprint', used.fingerprint, 'mode', mode, 'on_error', on_error,
        'show_columns', coalesce(to_jsonb(show_columns), '[]'),
        'functions_schema', n.nspname, 'functions_name', c.relname)
        || coalesce(visrec._kept(relation), '{}')
    INTO config FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation;
    config := visrec._checked_reduction(relation, config);

    PERFORM visrec._write(relation, config);
    PERFORM visrec._make_index(relation, config);
    -- What was made under the table's name before a rename, unless another table took that name over.
    IF (before ->> 'functions_schema', before ->> 'functions_name')
            <> (config ->> 'functions_schema', config ->> 'functions_name')
        AND NOT EXISTS (SELECT FROM visrec.attached AS a
                        WHERE a.functions_schema = before ->> 'functions_schema'
                          AND a.functions_name = before ->> 'functions_name')
    THEN
        PERFORM visrec._drop_functions(before);
    END IF;

    SELECT * INTO names FROM visrec._names(relation, config);
    EXECUTE format('SELECT count(*) FROM %s AS t WHERE t.%s IS NOT NULL AND %s',
        names."table", names.image, names.unembedded) INTO pending;
    IF pending > 0 THEN
        RAISE NOTICE USING
            MESSAGE = format('table "%s" has images without a vector: %s', relation, pending),
            HINT = format('CALL visrec.backfill(%L);', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec.attach(regclass, name, name, text, text, text, name[]) IS
    'Make a table''s images have vectors: adds the vector column, triggers, an index (see visrec.reindex) and similar_<table>. '
    'Again, it brings them up to date. on_error: record (a bad image leaves its row without a vector and a line in '
    'visrec.failure) or raise (it fails the statement).';
REVOKE ALL ON FUNCTION visrec.attach(regclass, name, name, text, text, text, name[]) FROM PUBLIC;

CREATE FUNCTION visrec.detach(relation regclass, drop_vectors boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
BEGIN
    PERFORM visrec._check_owner(relation);
    PERFORM visrec._drop_triggers(relation);
    PERFORM visrec._drop_functions(config);
    PERFORM visrec._drop_indexes(ARRAY(
        SELECT i.index FROM visrec._vector_indexes(relation, (config ->> 'vector_column')::name) AS i WHERE i.made));
    PERFORM visrec._drop_reductions(config);
    IF drop_vectors THEN
        EXECUTE format('ALTER TABLE %s DROP COLUMN %I, DROP COLUMN IF EXISTS %I', relation,
            config ->> 'vector_column', visrec._function_name('', config ->> 'vector_column', '_source'));
    END IF;
    DELETE FROM visrec.failure AS f WHERE f.relation = detach.relation;
    PERFORM visrec._drain_queue(relation);
END
$$;
COMMENT ON FUNCTION visrec.detach(regclass, boolean) IS
    'Remove what attach made. The vectors stay in their column, unless drop_vectors.';
