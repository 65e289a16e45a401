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
    ('max_image_seconds', '20', 'an image that takes longer to decode is given up'),
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

CREATE FUNCTION visrec._sees_row(relation regclass, row_id text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
    seen boolean;
BEGIN
    SELECT * INTO names FROM visrec._names(relation, visrec._attachment(relation));
    EXECUTE format('SELECT EXISTS (SELECT FROM %s AS t WHERE t.%s %s ($1)::%s)',
        names."table", names.key, names.equals, names.key_type) INTO seen USING row_id;
    RETURN seen;
END
$$;
COMMENT ON FUNCTION visrec._sees_row(regclass, text) IS 'Whether the current role sees the row with this key.';

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
    'Rows whose image gave no vector, and why. A line goes when its row''s image is embedded, and when the row goes; '
    'visrec.retry tries all of a table''s again. Each role sees the failures of tables it may read; where row-level '
    'security limits what it sees of the table, visrec.coverage counts what it may.';
COMMENT ON COLUMN visrec.failure.row_id IS 'the row''s primary key as text; a date or time in ISO 8601, in UTC';
COMMENT ON COLUMN visrec.failure.image IS 'the image''s path as the row has it; NULL for an image stored as bytea';
COMMENT ON COLUMN visrec.failure.code IS
    'missing, outside_roots, unreadable, too_large, bomb, timeout, truncated, not_an_image or encoder_unavailable';
ALTER TABLE visrec.failure ENABLE ROW LEVEL SECURITY;
-- Whoever reads all failures must not run the policies of other people's tables by it: where a table's
-- row-level security applies to the reader, only a query that names that table looks at its rows.
CREATE POLICY readers ON visrec.failure FOR SELECT USING (
    CASE WHEN NOT has_table_privilege(relation, 'SELECT') THEN false
         WHEN NOT row_security_active(relation) THEN true
         WHEN current_setting('visrec.failures_of', true) IS DISTINCT FROM relation::oid::text THEN false
         ELSE visrec._sees_row(relation, row_id) END);
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
