-- Embedding: what people call, and how an outcome becomes an error or a warning.

CREATE FUNCTION visrec._detail(failure jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT concat_ws(': ', 'image "' || (failure ->> 'image') || '"', failure ->> 'message') || '.'
$$;
COMMENT ON FUNCTION visrec._detail(jsonb) IS 'The DETAIL of a failure that the Python package reported.';

CREATE FUNCTION visrec._raise(failure jsonb, message text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF failure ->> 'hint' IS NULL THEN
        RAISE USING ERRCODE = failure ->> 'sqlstate', MESSAGE = message, DETAIL = visrec._detail(failure);
    END IF;
    RAISE USING ERRCODE = failure ->> 'sqlstate', MESSAGE = message, DETAIL = visrec._detail(failure),
        HINT = failure ->> 'hint';
END
$$;
COMMENT ON FUNCTION visrec._raise(jsonb, text) IS 'Raises what the Python package reported.';

CREATE FUNCTION visrec._embedding(what text, answer jsonb) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF answer ? 'error' THEN
        PERFORM visrec._raise(answer -> 'error', 'could not embed the ' || what);
    END IF;
    RETURN answer ->> 'embedding';
END
$$;
COMMENT ON FUNCTION visrec._embedding(text, jsonb) IS 'The vector in an answer of visrec._embed, or its error.';

CREATE FUNCTION visrec.embed_image(path text, model text DEFAULT 'clip-ViT-B-32') RETURNS vector
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN visrec._embedding('image', visrec._embed(model, path, NULL, NULL));
END
$$;
COMMENT ON FUNCTION visrec.embed_image(text, text) IS
    'The vector of an image file inside image_roots: L2-normalised, as many numbers as the model has.';
REVOKE ALL ON FUNCTION visrec.embed_image(text, text) FROM PUBLIC;

CREATE FUNCTION visrec.embed_image(image bytea, model text DEFAULT 'clip-ViT-B-32') RETURNS vector
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN visrec._embedding('image', visrec._embed(model, NULL, image, NULL));
END
$$;
COMMENT ON FUNCTION visrec.embed_image(bytea, text) IS
    'The vector of an encoded image (JPEG, PNG …): L2-normalised, as many numbers as the model has.';
REVOKE ALL ON FUNCTION visrec.embed_image(bytea, text) FROM PUBLIC;

CREATE FUNCTION visrec.embed_text(query text, model text DEFAULT 'clip-ViT-B-32') RETURNS vector
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN visrec._embedding('text', visrec._embed(model, NULL, NULL, query));
END
$$;
COMMENT ON FUNCTION visrec.embed_text(text, text) IS
    'The vector of a text, comparable with the model''s image vectors; an error for models without a text tower.';
REVOKE ALL ON FUNCTION visrec.embed_text(text, text) FROM PUBLIC;

CREATE FUNCTION visrec._register_model(name text, directory text) RETURNS visrec.model
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    inspected jsonb;
    registered visrec.model;
BEGIN
    IF name IS NULL OR name = '' THEN
        RAISE null_value_not_allowed USING MESSAGE = 'a model needs a name';
    END IF;
    IF directory IS NULL THEN
        SELECT s.value || '/' || _register_model.name INTO directory
        FROM visrec.setting AS s WHERE s.name = 'model_directory';
    ELSIF directory !~ '^/' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('the model directory "%s" is not an absolute path', directory);
    END IF;
    inspected := visrec._inspect_model(name, directory);
    IF inspected ? 'error' THEN
        PERFORM visrec._raise(inspected -> 'error', format('could not register model "%s"', name));
    END IF;
    INSERT INTO visrec.model AS m (name, directory, dimension, fingerprint)
    VALUES (name, directory, (inspected ->> 'dimension')::integer, inspected ->> 'fingerprint')
    ON CONFLICT ON CONSTRAINT model_pkey DO UPDATE SET directory = excluded.directory
        WHERE m.fingerprint = excluded.fingerprint
    RETURNING m.* INTO registered;
    IF registered IS NULL THEN
        RAISE duplicate_object USING
            MESSAGE = format('model "%s" is registered with other weights', name),
            DETAIL = 'Vectors of two models cannot be compared.',
            HINT = 'Register the new weights under another name.';
    END IF;
    IF registered.reference IS NULL THEN
        registered.reference := visrec._embedding('image', visrec._embed(name, NULL, visrec._test_picture(), NULL));
        UPDATE visrec.model AS m SET reference = registered.reference WHERE m.name = registered.name;
    END IF;
    RETURN registered;
END
$$;
COMMENT ON FUNCTION visrec._register_model(text, text) IS 'The registered model, after registering it.';
REVOKE ALL ON FUNCTION visrec._register_model(text, text) FROM PUBLIC;

CREATE FUNCTION visrec.register_model(INOUT name text, directory text DEFAULT NULL, OUT dimension integer,
    OUT fingerprint text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.name, m.dimension, m.fingerprint FROM visrec._register_model($1, $2) AS m
$$;
COMMENT ON FUNCTION visrec.register_model(text, text) IS
    'Make the model in a directory of the server (default: its name in model_directory) one that tables can be '
    'attached with. Loads it once to find its dimension. For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.register_model(text, text) FROM PUBLIC;

-- The encoder process

CREATE FUNCTION visrec.encoder_status(OUT pid integer, OUT model text, OUT fingerprint text, OUT runtime text,
    OUT "precision" text, OUT device text, OUT uptime interval, OUT images bigint, OUT mean_batch numeric,
    OUT waiting integer) RETURNS SETOF record
LANGUAGE sql ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
    SELECT (s ->> 'pid')::integer, m ->> 'model', m ->> 'fingerprint', m ->> 'runtime', m ->> 'precision',
           m ->> 'device', make_interval(secs => (s ->> 'uptime')::double precision), (s ->> 'images')::bigint,
           round((s ->> 'images')::numeric / nullif((s ->> 'batches')::numeric, 0), 1), (s ->> 'waiting')::integer
    FROM visrec._encoder_status() AS s LEFT JOIN LATERAL jsonb_array_elements(s -> 'models') AS m ON true
    WHERE s IS NOT NULL AND s <> 'null'
$$;
COMMENT ON FUNCTION visrec.encoder_status() IS
    'The encoder process of this cluster: a row for each model it has loaded, one row with NULLs before the first, '
    'none where it does not run. images, mean_batch (images in a forward pass) and waiting are of all models together.';
REVOKE ALL ON FUNCTION visrec.encoder_status() FROM PUBLIC;

CREATE FUNCTION visrec.encoder_warm(model text DEFAULT 'clip-ViT-B-32') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer jsonb := visrec._encoder_warm(model);
BEGIN
    IF answer ? 'error' THEN
        PERFORM visrec._raise(answer -> 'error', format('could not load model "%s"', model));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec.encoder_warm(text) IS
    'Start the encoder process, if need be, and have it load a model: the next INSERT does not wait for that. '
    'For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.encoder_warm(text) FROM PUBLIC;

-- Rows of attached tables. These run as the table's owner, inside the table's trigger function.

CREATE FUNCTION visrec._warn_hidden(relation regclass, rows bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE WARNING USING
        MESSAGE = format('rows without a vector, since row-level security hides them from the owner of table "%s": %s',
            relation, rows),
        HINT = 'A policy must let the owner see and update them (FORCE ROW LEVEL SECURITY binds it, too); then backfill.';
END
$$;
COMMENT ON FUNCTION visrec._warn_hidden(regclass, bigint) IS 'A WARNING that rows are pending which the owner cannot see.';

CREATE FUNCTION visrec._embed_rows(relation oid, config jsonb, ids text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    outcome jsonb;
    failure jsonb;
    rows integer := cardinality(ids);
BEGIN
    IF rows = 0 THEN
        RETURN;
    END IF;
    outcome := visrec._write_vectors(relation, config, ids);
    IF (outcome ->> 'seen')::integer < rows AND row_security_active(relation) THEN
        PERFORM visrec._warn_hidden(relation, rows - (outcome ->> 'seen')::integer);
    END IF;
    IF (outcome ->> 'failed')::integer = 0 THEN
        RETURN;
    END IF;
    failure := outcome -> 'first_failure';
    IF config ->> 'on_error' = 'raise' THEN
        PERFORM visrec._raise(failure, format('could not embed the image of row %s of table "%s"',
            failure ->> 'id', relation::regclass));
    END IF;
    RAISE WARNING USING
        ERRCODE = failure ->> 'sqlstate',
        MESSAGE = format('%s of %s images could not be embedded; the rows are kept without a vector',
            outcome ->> 'failed', rows),
        DETAIL = format('The first is of row %s: ', failure ->> 'id') || visrec._detail(failure),
        HINT = format('SELECT * FROM visrec.failure WHERE relation = %L::regclass', relation::regclass);
END
$$;
COMMENT ON FUNCTION visrec._embed_rows(oid, jsonb, text[]) IS
    'Embeds rows by key; failures become one WARNING, or an error where the table''s on_error is raise.';
REVOKE ALL ON FUNCTION visrec._embed_rows(oid, jsonb, text[]) FROM PUBLIC;

CREATE FUNCTION visrec._drain_queue(relation oid) RETURNS text[]
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH drained AS (
        DELETE FROM visrec.queue AS q
        WHERE q.relation = $1 OR q.relation IN (SELECT p.relid FROM pg_partition_tree($1) AS p)
        RETURNING q.row_id
    )
    SELECT coalesce(array_agg(DISTINCT d.row_id), '{}') FROM drained AS d
$$;
COMMENT ON FUNCTION visrec._drain_queue(oid) IS 'Takes a table''s keys, and its partitions'', out of visrec.queue.';

CREATE FUNCTION visrec._embed_queued(relation oid, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM visrec._embed_rows(relation, config, visrec._drain_queue(relation));
END
$$;
COMMENT ON FUNCTION visrec._embed_queued(oid, jsonb) IS 'Embeds the rows whose image the statement changed.';
REVOKE ALL ON FUNCTION visrec._embed_queued(oid, jsonb) FROM PUBLIC;
