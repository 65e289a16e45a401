-- visrec: from 0.1.0 to 0.2.0.

\echo Use "ALTER EXTENSION visrec UPDATE TO '0.2.0'" to load this file. \quit

-- Tables attached under 0.1.0 go on as they are. visrec.attach, again, gives them the column that says where
-- a vector comes from, and the triggers that remove the failures of rows that go.

DROP FUNCTION visrec._made_functions(name, name);
DROP FUNCTION visrec._names(oid, jsonb);
DROP POLICY readers ON visrec.failure;

CREATE OR REPLACE VIEW visrec.setting AS
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

CREATE OR REPLACE FUNCTION visrec._sees_row(relation regclass, row_id text) RETURNS boolean
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
COMMENT ON TABLE visrec.failure IS
    'Rows whose image gave no vector, and why. A line goes when its row''s image is embedded, and when the row goes; '
    'visrec.retry tries all of a table''s again. Each role sees the failures of tables it may read; where row-level '
    'security limits what it sees of the table, visrec.coverage counts what it may.';
COMMENT ON COLUMN visrec.failure.row_id IS 'the row''s primary key as text; a date or time in ISO 8601, in UTC';
COMMENT ON COLUMN visrec.failure.code IS
    'missing, outside_roots, unreadable, too_large, bomb, timeout, truncated, not_an_image or encoder_unavailable';

CREATE POLICY readers ON visrec.failure FOR SELECT USING (
    CASE WHEN NOT has_table_privilege(relation, 'SELECT') THEN false
         WHEN NOT row_security_active(relation) THEN true
         WHEN current_setting('visrec.failures_of', true) IS DISTINCT FROM relation::oid::text THEN false
         ELSE visrec._sees_row(relation, row_id) END);

CREATE OR REPLACE FUNCTION visrec._warn_hidden(relation regclass, rows bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE WARNING USING
        MESSAGE = format('rows without a vector, since row-level security hides them from the owner of table "%s": %s',
            relation, rows),
        HINT = 'A policy must let the owner see and update them (FORCE ROW LEVEL SECURITY binds it, too); then backfill.';
END
$$;
COMMENT ON FUNCTION visrec._warn_hidden(regclass, bigint) IS 'A WARNING that rows are pending which the owner cannot see.';

CREATE OR REPLACE FUNCTION visrec._embed_rows(relation oid, config jsonb, ids text[]) RETURNS void
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

CREATE OR REPLACE VIEW visrec.attached AS
SELECT t.tgrelid::regclass AS relation, a.*
FROM pg_catalog.pg_trigger AS t,
     pg_catalog.jsonb_to_record(visrec._config(t.tgargs)) AS a (
         key_column name, image_column name, vector_column name, model text, fingerprint text,
         mode text, on_error text, show_columns name[], functions_schema name, functions_name name,
         source_column name)
WHERE t.tgname = 'visrec_insert' AND NOT t.tgisinternal AND a.key_column IS NOT NULL;

CREATE OR REPLACE FUNCTION visrec._hash(data bytea) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN ('x' OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.encode(pg_catalog.sha256(data), 'hex'), 1, 8))
        ::pg_catalog.bit(32)::pg_catalog.int8;
END
$$;
COMMENT ON FUNCTION visrec._hash(bytea) IS 'The first 32 bits of the SHA-256, from 0 to 2^32 - 1.';

CREATE OR REPLACE FUNCTION visrec._weights(fingerprint text) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN visrec._hash(pg_catalog.convert_to(fingerprint, 'UTF8')) OPERATOR(pg_catalog.-) 2147483648;
END
$$;
COMMENT ON FUNCTION visrec._weights(text) IS 'What stands for a model''s weights: from -2^31 to 2^31 - 1.';

CREATE OR REPLACE FUNCTION visrec._source(image text, weights bigint) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN (weights OPERATOR(pg_catalog.<<) 32)
        OPERATOR(pg_catalog.|) visrec._hash(pg_catalog.convert_to(image, 'UTF8'));
END
$$;
COMMENT ON FUNCTION visrec._source(text, bigint) IS 'What stands for a vector''s model and the path of its image.';

