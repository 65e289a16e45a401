-- visrec: visual recommendation for a table's images.
-- Assembled by make from the parts in sql/ and plpython/; edit those.

\echo Use "CREATE EXTENSION visrec CASCADE" to load this file. \quit

GRANT USAGE ON SCHEMA visrec TO PUBLIC;
COMMENT ON SCHEMA visrec IS 'visual recommendation: attach a table, and its images have vectors';
-- What visrec keeps: settings, models, failures, and rows waiting inside a statement.
-- Which tables are attached stands in their own triggers (see attach), and so in every dump.

-- Settings ---------------------------------------------------------------------------------

CREATE TABLE visrec.setting_value (
    name text PRIMARY KEY,
    value text NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('visrec.setting_value', '');
COMMENT ON TABLE visrec.setting_value IS 'Settings that an administrator changed; see visrec.setting.';
GRANT SELECT ON visrec.setting_value TO PUBLIC;

CREATE VIEW visrec.setting AS
SELECT d.name, coalesce(s.value, d.value) AS value, d.value AS default_value, d.description
FROM (VALUES
    ('image_roots', '/var/lib/visrec/images',
     'directories that image paths may lead into, ":" between them'),
    ('max_image_bytes', '67108864', 'an image of more bytes is not read'),
    ('max_image_pixels', '100000000', 'an image of more pixels is not decoded'),
    ('model_directory', '/var/lib/visrec/models', 'where register_model looks for a model by its name'),
    ('encoder', 'auto', 'where models run: shared (one process for the cluster), in_process (in each session), or '
     'auto: shared, and in_process with a warning where that cannot be started'),
    ('encoder_idle_seconds', '600', 'after so long without work the shared encoder ends')
) AS d (name, value, description)
LEFT JOIN visrec.setting_value AS s ON s.name = d.name;
COMMENT ON VIEW visrec.setting IS 'What an administrator decides; change a value with visrec.set.';
GRANT SELECT ON visrec.setting TO PUBLIC;

CREATE FUNCTION visrec.set(name text, value text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM visrec.setting AS s WHERE s.name = set.name) THEN
        RAISE undefined_object USING
            MESSAGE = format('there is no setting "%s"', name),
            HINT = 'Settings: ' || (SELECT string_agg(s.name, ', ' ORDER BY s.name) FROM visrec.setting AS s) || '.';
    END IF;
    IF value IS NULL THEN
        DELETE FROM visrec.setting_value AS s WHERE s.name = set.name;
        RETURN;
    END IF;
    IF (name LIKE 'max\_%' OR name = 'encoder_idle_seconds') AND value !~ '^[1-9][0-9]{0,17}$' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('invalid value for "%s": "%s"', name, value),
            HINT = 'It is a whole number greater than 0.';
    ELSIF name IN ('image_roots', 'model_directory')
        AND EXISTS (SELECT FROM string_to_table(value, ':') AS d WHERE d !~ '^/' OR d ~ '(^|/)\.\.(/|$)')
    THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('invalid value for "%s": "%s"', name, value),
            HINT = 'Directories are absolute paths without "..".';
    ELSIF name = 'encoder' AND value NOT IN ('auto', 'shared', 'in_process') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('invalid value for "encoder": "%s"', value),
            HINT = 'It is "auto", "shared" or "in_process".';
    END IF;
    INSERT INTO visrec.setting_value AS s VALUES (set.name, set.value)
    ON CONFLICT ON CONSTRAINT setting_value_pkey DO UPDATE SET value = excluded.value;
END
$$;
COMMENT ON FUNCTION visrec.set(text, text) IS
    'Change a setting (see visrec.setting); NULL brings back the default. For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.set(text, text) FROM PUBLIC;

-- Models -----------------------------------------------------------------------------------

CREATE TABLE visrec.model (
    name text PRIMARY KEY,
    directory text,
    dimension integer NOT NULL CHECK (dimension > 0),
    fingerprint text NOT NULL,
    reference vector,
    built_in boolean NOT NULL DEFAULT false
);
SELECT pg_catalog.pg_extension_config_dump('visrec.model', 'WHERE NOT built_in');
COMMENT ON TABLE visrec.model IS
    'Models that tables can be attached with: where each is on the server, how many numbers its vectors have, '
    'and the fingerprint of its weights. Add one with visrec.register_model.';
COMMENT ON COLUMN visrec.model.reference IS
    'the vector of the test picture when the model was registered; visrec.selftest compares with it';
GRANT SELECT ON visrec.model TO PUBLIC;

INSERT INTO visrec.model (name, directory, dimension, fingerprint, built_in)
VALUES ('pixels', NULL, 512, 'pixels-1', true);    -- its reference: see selftest

-- Failures ---------------------------------------------------------------------------------

CREATE FUNCTION visrec._owns(relation oid) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class AS c WHERE c.oid = relation
$$;
COMMENT ON FUNCTION visrec._owns(oid) IS 'Whether the current role has the rights of the table''s owner.';

CREATE TABLE visrec.failure (
    relation regclass NOT NULL,
    row_id text NOT NULL,
    image text,
    code text NOT NULL,
    message text NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    first_try timestamptz NOT NULL DEFAULT now(),
    last_try timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relation, row_id)
);
SELECT pg_catalog.pg_extension_config_dump('visrec.failure', '');
COMMENT ON TABLE visrec.failure IS
    'Rows whose image gave no vector, and why. A row leaves it when its image is embedded; '
    'visrec.retry tries all of a table''s again. Each role sees the failures of tables it may read.';
