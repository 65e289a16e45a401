-- What visrec keeps: settings, models, attachments and failures. All of it is in dumps; the database's owner, who need
-- not be a superuser, may dump it.

-- Settings ---------------------------------------------------------------------------------

CREATE TABLE visrec.setting_value (
    name text PRIMARY KEY,
    value text NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('visrec.setting_value', '');
COMMENT ON TABLE visrec.setting_value IS 'Settings that differ from their defaults; see visrec.setting.';
GRANT SELECT ON visrec.setting_value TO PUBLIC;

CREATE FUNCTION visrec._default_settings() RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '{"image_roots": "/var/lib/visrec/images", "max_image_bytes": "67108864", "max_image_pixels": "100000000",
    "max_image_seconds": "20", "model_directory": "/var/lib/visrec/models", "encoder": "auto", "encoder_idle_seconds": "600"}'::jsonb;
COMMENT ON FUNCTION visrec._default_settings() IS 'The settings as they are until an administrator changes them.';

CREATE VIEW visrec.setting AS
SELECT d.name, coalesce(s.value, visrec._default_settings() ->> d.name) AS value,
       visrec._default_settings() ->> d.name AS default_value, d.description
FROM (VALUES
    ('image_roots', 'directories that image paths may lead into, ":" between them'),
    ('max_image_bytes', 'an image of more bytes is not read'),
    ('max_image_pixels', 'an image of more pixels is not decoded'),
    ('max_image_seconds', 'an image that takes more seconds to decode is given up'),
    ('model_directory', 'where register_model looks for a model by its name'),
    ('encoder', 'where models run: shared (one process for the cluster), in_process (in each session), or '
     'auto: shared, and in_process with a warning where that cannot be started'),
    ('encoder_idle_seconds', 'the shared encoder ends after so many seconds without work')
) AS d (name, description)
LEFT JOIN visrec.setting_value AS s ON s.name = d.name;
COMMENT ON VIEW visrec.setting IS 'What an administrator decides; change a value with visrec.set.';
GRANT SELECT ON visrec.setting TO PUBLIC;

CREATE FUNCTION visrec.set(name text, value text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF name IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'the name of the setting must not be null';
    ELSIF NOT EXISTS (SELECT FROM visrec.setting AS s WHERE s.name = set.name) THEN
        RAISE undefined_object USING
            MESSAGE = format('unrecognized setting "%s"', name),
            HINT = 'Settings: ' || (SELECT string_agg(s.name, ', ' ORDER BY s.name) FROM visrec.setting AS s) || '.';
    END IF;
    IF value IS NULL THEN
        DELETE FROM visrec.setting_value AS s WHERE s.name = set.name;
        RETURN;
    END IF;
    IF (starts_with(name, 'max_') OR name = 'encoder_idle_seconds') AND value !~ '^[1-9][0-9]{0,17}$' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('invalid value for "%s": "%s"', name, value),
            HINT = 'The value must be a whole number greater than 0.';
    ELSIF name IN ('image_roots', 'model_directory')
        AND EXISTS (SELECT FROM string_to_table(value, ':') AS d WHERE d !~ '^/' OR d ~ '(^|/)[.][.](/|$)')
    THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('invalid value for "%s": "%s"', name, value),
            HINT = 'Directories must be absolute paths without "..".';
    ELSIF name = 'encoder' AND value NOT IN ('auto', 'shared', 'in_process') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('invalid value for "encoder": "%s"', value),
            HINT = 'Valid values are "auto", "shared" and "in_process".';
    END IF;
    INSERT INTO visrec.setting_value AS s VALUES (set.name, set.value)
    ON CONFLICT ON CONSTRAINT setting_value_pkey DO UPDATE SET value = excluded.value;
END
$$;
COMMENT ON FUNCTION visrec.set(text, text) IS
    'Changes a setting (see visrec.setting); NULL brings back the default. For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.set(text, text) FROM PUBLIC;

-- Models -----------------------------------------------------------------------------------

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('visrec.path_with_vector'), true);
CREATE TABLE visrec.model (
    name text PRIMARY KEY,
    directory text,
    dimension integer NOT NULL CHECK (dimension > 0),
    fingerprint text NOT NULL,
    reference vector,
    built_in boolean NOT NULL DEFAULT false
);
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
SELECT pg_catalog.pg_extension_config_dump('visrec.model', 'WHERE NOT built_in');
COMMENT ON TABLE visrec.model IS
    'Models that tables can be attached with: where each is on the server, how many numbers its vectors have, '
    'and the fingerprint of its weights. Add one with visrec.register_model.';