CREATE OR REPLACE FUNCTION visrec._source(image bytea, weights bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    -- Not the whole picture: each look at a table would read all of it.
    size integer := pg_catalog.octet_length(image);
BEGIN
    RETURN (weights OPERATOR(pg_catalog.<<) 32) OPERATOR(pg_catalog.|) visrec._hash(pg_catalog.int4send(size)
        OPERATOR(pg_catalog.||) pg_catalog.substr(image, 1, 8192)
        OPERATOR(pg_catalog.||) pg_catalog.substr(image, GREATEST(1, size OPERATOR(pg_catalog.-) 8191)));
END
$$;
COMMENT ON FUNCTION visrec._source(bytea, bigint) IS
    'What stands for a vector''s model and its image: length, first and last 8 kB.';

CREATE OR REPLACE FUNCTION visrec._key_text(key text, base_type oid) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.replace(CASE base_type
    WHEN 'timestamptz'::pg_catalog.regtype
        THEN $f$regexp_replace(to_jsonb($ AT TIME ZONE 'UTC') #>> '{}', '(\d)( BC)?\Z', '\1Z\2')$f$
    WHEN 'timestamp'::pg_catalog.regtype THEN $f$(to_jsonb($) #>> '{}')$f$
    WHEN 'date'::pg_catalog.regtype THEN $f$(to_jsonb($) #>> '{}')$f$
    ELSE '$::text' END, '$', key);
COMMENT ON FUNCTION visrec._key_text(text, oid) IS
    'The expression for a key as text: dates and times in ISO 8601, whatever DateStyle and TimeZone.';

CREATE OR REPLACE FUNCTION visrec._base_type(type oid) RETURNS oid
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(nullif(t.typbasetype, 0), t.oid) FROM pg_type AS t WHERE t.oid = type
$$;
COMMENT ON FUNCTION visrec._base_type(oid) IS 'The type that a domain is over; any other type itself.';

CREATE OR REPLACE FUNCTION visrec._table_functions(schema text, table_name text) RETURNS SETOF regprocedure
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.oid::regprocedure
    FROM unnest(ARRAY['similar_', 'visrec_embed_', 'visrec_backfill_']) AS prefix
    JOIN pg_proc AS p ON p.proname = visrec._function_name(prefix, table_name)
    JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = schema AND visrec._depends_on_extension('pg_proc', p.oid)
$$;
COMMENT ON FUNCTION visrec._table_functions(text, text) IS 'The functions that attach made for a table of this name.';

CREATE OR REPLACE FUNCTION visrec._names(relation oid, config jsonb,
    OUT "table" text, OUT key text, OUT key_type text, OUT equals text, OUT greater text,
    OUT image text, OUT image_type text, OUT vector text, OUT vector_type text, OUT vector_schema text,
    OUT key_text text, OUT source text, OUT source_value text, OUT stale text, OUT unembedded text)
-- Every INSERT asks, so it is planned once a session, and in the order written: planning costs 4 ms, not running.
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET join_collapse_limit = 1 AS $$
BEGIN
    SELECT format('%I.%I', n.nspname, c.relname), quote_ident(k.attname), format_type(k.atttypid, -1),
           format('OPERATOR(%I.%s)', eqn.nspname, eqo.oprname), format('OPERATOR(%I.%s)', gtn.nspname, gto.oprname),
           quote_ident(i.attname), format_type(i.atttypid, i.atttypmod),
           quote_ident(v.attname), format_type(v.atttypid, v.atttypmod), quote_ident(vn.nspname),
           visrec._key_text('t.' || quote_ident(k.attname), coalesce(nullif(kt.typbasetype, 0), kt.oid)),
           quote_ident(s.attname),
           format('visrec._source(t.%I::%s, %s)', i.attname,
               CASE coalesce(nullif(it.typbasetype, 0), it.oid) WHEN 'bytea'::regtype THEN 'bytea' ELSE 'text' END,
               visrec._weights(config ->> 'fingerprint'))
    INTO "table", key, key_type, equals, greater, image, image_type, vector, vector_type, vector_schema,
         key_text, source, source_value
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS k ON k.attrelid = c.oid AND k.attname = config ->> 'key_column' AND k.attnum > 0
    JOIN pg_type AS kt ON kt.oid = k.atttypid
    JOIN pg_attribute AS i ON i.attrelid = c.oid AND i.attname = config ->> 'image_column' AND i.attnum > 0
    JOIN pg_type AS it ON it.oid = i.atttypid
    JOIN pg_attribute AS v ON v.attrelid = c.oid AND v.attname = config ->> 'vector_column' AND v.attnum > 0
    LEFT JOIN pg_attribute AS s ON s.attrelid = c.oid AND s.attname = config ->> 'source_column' AND s.attnum > 0
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
    -- A vector without a source is its owner's word: not looked into.
    stale := CASE WHEN source IS NULL THEN 'false' ELSE format(
        '(t.%1$s IS NOT NULL AND t.%2$s IS NOT NULL AND t.%2$s IS DISTINCT FROM %3$s)', vector, source, source_value) END;
    unembedded := format('(t.%s IS NULL OR %s)', vector, stale);
END
$$;
COMMENT ON FUNCTION visrec._names(oid, jsonb) IS
    'An attached table''s names, quoted for use in a statement, and what is asked of its rows (t): key_text, the key as '
    'text; source, the column that says what a vector was made of, NULL in tables attached before 0.2.0; source_value, '
    'what it should say; stale and unembedded, conditions. The key''s operators are those of its primary key''s index, '
    'so that every type of key compares as it does there.';

CREATE OR REPLACE FUNCTION visrec._other_model(relation regclass, row_id text) RETURNS double precision
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE object_not_in_prerequisite_state USING
        MESSAGE = format('the vector of row %s of table "%s" is of another model', row_id, relation),
        DETAIL = 'Vectors of two models cannot be compared.',
        HINT = format('CALL visrec.backfill(%L);', relation);
END
$$;
COMMENT ON FUNCTION visrec._other_model(regclass, text) IS 'An error: this row''s vector cannot be compared.';

CREATE OR REPLACE FUNCTION visrec._make_similar(relation regclass, config jsonb) RETURNS void
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
    query_source bigint;
    previous text[];
BEGIN
    IF k IS NULL OR k < 1 OR filter IS NOT NULL THEN
        PERFORM visrec._check_k(k, filter);
    END IF;
    SELECT t.%6$s, t.%10$s INTO query_vector, query_source FROM %1$s AS t WHERE t.%2$s %3$s $1;
    IF NOT FOUND THEN
        RAISE no_data_found USING
            MESSAGE = format('table "%%s" has no row with the key %%s', %8$L, coalesce($1::text, 'NULL'));
    ELSIF query_vector IS NULL THEN
        PERFORM visrec._no_vector(%1$L, %12$s);
        RETURN;
    ELSIF query_source >> 32 <> %11$s THEN
        PERFORM visrec._other_model(%1$L, %12$s);
    END IF;
    IF k >= coalesce(current_setting('hnsw.ef_search', true)::integer, 40) THEN
        previous := visrec._widen_search(k);
    END IF;
    RETURN QUERY
        SELECT t.%2$s,
               CASE WHEN t.%10$s >> 32 <> %11$s THEN visrec._other_model(%1$L, %13$s)
                    ELSE 1 - (t.%6$s OPERATOR(%5$s.<=>) query_vector) END,
               t.%4$s%9$s
        FROM %1$s AS t
        WHERE t.%6$s IS NOT NULL AND NOT t.%2$s %3$s $1
        ORDER BY t.%6$s OPERATOR(%5$s.<=>) query_vector
        LIMIT k;
    IF previous IS NOT NULL THEN
        PERFORM set_config(previous[1], previous[2], true);
    END IF;
END
$body$, names."table", names.key, names.equals, names.image, names.vector_schema, names.vector,
            names.vector_type, relation, selected, names.source, visrec._weights(config ->> 'fingerprint'),
            visrec._key_text('$1', visrec._base_type(to_regtype(names.key_type))), names.key_text));
END
$$;

CREATE OR REPLACE FUNCTION visrec._trigger_names() RETURNS name[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY['visrec_insert', 'visrec_update_row', 'visrec_update', 'visrec_delete', 'visrec_key',
        'visrec_truncate']::name[]
$$;
COMMENT ON FUNCTION visrec._trigger_names() IS 'The triggers of an attached table.';

CREATE OR REPLACE FUNCTION visrec._forget_failure(relation oid, row_id text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM visrec.failure AS f
    WHERE f.row_id = $2 AND (f.relation = $1 OR f.relation IN (SELECT p.relid FROM pg_partition_ancestors($1) AS p))
$$;
COMMENT ON FUNCTION visrec._forget_failure(oid, text) IS
    'Removes a row''s failure, recorded for its table or, of a partition, for the partitioned one.';

CREATE OR REPLACE FUNCTION visrec._make_triggers(relation regclass, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
    function regprocedure;
    other regclass;
    trigger name;
    key_type oid;
BEGIN
    SELECT * INTO names FROM visrec._names(relation, config);
    SELECT visrec._base_type(a.atttypid) INTO key_type FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attname = config ->> 'key_column';
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
            SELECT %1$s FROM new_rows AS t WHERE t.%3$s IS NULL AND t.%2$s IS NOT NULL));
    ELSIF TG_NAME = 'visrec_update_row' THEN
        NEW.%3$s := NULL;   -- the vector of the image before
        NEW.%4$s := NULL;
        INSERT INTO visrec.queue (relation, row_id) VALUES (TG_RELID, %5$s);
        RETURN NEW;
    ELSIF TG_NAME = 'visrec_update' THEN
        PERFORM visrec._embed_queued(TG_RELID, TG_ARGV[0]::jsonb);
    ELSIF TG_OP = 'TRUNCATE' THEN
        DELETE FROM visrec.failure AS f WHERE f.relation = TG_RELID;
    ELSE                    -- a row without a vector went, or its key changed
        PERFORM visrec._forget_failure(TG_RELID, %6$s);
    END IF;
    RETURN NULL;
END
$body$, names.key_text, names.image, names.vector, names.source,
            visrec._key_text('NEW.' || names.key, key_type), visrec._key_text('OLD.' || names.key, key_type)));
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);

    PERFORM visrec._drop_triggers(relation);
    EXECUTE format('CREATE TRIGGER visrec_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows '
        'FOR EACH STATEMENT EXECUTE FUNCTION %s(%L)', names."table", function::regproc, config);
    EXECUTE format('CREATE TRIGGER visrec_update_row BEFORE UPDATE OF %2$s ON %1$s FOR EACH ROW '
        'WHEN (OLD.%2$s IS DISTINCT FROM NEW.%2$s) EXECUTE FUNCTION %3$s()',
        names."table", names.image, function::regproc);
    EXECUTE format('CREATE TRIGGER visrec_update AFTER UPDATE OF %s ON %s FOR EACH STATEMENT '
        'EXECUTE FUNCTION %s(%L)', names.image, names."table", function::regproc, config);
    -- Rows that may have a line in visrec.failure are those without a vector: others cost a look at the condition.
    EXECUTE format('CREATE TRIGGER visrec_delete AFTER DELETE ON %1$s FOR EACH ROW '
        'WHEN (OLD.%2$s IS NULL AND OLD.%3$s IS NOT NULL) EXECUTE FUNCTION %4$s()',
        names."table", names.vector, names.image, function::regproc);
    EXECUTE format('CREATE TRIGGER visrec_key AFTER UPDATE OF %5$s ON %1$s FOR EACH ROW '
        'WHEN (OLD.%5$s IS DISTINCT FROM NEW.%5$s AND OLD.%2$s IS NULL AND OLD.%3$s IS NOT NULL) '
        'EXECUTE FUNCTION %4$s()',
        names."table", names.vector, names.image, function::regproc, names.key);
    EXECUTE format('CREATE TRIGGER visrec_truncate AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s()',
        names."table", function::regproc);
    FOREACH trigger IN ARRAY visrec._trigger_names() LOOP
        EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION visrec', trigger, names."table");
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION visrec._drop_functions(config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made regprocedure;
BEGIN
    FOR made IN SELECT visrec._table_functions(config ->> 'functions_schema', config ->> 'functions_name') LOOP
        EXECUTE format('DROP FUNCTION %s', made);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION visrec._check_columns(relation regclass, key_column name, image_column name, vector_column name,
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

CREATE OR REPLACE FUNCTION visrec._make_columns(relation regclass, vector_column name, source_column name, dimension integer)
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

CREATE OR REPLACE FUNCTION visrec._check_vectors(relation regclass, vector_column name, source_column name, fingerprint text,
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

CREATE OR REPLACE FUNCTION visrec.attach(relation regclass, image_column name DEFAULT 'image_path',
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
    INTO config FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation;

    PERFORM visrec._make_triggers(relation, config);
    PERFORM visrec._make_backfill(relation, config);
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

CREATE OR REPLACE FUNCTION visrec.detach(relation regclass, drop_vectors boolean DEFAULT false) RETURNS void
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
        EXECUTE format('ALTER TABLE %s DROP COLUMN %I, DROP COLUMN IF EXISTS %I', relation,
            config ->> 'vector_column', visrec._function_name('', config ->> 'vector_column', '_source'));
    END IF;
    DELETE FROM visrec.failure AS f WHERE f.relation = detach.relation;
    PERFORM visrec._drain_queue(relation);
END
$$;

CREATE OR REPLACE FUNCTION visrec._do_as_owner(relation oid, config jsonb, task text, arguments jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    CASE task
    WHEN 'tidy' THEN
        PERFORM visrec._drain_queue(relation);      -- of direct updates of partitions; they are pending
        PERFORM visrec._forget_failures(relation, config);
        PERFORM visrec._forget_vectors(relation, config);
        RETURN to_jsonb(row_security_active(relation));
    WHEN 'batch' THEN
        RETURN visrec._backfill_batch(relation, config, arguments ->> 'after', (arguments ->> 'size')::integer,
            (arguments ->> 'following')::integer);
    WHEN 'retry' THEN
        PERFORM visrec._embed_rows(relation, config || '{"on_error": "record", "lock": true}',
            ARRAY(SELECT jsonb_array_elements_text(arguments)));
    END CASE;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION visrec._do_as_owner(oid, jsonb, text, jsonb) IS
    'What visrec_backfill_<table> does. Open to all, since what embeds in it is not.';

CREATE OR REPLACE FUNCTION visrec._as_owner(relation oid, config jsonb, task text, arguments jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text := format('%I.%I', config ->> 'functions_schema',
        visrec._function_name('visrec_backfill_', config ->> 'functions_name'));
    function regprocedure := to_regprocedure(name || '(text, jsonb)');
    sound boolean;
    result jsonb;
BEGIN
    IF function IS NULL THEN    -- a table attached under 0.1.0
        RETURN visrec._do_as_owner(relation, config, task, arguments);
    END IF;
    IF (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        -- Nobody changes the function between this look and the call.
        PERFORM FROM pg_proc AS p WHERE p.oid = function FOR SHARE;
    END IF;
    SELECT p.prosecdef AND p.proowner = c.relowner INTO sound
    FROM pg_proc AS p, pg_class AS c WHERE p.oid = function AND c.oid = relation;
    IF NOT sound THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('function %s does not run as the owner of table "%s"', function, relation::regclass),
            HINT = format('SELECT visrec.attach(%L, …) makes it anew.', relation::regclass);
    END IF;
    EXECUTE format('SELECT %s($1, $2)', name) INTO result USING task, arguments;
    RETURN result;
END
$$;
COMMENT ON FUNCTION visrec._as_owner(oid, jsonb, text, jsonb) IS 'Does a task on a table''s rows with its owner''s rights.';

CREATE OR REPLACE FUNCTION visrec._make_backfill(relation regclass, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    function regprocedure;
BEGIN
    function := visrec._make_function(relation, config, 'visrec_backfill_',
        arguments => 'text, jsonb',
        declaration => 'task text, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER '
            'SET search_path = pg_catalog, pg_temp',
        comment => format('Reads and writes the rows of %s for visrec.backfill and visrec.retry.', relation),
        body => format($body$
BEGIN
    RETURN visrec._do_as_owner(%1$L::regclass, visrec._attachment(%1$L), task, arguments);
END
$body$, relation));
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);
END
$$;
COMMENT ON FUNCTION visrec._make_backfill(regclass, jsonb) IS 'Writes visrec_backfill_<table>.';

CREATE OR REPLACE FUNCTION visrec._forget_failures(relation oid, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
BEGIN
    IF row_security_active(relation) THEN   -- a row that cannot be seen is not gone
        RETURN;
    END IF;
    SELECT * INTO names FROM visrec._names(relation, config);
    -- Lines that another session is at are passed over, so that nobody waits here.
    EXECUTE format($query$
        DELETE FROM visrec.failure AS f WHERE f.relation = $1 AND f.row_id = ANY (ARRAY(
            SELECT g.row_id FROM visrec.failure AS g WHERE g.relation = $1 AND NOT EXISTS (
                SELECT FROM %s AS t
                WHERE t.%s %s g.row_id::%s AND t.%s IS NOT NULL AND %s)
            FOR UPDATE SKIP LOCKED))
        $query$, names."table", names.key, names.equals, names.key_type, names.image, names.unembedded)
    USING relation;
END
$$;
COMMENT ON FUNCTION visrec._forget_failures(oid, jsonb) IS
    'Removes the failures of rows that are gone or healed while triggers were off.';

CREATE OR REPLACE FUNCTION visrec._forget_vectors(relation oid, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
BEGIN
    SELECT * INTO names FROM visrec._names(relation, config);
    IF names.source IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format($query$
        UPDATE %1$s AS t SET %2$s = NULL, %3$s = NULL
        WHERE t.%4$s %5$s ANY (ARRAY(
            SELECT t.%4$s FROM %1$s AS t WHERE t.%6$s IS NULL AND t.%2$s IS NOT NULL AND t.%3$s IS NOT NULL
            FOR NO KEY UPDATE SKIP LOCKED))
        $query$, names."table", names.vector, names.source, names.key, names.equals, names.image);
END
$$;
COMMENT ON FUNCTION visrec._forget_vectors(oid, jsonb) IS
    'Takes away the vectors of images that their rows lost while triggers were off.';

CREATE OR REPLACE PROCEDURE visrec.backfill(relation regclass, batch_size integer DEFAULT 64, max_rows bigint DEFAULT NULL)
LANGUAGE plpgsql AS $$
-- It commits, so it can have no SET clause: the search path is set anew in each transaction.
DECLARE
    config jsonb;
    names record;
    total bigint;
    wanted bigint;
    after text;
    outcome jsonb;
    embedded bigint := 0;
    failed bigint := 0;
    hidden boolean;
    started timestamptz := pg_catalog.clock_timestamp();
    told timestamptz := started;
    seconds double precision;
BEGIN
    COMMIT;     -- fails here, before any work, inside a transaction block
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    config := visrec._attachment(relation);
    PERFORM visrec._check_owner(relation);
    IF batch_size IS NULL OR batch_size < 1 OR max_rows < 0 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('cannot backfill %s rows in batches of %s', coalesce(max_rows::text, 'all'), batch_size);
    END IF;
    SELECT * INTO names FROM visrec._names(relation, config);
    EXECUTE format('SELECT count(*) FROM %s AS t WHERE t.%s IS NOT NULL AND %s',
        names."table", names.image, names.unembedded) INTO total;
    total := least(total, max_rows);
    hidden := visrec._as_owner(relation, config, 'tidy', NULL) = 'true';
    WHILE max_rows IS NULL OR embedded + failed < max_rows LOOP
        wanted := coalesce(max_rows - embedded - failed, 2 * batch_size::bigint);
        outcome := visrec._as_owner(relation, config, 'batch', jsonb_build_object('after', after,
            'size', least(batch_size, wanted), 'following', least(batch_size, greatest(wanted - batch_size, 0))));
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
    IF hidden AND total > embedded + failed THEN
        PERFORM visrec._warn_hidden(relation, total - embedded - failed);
    END IF;
    IF failed > 0 THEN
        RAISE WARNING USING
            MESSAGE = format('%s of %s images could not be embedded', failed, embedded + failed),
            HINT = format('SELECT * FROM visrec.failure WHERE relation = %L::regclass', relation);
    END IF;
END
$$;
COMMENT ON PROCEDURE visrec.backfill(regclass, integer, bigint) IS
    'Embed the rows that have an image and no vector, or the vector of another image or model, batch by batch, each '
    'committed: it can be interrupted, called again, and run in several sessions at once. Rows that failed before are '
    'tried again. Whoever calls it, the rows are written with the rights of the table''s owner.';

CREATE OR REPLACE FUNCTION visrec.retry(relation regclass) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    ids text[];
BEGIN
    PERFORM visrec._check_owner(relation);
    PERFORM visrec._as_owner(relation, config, 'tidy', NULL);
    SELECT coalesce(array_agg(f.row_id ORDER BY f.row_id), '{}') INTO ids
    FROM visrec.failure AS f WHERE f.relation = retry.relation;
    PERFORM visrec._as_owner(relation, config, 'retry', to_jsonb(ids));
    RETURN cardinality(ids) - (SELECT count(*) FROM visrec.failure AS f
                               WHERE f.relation = retry.relation AND f.row_id = ANY (ids));
END
$$;

CREATE OR REPLACE FUNCTION visrec.coverage(relation regclass, OUT state text, OUT rows bigint) RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 5 SET search_path = pg_catalog, pg_temp SET visrec.failures_of = '' AS $$
#variable_conflict use_column
DECLARE
    config jsonb := visrec._attachment(relation);
    names record;
    stale boolean;
BEGIN
    SELECT * INTO names FROM visrec._names(relation, config);
    PERFORM set_config('visrec.failures_of', relation::oid::text, true);    -- see the policy of visrec.failure
    SELECT m.fingerprint IS DISTINCT FROM config ->> 'fingerprint' INTO stale
    FROM visrec.model AS m WHERE m.name = config ->> 'model';
    RETURN QUERY EXECUTE format($query$
        SELECT s.state, count(r.state)
        FROM (VALUES (1, 'embedded'), (2, 'pending'), (3, 'failed'), (4, 'no_image'), (5, 'stale')) AS s (place, state)
        LEFT JOIN (
            SELECT CASE
                WHEN t.%2$s IS NOT NULL THEN CASE WHEN $2 OR %5$s THEN 'stale' ELSE 'embedded' END
                WHEN t.%3$s IS NULL THEN 'no_image'
                WHEN f.row_id IS NOT NULL THEN 'failed'
                ELSE 'pending' END AS state
            FROM %1$s AS t
            LEFT JOIN visrec.failure AS f ON f.relation = $1 AND f.row_id = %4$s
        ) AS r ON r.state = s.state
        GROUP BY s.place, s.state ORDER BY s.place
        $query$, names."table", names.vector, names.image, names.key_text, names.stale)
    USING relation, stale;
END
$$;
COMMENT ON FUNCTION visrec.coverage(regclass) IS
    'How many rows of an attached table are embedded, pending, failed, without an image, or stale (the vector is of '
    'other weights than the model''s, or of the image that the row had before); each row is in exactly one state.';

CREATE OR REPLACE FUNCTION visrec._forget_dropped() RETURNS event_trigger
-- As the extension's owner: who drops a table may own neither its functions nor what visrec keeps of it.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dropped oid[] := ARRAY(SELECT d.objid FROM pg_event_trigger_dropped_objects() AS d WHERE d.object_type = 'table');
    ownerless regprocedure;
BEGIN
    IF cardinality(dropped) = 0 OR NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() AS d
        WHERE d.object_type = 'trigger' AND d.address_names[3] = 'visrec_insert')
    THEN
        RETURN;
    END IF;
    DELETE FROM visrec.failure AS f WHERE f.relation = ANY (dropped);
    DELETE FROM visrec.queue AS q WHERE q.relation = ANY (dropped);
    FOR ownerless IN
        SELECT d.objid::regprocedure FROM pg_depend AS d
        JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'visrec'
        WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x'
        EXCEPT
        SELECT f FROM visrec.attached AS a, visrec._table_functions(a.functions_schema, a.functions_name) AS f
    LOOP
        EXECUTE format('DROP FUNCTION %s', ownerless);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._forget_dropped() IS
    'After DROP TABLE of an attached table: removes its functions and its lines in visrec.failure.';
REVOKE ALL ON FUNCTION visrec._forget_dropped() FROM PUBLIC;

CREATE EVENT TRIGGER visrec_forget_dropped ON sql_drop EXECUTE FUNCTION visrec._forget_dropped();
COMMENT ON EVENT TRIGGER visrec_forget_dropped IS 'visrec: what attach made goes with its table';
