-- Embedding: what people call, models and the encoder process. Nothing here knows of tables.

CREATE FUNCTION visrec._missing_package() RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.jsonb_build_object('code', 'encoder_unavailable', 'sqlstate', '55000',
    'message', 'the Python package visrec_db is not installed on the server', 'hint', 'Install it: make install, make venv.');
COMMENT ON FUNCTION visrec._missing_package() IS 'The error that is reported when the Python package is not installed.';

CREATE FUNCTION visrec._raise(code text, message text, detail text, hint text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF detail IS NULL AND hint IS NULL THEN
        RAISE USING ERRCODE = code, MESSAGE = message;
    ELSIF detail IS NULL THEN
        RAISE USING ERRCODE = code, MESSAGE = message, HINT = hint;
    ELSIF hint IS NULL THEN
        RAISE USING ERRCODE = code, MESSAGE = message, DETAIL = detail;
    END IF;
    RAISE USING ERRCODE = code, MESSAGE = message, DETAIL = detail, HINT = hint;
END
$$;
COMMENT ON FUNCTION visrec._raise(text, text, text, text) IS 'Raises an error; its detail and its hint may be NULL.';

CREATE FUNCTION visrec._sentence(message text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.upper(pg_catalog."left"(message, 1)) OPERATOR(pg_catalog.||) pg_catalog.substr(message, 2) OPERATOR(pg_catalog.||) '.';
COMMENT ON FUNCTION visrec._sentence(text) IS 'A message in the server''s style as a whole sentence.';

CREATE FUNCTION visrec._checked(answer jsonb, message text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    error jsonb := CASE WHEN answer ? 'missing' THEN visrec._missing_package() ELSE answer -> 'error' END;
    detail text;
BEGIN
    IF error IS NULL OR error = 'null' THEN
        RETURN answer;
    ELSIF error ->> 'sqlstate' = '57014' THEN       -- a cancel, or statement_timeout: in the server's own words
        RAISE query_canceled USING MESSAGE = error ->> 'message';
    ELSIF message IS NOT NULL THEN      -- the package's own is the detail
        detail := concat_ws(': ', 'Image "' || (error ->> 'image') || '"', error ->> 'message') || '.';
    ELSIF error ->> 'image' <> '' THEN
        message := format('could not embed image "%s"', error ->> 'image');
        detail := (error ->> 'message') || '.';
    END IF;
    PERFORM visrec._raise(error ->> 'sqlstate', coalesce(message, error ->> 'message'), upper(left(detail, 1)) || substr(detail, 2),
        error ->> 'hint');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION visrec._checked(jsonb, text) IS
    'Returns what the Python package answered, or raises the error that it reports: with its own message, or with the given '
    'message, or one that names the image, and its own as the detail.';

CREATE FUNCTION visrec._settings() RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN visrec._default_settings() || coalesce((SELECT jsonb_object_agg(v.name, v.value) FROM visrec.setting_value AS v), '{}');
END
$$;
COMMENT ON FUNCTION visrec._settings() IS 'The settings as a JSON object of texts: what visrec.setting shows.';

CREATE FUNCTION visrec._model_terms(model text, OUT directory text, OUT fingerprint text, OUT settings jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT m.directory, m.fingerprint INTO directory, fingerprint FROM visrec.model AS m WHERE m.name = model;
    settings := visrec._settings();
END
$$;
COMMENT ON FUNCTION visrec._model_terms(text) IS
    'What the Python package needs to run a model: its directory, its fingerprint (NULL: not registered), the settings.';

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('visrec.path_with_vector'), true);    -- see 00_header.sql
CREATE FUNCTION visrec.embed_image(path text, model text DEFAULT 'clip-ViT-B-32') RETURNS vector
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN visrec._checked(visrec._embed(model, path, NULL, NULL)) ->> 'embedding';
END
$$;
COMMENT ON FUNCTION visrec.embed_image(text, text) IS
    'The vector of an image file inside image_roots: L2-normalised, as many numbers as the model has.';
REVOKE ALL ON FUNCTION visrec.embed_image(text, text) FROM PUBLIC;

CREATE FUNCTION visrec.embed_image(image bytea, model text DEFAULT 'clip-ViT-B-32') RETURNS vector
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN visrec._checked(visrec._embed(model, NULL, image, NULL)) ->> 'embedding';
END
$$;
COMMENT ON FUNCTION visrec.embed_image(bytea, text) IS
    'The vector of an encoded image (JPEG, PNG …): L2-normalised, as many numbers as the model has.';
REVOKE ALL ON FUNCTION visrec.embed_image(bytea, text) FROM PUBLIC;

CREATE FUNCTION visrec.embed_text(query text, model text DEFAULT 'clip-ViT-B-32') RETURNS vector
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN visrec._checked(visrec._embed(model, NULL, NULL, query)) ->> 'embedding';
END
$$;
COMMENT ON FUNCTION visrec.embed_text(text, text) IS
    'The vector of a text, comparable with the model''s image vectors; an error for models without a text tower.';
REVOKE ALL ON FUNCTION visrec.embed_text(text, text) FROM PUBLIC;

SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

CREATE FUNCTION visrec._register_model(name text, directory text) RETURNS visrec.model
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    inspected jsonb;
    registered visrec.model;
BEGIN
    IF name IS NULL OR name = '' THEN
        RAISE null_value_not_allowed USING MESSAGE = 'the name of the model must not be empty';
    END IF;
    IF directory IS NULL THEN
        SELECT s.value || '/' || _register_model.name INTO directory
        FROM visrec.setting AS s WHERE s.name = 'model_directory';
    ELSIF directory !~ '^/' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('model directory "%s" is not an absolute path', directory);
    END IF;
    inspected := visrec._checked(visrec._inspect_model(name, directory), format('could not register model "%s"', name));
    INSERT INTO visrec.model AS m (name, directory, dimension, fingerprint)
    VALUES (name, directory, (inspected ->> 'dimension')::integer, inspected ->> 'fingerprint')
    ON CONFLICT ON CONSTRAINT model_pkey DO UPDATE SET directory = excluded.directory
        WHERE m.fingerprint = excluded.fingerprint
    RETURNING m.* INTO registered;
    IF registered IS NULL THEN
        RAISE duplicate_object USING
            MESSAGE = format('model "%s" is registered with other weights', name),
            DETAIL = 'Vectors of different models cannot be compared.',
            HINT = 'Register the new weights under another name.';
    END IF;
    IF registered.reference IS NULL THEN
        registered.reference := visrec._checked(visrec._embed(name, NULL, visrec._test_picture(), NULL)) ->> 'embedding';
        UPDATE visrec.model AS m SET reference = registered.reference WHERE m.name = registered.name;
    END IF;
    IF inspected ->> 'slow' IS NOT NULL THEN
        RAISE NOTICE USING
            MESSAGE = format('model "%s" runs through torch, several times slower than compiled', registered.name),
            DETAIL = visrec._sentence(inspected -> 'slow' ->> 0),
            HINT = inspected -> 'slow' ->> 1;
    END IF;
    RETURN registered;
END
$$;
COMMENT ON FUNCTION visrec._register_model(text, text) IS 'Registers a model that is not registered yet, and returns it.';
REVOKE ALL ON FUNCTION visrec._register_model(text, text) FROM PUBLIC;

CREATE FUNCTION visrec.register_model(INOUT name text, directory text DEFAULT NULL, OUT dimension integer,
    OUT fingerprint text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.name, m.dimension, m.fingerprint FROM visrec._register_model($1, $2) AS m
$$;
COMMENT ON FUNCTION visrec.register_model(text, text) IS
    'Registers the model in a directory of the server (default: its name in model_directory), so that tables can be '
    'attached with it. Loads it once to find its dimension. For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.register_model(text, text) FROM PUBLIC;

-- The encoder process ----------------------------------------------------------------------------

CREATE FUNCTION visrec.encoder_status(OUT pid integer, OUT model text, OUT fingerprint text, OUT runtime text,
    OUT "precision" text, OUT device text, OUT uptime interval, OUT images bigint, OUT mean_batch numeric,
    OUT waiting integer, OUT milliseconds numeric, OUT tried text, OUT compiling boolean, OUT slow text) RETURNS SETOF record
LANGUAGE sql ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
    SELECT (s ->> 'pid')::integer, m ->> 'model', m ->> 'fingerprint', m ->> 'runtime', m ->> 'precision',
           m ->> 'device', make_interval(secs => (s ->> 'uptime')::double precision), (s ->> 'images')::bigint,
           round((s ->> 'images')::numeric / nullif((s ->> 'batches')::numeric, 0), 1), (s ->> 'waiting')::integer,
           (m ->> 'milliseconds')::numeric, m ->> 'tried', (m ->> 'compiling')::boolean,
           (SELECT visrec._sentence(m -> 'slow' ->> 0) || ' ' || (m -> 'slow' ->> 1) WHERE m ->> 'slow' IS NOT NULL)
    FROM (SELECT CASE WHEN e ? 'missing' THEN NULL ELSE visrec._checked(e) END AS s FROM visrec._encoder_status() AS e) AS e
    LEFT JOIN LATERAL jsonb_array_elements(s -> 'models') AS m ON true
    WHERE s IS NOT NULL AND s <> 'null'
$$;
COMMENT ON FUNCTION visrec.encoder_status() IS
    'The encoder process of this cluster: a row for each loaded model, one row with NULLs before the first is loaded, '
    'none if it is not running. images, mean_batch (images in a forward pass) and waiting are of all models together. '
    'milliseconds: of a picture in batches, as measured when this way to run the model was chosen among those in tried; '
    'compiling: torch runs it until its compiled form is there; slow: why there will be none, and what to do.';
REVOKE ALL ON FUNCTION visrec.encoder_status() FROM PUBLIC;

CREATE FUNCTION visrec.encoder_restart() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN visrec._checked(visrec._encoder_stop()) -> 'stopped';
END
$$;
COMMENT ON FUNCTION visrec.encoder_restart() IS
    'Ends the encoder process; the next call that needs one starts it anew. False where none ran. '
    'Statements that wait for it are retried. For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.encoder_restart() FROM PUBLIC;

CREATE FUNCTION visrec.encoder_warm(model text DEFAULT 'clip-ViT-B-32') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF model IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'the model must not be null';
    END IF;
    PERFORM visrec._checked(visrec._encoder_warm(model), format('could not load model "%s"', model));
END
$$;
COMMENT ON FUNCTION visrec.encoder_warm(text) IS
    'Starts the encoder process if it is not running and loads a model, so that the next INSERT does not wait for that. '
    'For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.encoder_warm(text) FROM PUBLIC;