COMMENT ON COLUMN visrec.model.reference IS
    'the vector of the test picture when the model was registered; visrec.selftest compares with it';
GRANT SELECT ON visrec.model TO PUBLIC;

INSERT INTO visrec.model (name, directory, dimension, fingerprint, built_in)
VALUES ('pixels', NULL, 512, 'pixels-1', true);    -- its reference: see selftest

-- Attachments ------------------------------------------------------------------------------

CREATE SEQUENCE visrec.attachment_id AS integer;
SELECT pg_catalog.pg_extension_config_dump('visrec.attachment_id', '');
COMMENT ON SEQUENCE visrec.attachment_id IS 'The next attachment''s id.';
GRANT SELECT ON SEQUENCE visrec.attachment_id TO pg_database_owner;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('visrec.path_with_vector'), true);
CREATE TABLE visrec.attachment (
    id integer PRIMARY KEY,
    relation regclass NOT NULL,
    name name NOT NULL,
    columns name[] NOT NULL,
    numbers smallint[] NOT NULL,
    types regtype[] NOT NULL,
    model text NOT NULL,
    fingerprint text NOT NULL,
    mode text NOT NULL CHECK (mode = 'sync'),
    on_error text NOT NULL CHECK (on_error IN ('record', 'raise')),
    index_method text NOT NULL,
    index_metric text NOT NULL,
    reduction integer,
    components vector[],
    events regclass,
    event_columns name[],
    event_numbers smallint[],
    path name[] NOT NULL DEFAULT '{}',
    shells text[] NOT NULL DEFAULT '{}',
    weights bigint,
    operators text[],
    recall double precision NOT NULL DEFAULT 0.98,
    width integer,
    tuned_recall double precision,
    tuned_at timestamptz,
    tuned_queries bigint,
    tuned_rows bigint,
    gone boolean
);
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
SELECT pg_catalog.pg_extension_config_dump('visrec.attachment',
    'WHERE relation::pg_catalog.oid OPERATOR(pg_catalog.=) ANY (SELECT oid FROM pg_catalog.pg_class)');
COMMENT ON TABLE visrec.attachment IS
    'One line for each attachment: what visrec.attach was told. Only visrec''s functions write it, through '
    'visrec.own_attachment; people read visrec.attached.';
COMMENT ON COLUMN visrec.attachment.name IS 'what the functions are named after: posts in similar_posts';
COMMENT ON COLUMN visrec.attachment.columns IS
    'the key, the image, the vector, its source, then the shown columns: their names when attach was called';
COMMENT ON COLUMN visrec.attachment.numbers IS 'the same columns'' numbers (attnum), by which a renamed column is found';
COMMENT ON COLUMN visrec.attachment.types IS 'the same columns'' types when they were checked';
COMMENT ON COLUMN visrec.attachment.reduction IS
    'how often visrec.reduce was called: the number in the name of the function that projects; NULL without a reduction';
COMMENT ON COLUMN visrec.attachment.components IS 'the principal components that the vectors are projected on';
COMMENT ON COLUMN visrec.attachment.event_columns IS 'of the table of events: user, item, weight (may be NULL) and time';
COMMENT ON COLUMN visrec.attachment.event_numbers IS 'the same columns'' numbers, by which a renamed column is found';
COMMENT ON COLUMN visrec.attachment.path IS
    'the schemas on the search_path when attach was called, where the owner''s triggers find what they name';
COMMENT ON COLUMN visrec.attachment.shells IS 'SHA-256 of the text of each function that attach wrote for the table';
COMMENT ON COLUMN visrec.attachment.recall IS 'the target: what share of the ten nearest rows searches are to find';
COMMENT ON COLUMN visrec.attachment.width IS
    'how broadly searches look, as visrec.tune found: hnsw.ef_search (of bits and reduced vectors also the candidates), or '
    'ivfflat.probes; NULL before';
COMMENT ON COLUMN visrec.attachment.tuned_recall IS 'the recall that visrec.tune measured with that width, of tuned_queries queries';
COMMENT ON COLUMN visrec.attachment.tuned_rows IS 'how many vectors the table had then';
COMMENT ON COLUMN visrec.attachment.weights IS 'the fingerprint as a number, as it stands in the sources of vectors';
COMMENT ON COLUMN visrec.attachment.operators IS 'the equality and the order (>) of the primary key''s index, for use in a statement';
CREATE INDEX attachment_relation ON visrec.attachment (relation);
GRANT SELECT ON visrec.attachment TO PUBLIC;