COMMENT ON COLUMN visrec.failure.row_id IS 'the row''s primary key as text';
COMMENT ON COLUMN visrec.failure.image IS 'the image''s path as the row has it; NULL for an image stored as bytea';
COMMENT ON COLUMN visrec.failure.code IS
    'missing, outside_roots, unreadable, too_large, bomb, truncated, not_an_image or encoder_unavailable';
ALTER TABLE visrec.failure ENABLE ROW LEVEL SECURITY;
CREATE POLICY readers ON visrec.failure FOR SELECT USING (has_table_privilege(relation, 'SELECT'));
CREATE POLICY owners ON visrec.failure USING (visrec._owns(relation)) WITH CHECK (visrec._owns(relation));
GRANT SELECT, INSERT, UPDATE, DELETE ON visrec.failure TO PUBLIC;

-- Rows whose image changed, from the change until the end of the statement that made it ------

CREATE TABLE visrec.queue (
    relation regclass NOT NULL,
    row_id text NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('visrec.queue', '');
COMMENT ON TABLE visrec.queue IS
    'Rows to embed: filled and emptied within each UPDATE of an image column, so empty to everyone else.';
ALTER TABLE visrec.queue ENABLE ROW LEVEL SECURITY;
CREATE POLICY owners ON visrec.queue USING (visrec._owns(relation)) WITH CHECK (visrec._owns(relation));
GRANT SELECT, INSERT, UPDATE, DELETE ON visrec.queue TO PUBLIC;
-- The way into the Python package: wrappers that bind, call and return. What they answer is JSON,
-- raised where need be by the PL/pgSQL functions that call them.

CREATE FUNCTION visrec._write_vectors(relation oid, config jsonb, ids text[]) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.write_vectors(plpy, relation, config, ids)
$python$;
COMMENT ON FUNCTION visrec._write_vectors(oid, jsonb, text[]) IS
    'Embeds those of the rows with these keys that have no vector, and accounts for each.';
REVOKE ALL ON FUNCTION visrec._write_vectors(oid, jsonb, text[]) FROM PUBLIC;

CREATE FUNCTION visrec._backfill_batch(relation oid, config jsonb, after text, batch_size integer,
    following integer) RETURNS jsonb LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.backfill_batch(plpy, relation, config, after, batch_size, following=following)
$python$;
COMMENT ON FUNCTION visrec._backfill_batch(oid, jsonb, text, integer, integer) IS
    'Embeds the next rows without a vector after a key, while the encoder goes on with those that follow.';
REVOKE ALL ON FUNCTION visrec._backfill_batch(oid, jsonb, text, integer, integer) FROM PUBLIC;

CREATE FUNCTION visrec._embed(model text, path text, image bytea, query text) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.embed(plpy, model, path, image, query)
$python$;
COMMENT ON FUNCTION visrec._embed(text, text, bytea, text) IS
    'One vector: for an image by its path, an image by its bytes, or a text; the other two are NULL.';
REVOKE ALL ON FUNCTION visrec._embed(text, text, bytea, text) FROM PUBLIC;

CREATE FUNCTION visrec._inspect_model(name text, directory text) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.inspect_model(plpy, name, directory)
$python$;
COMMENT ON FUNCTION visrec._inspect_model(text, text) IS
    'Loads the model in a directory: its dimension and the fingerprint of its weights.';
REVOKE ALL ON FUNCTION visrec._inspect_model(text, text) FROM PUBLIC;

CREATE FUNCTION visrec._encoder_status() RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.encoder_status(plpy)
$python$;
COMMENT ON FUNCTION visrec._encoder_status() IS 'What the encoder process says of itself; null where none runs.';
REVOKE ALL ON FUNCTION visrec._encoder_status() FROM PUBLIC;

CREATE FUNCTION visrec.encoder_restart() RETURNS boolean
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.encoder_stop(plpy)
$python$;
COMMENT ON FUNCTION visrec.encoder_restart() IS
    'End the encoder process; the next call that needs one starts it anew. False where none ran. '
    'Statements that wait for it are retried. For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.encoder_restart() FROM PUBLIC;

CREATE FUNCTION visrec._encoder_warm(model text) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.encoder_warm(plpy, model)
$python$;
COMMENT ON FUNCTION visrec._encoder_warm(text) IS 'Has the encoder process load a model.';
REVOKE ALL ON FUNCTION visrec._encoder_warm(text) FROM PUBLIC;
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
-- What is attached: read from the tables' own triggers. The trigger's one argument is the
-- attachment as JSON, so it follows the table through renames, dumps and DROP TABLE.

CREATE FUNCTION visrec._config(tgargs bytea) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN convert_from(substring(tgargs FROM 1 FOR octet_length(tgargs) - 1), getdatabaseencoding())::jsonb;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;    -- a trigger of somebody else's, by the same name
END
$$;
COMMENT ON FUNCTION visrec._config(bytea) IS 'The attachment in a trigger''s argument; NULL where it is none.';

CREATE VIEW visrec.attached AS
SELECT t.tgrelid::regclass AS relation, a.*
FROM pg_catalog.pg_trigger AS t,
     pg_catalog.jsonb_to_record(visrec._config(t.tgargs)) AS a (
         key_column name, image_column name, vector_column name, model text, fingerprint text,
         mode text, on_error text, show_columns name[], functions_schema name, functions_name name)
WHERE t.tgname = 'visrec_insert' AND NOT t.tgisinternal AND a.key_column IS NOT NULL;
COMMENT ON VIEW visrec.attached IS
    'The attached tables and what each was attached with. functions_name is the table''s name in the names of its '
    'functions; it differs from the table''s after a rename, until visrec.attach is called again.';
GRANT SELECT ON visrec.attached TO PUBLIC;

CREATE FUNCTION visrec._attachment(relation regclass) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb;
BEGIN
    SELECT visrec._config(t.tgargs) INTO config FROM pg_trigger AS t
    WHERE t.tgrelid = relation AND t.tgname = 'visrec_insert' AND NOT t.tgisinternal;
    IF config IS NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('table "%s" is not attached', relation),
            HINT = format('SELECT visrec.attach(%L);', relation);
    END IF;
    RETURN config;
END
$$;
COMMENT ON FUNCTION visrec._attachment(regclass) IS 'The attachment of a table, or an error that it has none.';

CREATE FUNCTION visrec._check_owner(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT visrec._owns(relation) THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('must be owner of table "%s"', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_owner(regclass) IS 'An error unless the current role has the owner''s rights.';

-- Names of what attach makes. A name that would be longer than PostgreSQL allows is cut.

CREATE FUNCTION visrec._function_name(prefix text, table_name text, suffix text DEFAULT '') RETURNS name
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (prefix || left(table_name::name::text, n) || suffix)::name
    FROM generate_series(63, 1, -1) AS n
    WHERE octet_length(prefix || left(table_name::name::text, n) || suffix) <= 63
    ORDER BY n DESC LIMIT 1
$$;
COMMENT ON FUNCTION visrec._function_name(text, text, text) IS 'The name of a table''s function or index.';

CREATE FUNCTION visrec._depends_on_extension(class regclass, object oid) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
        WHERE d.classid = class AND d.objid = object AND d.objsubid = 0
          AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x' AND e.extname = 'visrec')
$$;
COMMENT ON FUNCTION visrec._depends_on_extension(regclass, oid) IS
    'Whether attach made an object: what it makes goes with DROP EXTENSION visrec.';

CREATE FUNCTION visrec._made_functions(schema name, name name) RETURNS SETOF regprocedure
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.oid::regprocedure FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = schema AND p.proname = name
      AND visrec._depends_on_extension('pg_proc', p.oid)
$$;
COMMENT ON FUNCTION visrec._made_functions(name, name) IS 'The functions of this name that attach made.';

CREATE FUNCTION visrec._names(relation oid, config jsonb,
    OUT "table" text, OUT key text, OUT key_type text, OUT equals text, OUT greater text,
    OUT image text, OUT image_type text, OUT vector text, OUT vector_type text, OUT vector_schema text)
-- Every INSERT asks, so it is planned once a session, and in the order written: planning costs 4 ms, not running.
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET join_collapse_limit = 1 AS $$
BEGIN
    SELECT format('%I.%I', n.nspname, c.relname), quote_ident(k.attname), format_type(k.atttypid, NULL),
           format('OPERATOR(%I.%s)', eqn.nspname, eqo.oprname), format('OPERATOR(%I.%s)', gtn.nspname, gto.oprname),
           quote_ident(i.attname), format_type(i.atttypid, i.atttypmod),
           quote_ident(v.attname), format_type(v.atttypid, v.atttypmod), quote_ident(vn.nspname)
    INTO "table", key, key_type, equals, greater, image, image_type, vector, vector_type, vector_schema
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS k ON k.attrelid = c.oid AND k.attname = config ->> 'key_column' AND k.attnum > 0
    JOIN pg_attribute AS i ON i.attrelid = c.oid AND i.attname = config ->> 'image_column' AND i.attnum > 0
    JOIN pg_attribute AS v ON v.attrelid = c.oid AND v.attname = config ->> 'vector_column' AND v.attnum > 0
    JOIN pg_type AS vt ON vt.oid = v.atttypid
    JOIN pg_namespace AS vn ON vn.oid = vt.typnamespace
    JOIN pg_index AS x ON x.indrelid = c.oid AND x.indisprimary AND x.indkey[0] = k.attnum
    JOIN pg_opclass AS o ON o.oid = x.indclass[0]
    JOIN pg_amop AS eq ON eq.amopfamily = o.opcfamily AND eq.amopstrategy = 3
        AND eq.amoplefttype = o.opcintype AND eq.amoprighttype = o.opcintype
    JOIN pg_operator AS eqo ON eqo.oid = eq.amopopr
    JOIN pg_namespace AS eqn ON eqn.oid = eqo.oprnamespace
    JOIN pg_amop AS gt ON gt.amopfamily = o.opcfamily AND gt.amopstrategy = 5
        AND gt.amoplefttype = o.opcintype AND gt.amoprighttype = o.opcintype
    JOIN pg_operator AS gto ON gto.oid = gt.amopopr
    JOIN pg_namespace AS gtn ON gtn.oid = gto.oprnamespace
    WHERE c.oid = relation;
END
$$;
COMMENT ON FUNCTION visrec._names(oid, jsonb) IS
    'An attached table''s names, quoted for use in a statement. The key''s operators are those of its primary key''s '
    'index, so that every type of key compares as it does there.';
-- The search functions that attach writes for a table. Each runs as its caller, so that the
-- table's own rights and row-level security hold; none has PL/Python in it.

CREATE FUNCTION visrec._no_vector(relation regclass, row_id text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reason text;
BEGIN
    SELECT format('its image could not be embedded (%s: %s)', f.code, f.message) INTO reason
    FROM visrec.failure AS f WHERE f.relation = _no_vector.relation AND f.row_id = _no_vector.row_id;
    RAISE NOTICE USING
        MESSAGE = format('row %s of table "%s" has no vector', row_id, relation),
        DETAIL = coalesce(reason, 'it has no image, or its image is not embedded yet') || '.',
        HINT = format('SELECT * FROM visrec.coverage(%L);', relation);
END
$$;
COMMENT ON FUNCTION visrec._no_vector(regclass, text) IS 'A NOTICE why a row has no vector.';

CREATE FUNCTION visrec._check_k(k integer, filter jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF k IS NULL OR k < 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('k must be at least 1, not %s', coalesce(k::text, 'NULL'));
    END IF;
    IF filter IS NOT NULL THEN
        RAISE feature_not_supported USING
            MESSAGE = 'filters are not available in this version',
            HINT = 'Ask for more rows than needed and put the condition into a WHERE around the call.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_k(integer, jsonb) IS 'An error for arguments no search function takes.';

CREATE FUNCTION visrec._widen_search(k integer) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- HNSW finds at most ef_search rows in a go, and 1000 is the most that may be; from there on an
    -- exact scan is as quick, and complete.
    setting text := CASE WHEN k < 1000 THEN 'hnsw.ef_search' ELSE 'enable_indexscan' END;
    previous text := current_setting(setting, true);
BEGIN
    PERFORM set_config(setting, CASE WHEN k < 1000 THEN (k + 1)::text ELSE 'off' END, true);
    RETURN ARRAY[setting, previous];
END
$$;
COMMENT ON FUNCTION visrec._widen_search(integer) IS
    'Makes the next query find k rows; returns the setting changed and its value before, to be put back.';

CREATE FUNCTION visrec._make_similar(relation regclass, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
    shown text;         -- ', OUT title text'
    selected text;      -- ', t.title'
BEGIN
    SELECT * INTO names FROM visrec._names(relation, config);
    SELECT coalesce(string_agg(format(', OUT %I %s', a.attname, format_type(a.atttypid, a.atttypmod)), '' ORDER BY s.n), ''),
           coalesce(string_agg(format(', t.%I', a.attname), '' ORDER BY s.n), '')
    INTO shown, selected
    FROM jsonb_array_elements_text(config -> 'show_columns') WITH ORDINALITY AS s (name, n)
    JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = s.name AND a.attnum > 0;

    PERFORM visrec._make_function(relation, config, 'similar_',
        arguments => format('%s, integer, jsonb', names.key_type),
        declaration => format(
            'INOUT id %s, k integer DEFAULT 10, filter jsonb DEFAULT NULL, '
            'OUT similarity double precision, OUT %s %s%s) RETURNS SETOF record '
            'LANGUAGE plpgsql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp '
            'SET plan_cache_mode = force_custom_plan SET hnsw.iterative_scan = strict_order',
            names.key_type, names.image, names.image_type, shown),
        comment => format('The k rows of %s that look most like the row with this key, best first.', relation),
        body => format($body$
#variable_conflict use_column
DECLARE
    query_vector %7$s;
    previous text[];
BEGIN
    IF k IS NULL OR k < 1 OR filter IS NOT NULL THEN
        PERFORM visrec._check_k(k, filter);
    END IF;
    SELECT t.%6$s INTO query_vector FROM %1$s AS t WHERE t.%2$s %3$s $1;
    IF NOT FOUND THEN
        RAISE no_data_found USING
            MESSAGE = format('table "%%s" has no row with the key %%s', %8$L, coalesce($1::text, 'NULL'));
    ELSIF query_vector IS NULL THEN
        PERFORM visrec._no_vector(%1$L, $1::text);
        RETURN;
    END IF;
    IF k >= coalesce(current_setting('hnsw.ef_search', true)::integer, 40) THEN
        previous := visrec._widen_search(k);
    END IF;
    RETURN QUERY
        SELECT t.%2$s, 1 - (t.%6$s OPERATOR(%5$s.<=>) query_vector), t.%4$s%9$s
        FROM %1$s AS t
        WHERE t.%6$s IS NOT NULL AND NOT t.%2$s %3$s $1
        ORDER BY t.%6$s OPERATOR(%5$s.<=>) query_vector
        LIMIT k;
    IF previous IS NOT NULL THEN
        PERFORM set_config(previous[1], previous[2], true);
    END IF;
END
$body$, names."table", names.key, names.equals, names.image, names.vector_schema, names.vector,
            names.vector_type, relation, selected));
END
$$;
COMMENT ON FUNCTION visrec._make_similar(regclass, jsonb) IS 'Writes similar_<table>.';
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
-- Backfill, retry, coverage: which rows have a vector, and how the others get one.

CREATE PROCEDURE visrec.backfill(relation regclass, batch_size integer DEFAULT 64, max_rows bigint DEFAULT NULL)
LANGUAGE plpgsql AS $$
-- It commits, so it can have no SET clause: the search path is set anew in each transaction.
DECLARE
    config jsonb;
    total bigint;
    wanted bigint;
    after text;
    outcome jsonb;
    embedded bigint := 0;
    failed bigint := 0;
    started timestamptz := pg_catalog.clock_timestamp();
    told timestamptz := started;
    seconds double precision;
BEGIN
    IF pg_catalog.transaction_timestamp() OPERATOR(pg_catalog.<>) pg_catalog.statement_timestamp() THEN
        RAISE invalid_transaction_termination USING
            MESSAGE = 'backfill commits batch by batch and cannot run inside a transaction block',
            HINT = 'CALL it without BEGIN, with autocommit on.';
    END IF;
    COMMIT;     -- fails here, before any work, where it may not commit
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    config := visrec._attachment(relation);
    PERFORM visrec._check_owner(relation);
    IF batch_size IS NULL OR batch_size < 1 OR max_rows < 0 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('cannot backfill %s rows in batches of %s', coalesce(max_rows::text, 'all'), batch_size);
    END IF;
    EXECUTE format('SELECT count(*) FROM %s WHERE %I IS NULL AND %I IS NOT NULL',
        relation, config ->> 'vector_column', config ->> 'image_column') INTO total;
    total := least(total, max_rows);
    PERFORM visrec._drain_queue(relation);    -- of direct updates of partitions; they are pending
    WHILE max_rows IS NULL OR embedded + failed < max_rows LOOP
        wanted := coalesce(max_rows - embedded - failed, 2 * batch_size::bigint);
        outcome := visrec._backfill_batch(relation, config, after, least(batch_size, wanted)::integer,
            least(batch_size, greatest(wanted - batch_size, 0))::integer);
        IF outcome ->> 'error' IS NOT NULL THEN
            PERFORM visrec._raise(outcome -> 'error', format('could not backfill table "%s"', relation));
        END IF;
        after := outcome ->> 'last';
        EXIT WHEN after IS NULL;
        embedded := embedded + (outcome ->> 'embedded')::bigint;
        failed := failed + (outcome ->> 'failed')::bigint;
        COMMIT;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        IF clock_timestamp() - told > interval '5 seconds' THEN
            told := clock_timestamp();
            seconds := extract(epoch FROM told - started);
            RAISE NOTICE '%: % of % rows, % rows/s, % left', relation, embedded + failed, total,
                round(((embedded + failed) / seconds)::numeric, 1),
                make_interval(secs => round(seconds * greatest(total - embedded - failed, 0) / (embedded + failed)));
        END IF;
    END LOOP;
    seconds := extract(epoch FROM clock_timestamp() - started);
    RAISE NOTICE '%: % rows embedded, % failed, in % s (% rows/s)', relation, embedded, failed,
        round(seconds::numeric, 1), round(((embedded + failed) / seconds)::numeric, 1);
    IF failed > 0 THEN
        RAISE WARNING USING
            MESSAGE = format('%s of %s images could not be embedded', failed, embedded + failed),
            HINT = format('SELECT * FROM visrec.failure WHERE relation = %L::regclass', relation);
    END IF;
END
$$;
COMMENT ON PROCEDURE visrec.backfill(regclass, integer, bigint) IS
    'Embed the rows that have an image and no vector, batch by batch, each committed: it can be interrupted, called '
    'again, and run in several sessions at once. Rows that failed before are tried again.';
REVOKE ALL ON PROCEDURE visrec.backfill(regclass, integer, bigint) FROM PUBLIC;

CREATE FUNCTION visrec.retry(relation regclass) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    ids text[];
BEGIN
    PERFORM visrec._check_owner(relation);
    SELECT coalesce(array_agg(f.row_id), '{}') INTO ids FROM visrec.failure AS f WHERE f.relation = retry.relation;
    PERFORM visrec._embed_rows(relation, jsonb_set(config, '{on_error}', '"record"'), ids);
    RETURN cardinality(ids) - (SELECT count(*) FROM visrec.failure AS f WHERE f.relation = retry.relation);
END
$$;
COMMENT ON FUNCTION visrec.retry(regclass) IS 'Try the rows in visrec.failure again; how many left it.';
REVOKE ALL ON FUNCTION visrec.retry(regclass) FROM PUBLIC;

CREATE FUNCTION visrec.coverage(relation regclass, OUT state text, OUT rows bigint) RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config jsonb := visrec._attachment(relation);
    names record;
    stale boolean;
BEGIN
    SELECT * INTO names FROM visrec._names(relation, config);
    SELECT m.fingerprint IS DISTINCT FROM config ->> 'fingerprint' INTO stale
    FROM visrec.model AS m WHERE m.name = config ->> 'model';
    RETURN QUERY EXECUTE format($query$
        SELECT s.state, count(r.state)
        FROM (VALUES (1, 'embedded'), (2, 'pending'), (3, 'failed'), (4, 'no_image'), (5, 'stale')) AS s (place, state)
        LEFT JOIN (
            SELECT CASE
                WHEN t.%2$s IS NOT NULL THEN CASE WHEN $2 THEN 'stale' ELSE 'embedded' END
                WHEN t.%3$s IS NULL THEN 'no_image'
                WHEN f.row_id IS NOT NULL THEN 'failed'
                ELSE 'pending' END AS state
            FROM %1$s AS t
            LEFT JOIN visrec.failure AS f ON f.relation = $1 AND f.row_id = t.%4$s::text
        ) AS r ON r.state = s.state
        GROUP BY s.place, s.state ORDER BY s.place
        $query$, names."table", names.vector, names.image, names.key)
    USING relation, stale;
END
$$;
COMMENT ON FUNCTION visrec.coverage(regclass) IS
    'How many rows of an attached table are embedded, pending, failed, without an image, or stale (embedded by other '
    'weights than the model''s); each row is in exactly one state.';
-- selftest: does this installation give the vectors it should?

CREATE FUNCTION visrec._test_picture() RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT convert_to(E'P6\n32 24\n255\n', 'SQL_ASCII') || decode(string_agg(
        lpad(to_hex(x * 8 % 256), 2, '0') || lpad(to_hex(y * 10 % 256), 2, '0') || lpad(to_hex(x * y % 256), 2, '0'),
        '' ORDER BY y, x), 'hex')
    FROM generate_series(0, 31) AS x, generate_series(0, 23) AS y
$$;
COMMENT ON FUNCTION visrec._test_picture() IS 'A picture of 32 × 24 pixels (PPM) with colour, layout and edges.';

CREATE FUNCTION visrec._cosine(a text, b text) RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT sum(x * y) / nullif(sqrt(sum(x * x) * sum(y * y)), 0)
    FROM unnest(string_to_array(btrim(a, '[]'), ',')::double precision[],
                string_to_array(btrim(b, '[]'), ',')::double precision[]) AS v (x, y)
$$;
COMMENT ON FUNCTION visrec._cosine(text, text) IS 'The cosine of two vectors in text form; NULL where their lengths differ.';

UPDATE visrec.model SET reference =
'[-0.01794,-0.01364,-0.01274,-0.01502,-0.0238,-0.02371,-0.021,-0.01862,-0.05801,-0.03137,-0.01777,
    -0.01744,-0.0689,-0.06581,-0.0473,-0.01166,-0.01011,-0.004233,-0.04536,-0.04991,-0.04847,0.0133,
    0.02613,0.03327,-0.04586,-0.01544,0.03555,0.01947,0.01272,0.02025,0.08397,0.09711,-0.02255,-0.02231,
    -0.01676,-0.0128,-0.0238,-0.02371,-0.021,-0.01477,-0.05599,-0.03478,-0.01865,-0.004984,-0.07065,
    -0.08956,-0.05756,-0.006087,-0.0233,-0.0432,-0.06902,-0.04194,-0.05888,-0.03243,-0.008052,-0.01937,
    -0.06647,-0.07178,0.01267,0.05991,-0.02583,-0.05443,0.001031,0.05846,-0.01863,-0.01768,-0.01351,
    -0.0102,-0.0238,-0.02371,-0.021,-0.01485,-0.05069,-0.03119,-0.01944,-0.01031,-0.06422,-0.08495,
    -0.06173,-0.01657,-0.02276,-0.03828,-0.0761,-0.05313,-0.05636,-0.03201,-0.02367,0.007131,-0.05886,
    -0.06676,0.01162,0.1353,-0.02242,-0.05259,0.0001111,0.05659,0.01824,0.01881,0.02063,0.01802,0.002123,
    0.001424,0.001778,0.004053,-0.01596,-0.02094,-0.01685,-0.008334,-0.02716,-0.05806,-0.0472,-0.01852,
    -0.02043,-0.03603,-0.07042,-0.05066,-0.04081,-0.02467,-0.0298,-0.06354,-0.04883,-0.05978,-0.02514,
    -0.02709,-0.02392,-0.05773,-0.05613,-0.0199,0.04503,0.03525,0.02921,0.02403,0.06692,0.05375,0.04214,
    0.03519,0.1118,0.04562,0.01724,0.00306,0.1119,0.07763,0.03538,0.0005183,-0.0002047,0.01283,0.03395,
    -0.003485,0.03255,-0.002107,-0.02932,-0.01252,0.03633,-0.008075,-0.04911,-0.09422,-0.01784,-0.06057,
    -0.08773,-0.06935,-0.001646,-0.01439,-0.008714,0.00892,0.005889,-0.001166,0.001061,0.006692,0.03035,
    0.02991,0.02441,0.01491,0.04857,0.06539,0.05734,0.0107,0.04636,0.03839,0.05284,0.005918,0.06875,
    0.01459,-0.01743,-0.02582,0.06786,0.02135,-0.03603,-0.07451,-0.002369,-0.01523,-0.05048,-0.06945,
    0.005069,0.01547,0.01138,-0.00257,0.01312,0.02547,0.02163,0.005685,0.02016,0.02416,0.01705,0.009919,
    0.03311,0.09826,0.07694,0.01799,0.02326,0.04827,0.1185,0.1272,0.05409,0.04447,0.05348,0.06719,
    0.06109,0.1231,0.02451,-0.00605,0.0473,0.1366,0.06341,-0.0574,-0.007573,-0.001507,-0.009492,-0.01038,
    -0.01666,-0.008347,-0.003603,-0.003371,0.01833,0.01859,0.01401,0.01317,0.03738,0.0571,0.04413,
    0.02362,0.007186,0.02226,0.05563,0.06602,0.04914,0.01886,0.02867,0.01366,0.05474,0.07734,0.02593,
    -0.01282,0.03237,0.08372,0.04583,0.003947,-0.03062,-0.02876,-0.05404,-0.03593,-0.006051,-0.0198,
    0.01636,0.03454,-0.03852,-0.02598,-0.0687,-0.02814,-0.05716,-0.03095,-0.06031,0.03481,-0.03261,
    -0.02056,-0.06198,-0.03212,-0.05269,0.02634,-0.06256,0.06998,0.01158,0.01256,-0.0522,-0.04177,
    -0.05797,-0.05325,-0.07193,-0.07178,0.08124,0.05094,0.06527,-0.006289,-0.005488,-0.07093,-0.03468,
    -0.0877,-0.001641,0.003917,0.08167,0.0474,0.06772,0.01188,0.02338,-0.0723,0.02448,0.01575,0.1237,
    0.09307,0.1165,0.1387,0.1492,0.06749,-0.01392,-0.007869,-0.03371,0.00378,-0.004868,-0.001994,0.04057,
    0.02495,-0.04406,-0.04589,-0.04601,-0.04581,-0.03336,-0.03606,-0.03762,-0.03821,-0.0186,-0.02146,
    -0.02385,-0.02502,-0.0069,-0.008289,-0.00837,-0.009002,0.007613,0.004838,0.004375,0.006903,0.02336,
    0.02099,0.01945,0.02021,0.037,0.03651,0.03601,0.03392,0.05049,0.04934,0.05019,0.0473,0.05732,0.0638,
    0.06899,0.07082,0.04381,0.04929,0.05557,0.05888,0.03078,0.03467,0.03986,0.04318,0.003954,0.009907,
    0.02347,0.02967,-0.01544,-0.01891,-0.01037,0.01204,-0.03087,-0.03451,-0.0342,-0.02522,-0.05916,
    -0.05344,-0.04764,-0.06307,-0.07635,-0.07708,-0.06268,-0.08705,0.01761,0.01694,0.01855,0.01972,
    -0.007988,-0.01136,-0.01432,-0.01576,-0.02413,-0.0384,-0.04531,-0.04813,0.03093,-0.009003,-0.05742,
    -0.07221,0.02921,0.02524,-0.008265,-0.07283,0.01942,0.007005,0.001759,-0.01998,0.06841,0.01666,
    -0.01465,0.0288,0.07135,0.05098,-0.01135,0.0485,0,0.0004844,0.003827,0.0007511,0,0.02446,0.03872,
    0.001744,0,0.0295,0.04721,0.002663,0,0.004,0.01324,0.002261,0,0.001186,0.02459,0.01388,0,0.02921,
    0.07405,0.0191,0,0.04639,0.08205,0.01665,0,0.01915,0.05371,0.02686,0,0.007815,0.04778,0.04093,
    0.005266,0.04895,0.07365,0.03099,0.02551,0.07822,0.05363,0.01963,0.02867,0.07096,0.08026,0.05979,
    0.0004087,0.02127,0.0602,0.07574,0.0205,0.06541,0.06649,0.05837,0.04779,0.06632,0.06014,0.05683,
    0.05437,0.07317,0.0557,0.05218,0.001091,0.02952,0.05941,0.08642,0.01353,0.05747,0.06927,0.0712,
    0.01228,0.0478,0.05018,0.0435,0.006157,0.02298,0.02084,0.007704,0,0.007239,0.012,0.01404,0,0.01569,
    0.02365,0.02801,0,0.006307,0.01456,0.01307,0,0,0,0]'
WHERE name = 'pixels';

CREATE FUNCTION visrec.selftest(OUT "check" text, OUT ok boolean, OUT result text, OUT advice text) RETURNS SETOF record
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    root text;
    model visrec.model;
    answer jsonb;
    cosine double precision;
BEGIN
    FOR root IN SELECT string_to_table(s.value, ':') FROM visrec.setting AS s WHERE s.name = 'image_roots' LOOP
        "check" := format('image root %s', root);
        ok := coalesce((pg_stat_file(root, true)).isdir, false);
        result := CASE WHEN ok THEN 'a directory' ELSE 'no such directory' END;
        advice := CASE WHEN NOT ok THEN 'Make it, or SELECT visrec.set(''image_roots'', …).' END;
        RETURN NEXT;
    END LOOP;
    FOR model IN SELECT m.* FROM visrec.model AS m ORDER BY m.name LOOP
        "check" := format('model %s', model.name);
        answer := visrec._embed(model.name, NULL, visrec._test_picture(), NULL);
        cosine := visrec._cosine(answer ->> 'embedding', model.reference::text);
        ok := coalesce(cosine >= 0.999, false);
        result := coalesce(answer -> 'error' ->> 'message', 'cosine with its reference ' || round(cosine::numeric, 5),
            'vectors of another length than when it was registered');
        advice := CASE WHEN NOT ok THEN coalesce(answer -> 'error' ->> 'hint',
            'Its weights or the libraries are not those it was registered with: see CHANGELOG.md, or reinstall.') END;
        RETURN NEXT;
    END LOOP;
    "check" := 'encoder';
    ok := true;
    SELECT string_agg(format('%s: %s %s on %s', e.model, e.runtime, e.precision, e.device), ', ' ORDER BY e.model)
    INTO result FROM visrec.encoder_status() AS e;
    advice := NULL;
    IF result IS NULL THEN
        ok := EXISTS (SELECT FROM visrec.setting AS s WHERE s.name = 'encoder' AND s.value = 'in_process');
        result := 'in this session';
        advice := CASE WHEN NOT ok THEN 'The shared encoder does not start: see pg_stat_tmp/visrec.log in the data directory.' END;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION visrec.selftest() IS
    'One row for each check: the image roots, each registered model (its vector of a test picture against the one it '
    'gave when it was registered), and what runs the models; with what to do where one fails. For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.selftest() FROM PUBLIC;
-- Who may do what. PUBLIC may read settings and models, and search attached tables with the rights
-- it has on them. A role that attaches tables or embeds images of its own needs one grant.

CREATE FUNCTION visrec._granted_functions() RETURNS SETOF regprocedure
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT unnest(ARRAY[
        'visrec.attach(regclass, name, name, text, text, text, name[])',
        'visrec.backfill(regclass, integer, bigint)',
        'visrec.retry(regclass)',
        'visrec.embed_image(text, text)',
        'visrec.embed_image(bytea, text)',
        'visrec.embed_text(text, text)',
        'visrec._use_model(text)',
        'visrec._embed(text, text, bytea, text)',
        'visrec._embed_rows(oid, jsonb, text[])',
        'visrec._embed_queued(oid, jsonb)',
        'visrec._write_vectors(oid, jsonb, text[])',
        'visrec._backfill_batch(oid, jsonb, text, integer, integer)'
    ]::regprocedure[])
$$;
COMMENT ON FUNCTION visrec._granted_functions() IS 'What visrec.grant_access grants.';

CREATE FUNCTION visrec.grant_access(role regrole) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN SELECT visrec._granted_functions() LOOP
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s', function, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec.grant_access(regrole) IS
    'Let a role attach its tables and embed images and texts: it can then read, as vectors, any image inside '
    'image_roots. Roles that only use attached tables need no grant. For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.grant_access(regrole) FROM PUBLIC;

CREATE FUNCTION visrec.revoke_access(role regrole) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN SELECT visrec._granted_functions() LOOP
        EXECUTE format('REVOKE EXECUTE ON ROUTINE %s FROM %s', function, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec.revoke_access(regrole) IS
    'Take back what visrec.grant_access gave. Rows of tables the role owns are then no longer embedded.';
REVOKE ALL ON FUNCTION visrec.revoke_access(regrole) FROM PUBLIC;

CREATE FUNCTION visrec._check_access(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner regrole := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = relation);
BEGIN
    IF has_function_privilege(owner, 'visrec._write_vectors(oid, jsonb, text[])', 'EXECUTE') THEN
        RETURN;
    ELSIF has_function_privilege('visrec.grant_access(regrole)', 'EXECUTE') THEN
        PERFORM visrec.grant_access(owner);
        RAISE NOTICE USING
            MESSAGE = format('role %s, which owns table "%s", may now embed images', owner, relation),
            DETAIL = 'Its rows are embedded with its rights.';
    ELSE
        RAISE insufficient_privilege USING
            MESSAGE = format('role %s, which owns table "%s", may not embed images', owner, relation),
            HINT = format('An administrator can allow it: SELECT visrec.grant_access(%L);', owner);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_access(regclass) IS
    'Makes sure that a table''s owner, as whom its rows are embedded, may do that.';