CREATE FUNCTION visrec._owns(relation oid) RETURNS boolean
-- PL/pgSQL keeps its plan for the session.
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class AS c WHERE c.oid = relation);
END
$$;
COMMENT ON FUNCTION visrec._owns(oid) IS 'Whether the current role has the rights of the table''s owner.';

-- A view's conditions are asked as the role that uses it, and its table is written as the view's owner: so a table's
-- owner writes its own lines and no others, and the table itself, without row-level security, can be dumped.
CREATE VIEW visrec.own_attachment WITH (security_barrier) AS
SELECT a.* FROM visrec.attachment AS a WHERE visrec._owns(a.relation)
WITH CHECK OPTION;
COMMENT ON VIEW visrec.own_attachment IS 'The attachments of tables of the current role: what visrec.attach writes.';
-- By columns: with a right to the whole, which DELETE always is, LOCK TABLE could lock everybody out. A line is deleted by
-- writing that it is gone.
GRANT SELECT ON visrec.own_attachment TO PUBLIC;
GRANT INSERT (id, relation, name, columns, numbers, types, model, fingerprint, mode, on_error, index_method, index_metric,
        reduction, components, events, event_columns, event_numbers, path, shells, weights, operators, recall, width,
        tuned_recall, tuned_at, tuned_queries, tuned_rows, gone),
    UPDATE (id, relation, name, columns, numbers, types, model, fingerprint, mode, on_error, index_method, index_metric,
        reduction, components, events, event_columns, event_numbers, path, shells, weights, operators, recall, width,
        tuned_recall, tuned_at, tuned_queries, tuned_rows, gone)
    ON visrec.own_attachment TO PUBLIC;

-- Failures ---------------------------------------------------------------------------------

CREATE TABLE visrec.failed_row (
    attachment integer NOT NULL,        -- no foreign key: pg_restore --jobs loads both tables at once
    row_id text NOT NULL,
    image text,
    code text NOT NULL,
    message text NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    first_try timestamptz NOT NULL DEFAULT now(),
    last_try timestamptz NOT NULL DEFAULT now(),
    gone boolean,
    PRIMARY KEY (attachment, row_id)
);
SELECT pg_catalog.pg_extension_config_dump('visrec.failed_row', '');
COMMENT ON TABLE visrec.failed_row IS
    'Rows whose image gave no vector; people read visrec.failure, and visrec''s functions write visrec.own_failed_row.';
GRANT SELECT ON visrec.failed_row, visrec.setting_value, visrec.model TO pg_database_owner;

CREATE FUNCTION visrec._owns_attachment(attachment integer) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT pg_has_role(c.relowner, 'USAGE')
            FROM visrec.attachment AS a JOIN pg_class AS c ON c.oid = a.relation WHERE a.id = attachment);
END
$$;
COMMENT ON FUNCTION visrec._owns_attachment(integer) IS
    'Whether the current role has the rights of the attached table''s owner.';

CREATE VIEW visrec.own_failed_row WITH (security_barrier) AS
SELECT f.* FROM visrec.failed_row AS f WHERE visrec._owns_attachment(f.attachment)
WITH CHECK OPTION;
COMMENT ON VIEW visrec.own_failed_row IS
    'The failures of tables of the current role: what visrec''s functions write. See visrec.failure.';
GRANT SELECT ON visrec.own_failed_row TO PUBLIC;
GRANT INSERT (attachment, row_id, image, code, message, attempts, first_try, last_try, gone),
    UPDATE (attachment, row_id, image, code, message, attempts, first_try, last_try, gone) ON visrec.own_failed_row TO PUBLIC;

CREATE FUNCTION visrec._delete_gone() RETURNS trigger
-- As the extension's owner: the caller may write the line, and so may have it deleted.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_TABLE_NAME = 'attachment' THEN
        DELETE FROM visrec.attachment AS a WHERE a.id = (to_jsonb(NEW) ->> 'id')::integer;
    ELSE
        DELETE FROM visrec.failed_row AS f WHERE f.attachment = (to_jsonb(NEW) ->> 'attachment')::integer
            AND f.row_id = to_jsonb(NEW) ->> 'row_id';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION visrec._delete_gone() IS 'Deletes a line of which its table''s owner wrote that it is gone.';

CREATE TRIGGER c_gone AFTER INSERT OR UPDATE ON visrec.attachment FOR EACH ROW WHEN (NEW.gone) EXECUTE FUNCTION visrec._delete_gone();
CREATE TRIGGER c_gone AFTER INSERT OR UPDATE ON visrec.failed_row FOR EACH ROW WHEN (NEW.gone) EXECUTE FUNCTION visrec._delete_gone();
