-- visrec: from 0.1.0 to 0.2.0.

\echo Use "ALTER EXTENSION visrec UPDATE TO '0.2.0'" to load this file. \quit

-- Tables attached under 0.1.0 go on as they are. visrec.attach, again, gives them the column that says where
-- a vector comes from, and the triggers that remove the failures of rows that go.

DROP FUNCTION visrec._made_functions(name, name);
DROP FUNCTION visrec._make_function(regclass, jsonb, text, text, text, text, text);
DROP FUNCTION visrec._make_index(regclass, jsonb, integer);
DROP FUNCTION visrec._make_similar(regclass, jsonb);
DROP FUNCTION visrec._make_triggers(regclass, jsonb);
DROP FUNCTION visrec._names(oid, jsonb);
DROP FUNCTION visrec._vector_index(regclass, name, boolean);
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

CREATE OR REPLACE FUNCTION visrec._duplicate_kinds(relation oid, config jsonb, ids_a text[], ids_b text[]) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.duplicate_kinds(plpy, relation, config, ids_a, ids_b)
$python$;
COMMENT ON FUNCTION visrec._duplicate_kinds(oid, jsonb, text[], text[]) IS
    'For each pair of rows by their keys: whether their images are exact or near duplicates, or only similar.';
REVOKE ALL ON FUNCTION visrec._duplicate_kinds(oid, jsonb, text[], text[]) FROM PUBLIC;

CREATE OR REPLACE FUNCTION visrec._principal_components(sample bytea, dimension integer, dims integer) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.principal_components(plpy, sample, dimension, dims)
$python$;
COMMENT ON FUNCTION visrec._principal_components(bytea, integer, integer) IS
    'The first principal components of vectors, which are given as float4 on end, and what they keep.';
REVOKE ALL ON FUNCTION visrec._principal_components(bytea, integer, integer) FROM PUBLIC;

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
     pg_catalog.jsonb_to_record('{"index_method": "hnsw", "index_metric": "cosine"}' || visrec._config(t.tgargs)) AS a (
         key_column name, image_column name, vector_column name, model text, fingerprint text,
         mode text, on_error text, show_columns name[], functions_schema name, functions_name name,
         source_column name, index_method text, index_metric text)
WHERE t.tgname = 'visrec_insert' AND NOT t.tgisinternal AND a.key_column IS NOT NULL;

CREATE OR REPLACE FUNCTION visrec._columns_hint(relation regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('Columns: %s.', string_agg(a.attname, ', ' ORDER BY a.attnum)) FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION visrec._columns_hint(regclass) IS 'For errors that name a column which there is not: those there are.';

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
    FROM (VALUES ('visrec_embed_', ''), ('visrec_backfill_', ''), ('visrec_nearest_', ''), ('similar_', ''),
        ('search_', ''), ('search_', '_by_image'), ('recommend_', ''), ('recommend_', '_weighted'),
        ('recommend_', '_for')) AS f (prefix, suffix)
    JOIN pg_proc AS p ON p.proname = visrec._function_name(f.prefix, table_name, f.suffix)
    JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = schema AND visrec._depends_on_extension('pg_proc', p.oid)
$$;
COMMENT ON FUNCTION visrec._table_functions(text, text) IS 'The functions that attach made for a table of this name.';

CREATE OR REPLACE FUNCTION visrec._names(relation oid, config jsonb,
    OUT "table" text, OUT key text, OUT key_type text, OUT equals text, OUT greater text,
    OUT image text, OUT image_type text, OUT vector text, OUT vector_type text, OUT vector_schema text,
    OUT key_text text, OUT source text, OUT source_value text, OUT stale text, OUT unembedded text)
-- Every INSERT asks, so it is planned once a session; in small statements, whose plans take little of its memory.
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET join_collapse_limit = 1 AS $$
DECLARE
    part record;
    key_number smallint;
    image_base oid;
BEGIN
    FOR part IN
        SELECT a.attname, a.attnum, a.atttypid, a.atttypmod, quote_ident(a.attname) AS name, t.typnamespace,
               coalesce(nullif(t.typbasetype, 0), t.oid) AS base
        FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attname IN (config ->> 'key_column',
            config ->> 'image_column', config ->> 'vector_column', config ->> 'source_column')
    LOOP
        CASE part.attname
            WHEN config ->> 'key_column' THEN
                key := part.name;
                key_number := part.attnum;
                key_type := format_type(part.atttypid, -1);
                key_text := visrec._key_text('t.' || part.name, part.base);
            WHEN config ->> 'image_column' THEN
                image := part.name;
                image_type := format_type(part.atttypid, part.atttypmod);
                image_base := part.base;
            WHEN config ->> 'vector_column' THEN
                vector := part.name;
                vector_type := format_type(part.atttypid, part.atttypmod);
                vector_schema := part.typnamespace::regnamespace;
            ELSE source := part.name;
        END CASE;
    END LOOP;
    SELECT min(format('OPERATOR(%s.%s)', p.oprnamespace::regnamespace, p.oprname)) FILTER (WHERE o.amopstrategy = 3),
           min(format('OPERATOR(%s.%s)', p.oprnamespace::regnamespace, p.oprname)) FILTER (WHERE o.amopstrategy = 5)
    INTO equals, greater
    FROM pg_index AS x
    JOIN pg_opclass AS c ON c.oid = x.indclass[0]
    JOIN pg_amop AS o ON o.amopfamily = c.opcfamily AND o.amopstrategy IN (3, 5)
        AND o.amoplefttype = c.opcintype AND o.amoprighttype = c.opcintype
    JOIN pg_operator AS p ON p.oid = o.amopopr
    WHERE x.indrelid = relation AND x.indisprimary AND x.indkey[0] = key_number;
    IF num_nulls(key, image, vector, equals) > 0 THEN
        RETURN;     -- without a table: one of its columns is gone
    END IF;
    "table" := relation::regclass;
    source_value := format('visrec._source(t.%s::%s, %s)', image,
        CASE image_base WHEN 'bytea'::regtype THEN 'bytea' ELSE 'text' END, visrec._weights(config ->> 'fingerprint'));
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

CREATE OR REPLACE FUNCTION visrec._comparison(type oid, strategy integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('OPERATOR(%I.%s)', n.nspname, p.oprname)
    FROM pg_type AS t
    -- The type that the type's index operators are declared for: those of text serve varchar, and so on.
    JOIN pg_opclass AS o ON o.opcdefault AND o.opcintype = CASE
        WHEN t.typtype = 'e' THEN 'anyenum'::regtype
        WHEN t.oid = 'varchar'::regtype THEN 'text'::regtype
        WHEN t.typcategory = 'A' THEN 'anyarray'::regtype
        WHEN t.typtype = 'r' THEN 'anyrange'::regtype
        ELSE t.oid END
    JOIN pg_am AS m ON m.oid = o.opcmethod AND m.amname = 'btree'
    JOIN pg_amop AS a ON a.amopfamily = o.opcfamily AND a.amopstrategy = strategy
        AND a.amoplefttype = o.opcintype AND a.amoprighttype = o.opcintype
    JOIN pg_operator AS p ON p.oid = a.amopopr
    JOIN pg_namespace AS n ON n.oid = p.oprnamespace
    WHERE t.oid = visrec._base_type(type)
$$;
COMMENT ON FUNCTION visrec._comparison(oid, integer) IS
    'A type''s operator by its B-tree strategy: 1 <, 2 <=, 3 =, 4 >=, 5 >; NULL where the type has no order.';

CREATE OR REPLACE FUNCTION visrec._filter_column(relation regclass, name text) RETURNS pg_attribute
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found pg_attribute;
BEGIN
    SELECT a.* INTO found FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped;
    IF found.attname IS NULL THEN
        RAISE undefined_column USING
            MESSAGE = format('the filter names the column "%s", which table "%s" does not have', name, relation),
            HINT = visrec._columns_hint(relation);
    ELSIF visrec._comparison(found.atttypid, 3) IS NULL THEN
        RAISE feature_not_supported USING
            MESSAGE = format('column "%s" cannot be filtered by: values of type %s are not compared', name,
                format_type(found.atttypid, found.atttypmod));
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION visrec._filter_column(regclass, text) IS 'A column that a filter may name, or an error.';

CREATE OR REPLACE FUNCTION visrec._condition(relation regclass, filter jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    strategies CONSTANT jsonb := '{"lt": 1, "lte": 2, "gte": 4, "gt": 5}';
    conditions text[] := '{}';
    held pg_attribute;
    name text;
    wanted jsonb;       -- {"operator": value, …}
    operator text;
    value jsonb;
    left_side text;
    right_side text;
    type text;
    equals text;
BEGIN
    IF jsonb_typeof(filter) <> 'object' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('a filter is a JSON object, not %s', jsonb_typeof(filter)),
            HINT = 'For example {"category": "shoes", "price": {"lt": 100}}.';
    END IF;
    FOR name, wanted IN SELECT * FROM jsonb_each(filter) LOOP
        held := visrec._filter_column(relation, name);
        type := format_type(held.atttypid, -1);
        equals := visrec._comparison(held.atttypid, 3);
        left_side := format('t.%I', name);
        IF jsonb_typeof(wanted) <> 'object' THEN
            wanted := jsonb_build_object('eq', wanted);
        END IF;
        FOR operator, value IN SELECT * FROM jsonb_each(wanted) LOOP
            -- Where the value stands in the filter, cast to the column's type.
            right_side := format('($1 #>> %L)::%s', CASE WHEN filter -> name ? operator AND
                jsonb_typeof(filter -> name) = 'object' THEN ARRAY[name, operator] ELSE ARRAY[name] END, type);
            IF operator NOT IN ('eq', 'ne', 'in') AND NOT strategies ? operator THEN
                RAISE invalid_parameter_value USING
                    MESSAGE = format('the filter has the operator "%s" for column "%s", which there is not', operator, name),
                    HINT = 'Operators: eq, ne, lt, lte, gt, gte, in.';
            ELSIF (operator = 'in') <> (jsonb_typeof(value) = 'array') AND visrec._base_type(held.atttypid) <> 'jsonb'::regtype
                OR jsonb_typeof(value) = 'null' AND operator NOT IN ('eq', 'ne')
            THEN
                RAISE invalid_parameter_value USING
                    MESSAGE = format('the filter''s value for column "%s" and operator "%s" is %s', name, operator,
                        CASE jsonb_typeof(value) WHEN 'null' THEN 'null' ELSE 'of the kind ' || jsonb_typeof(value) END),
                    HINT = '"in" takes an array, null goes with "eq" and "ne", the others take one value.';
            END IF;
            conditions := conditions || CASE
                WHEN jsonb_typeof(value) = 'null' AND operator = 'eq' THEN left_side || ' IS NULL'
                WHEN jsonb_typeof(value) = 'null' THEN left_side || ' IS NOT NULL'
                WHEN operator = 'eq' THEN format('%s %s %s', left_side, equals, right_side)
                WHEN operator = 'ne' THEN format('(%1$s IS NULL OR NOT %1$s %2$s %3$s)', left_side, equals, right_side)
                WHEN operator = 'in' THEN format('%s %s ANY (ARRAY(SELECT jsonb_array_elements_text($1 #> %L))::%s[])',
                    left_side, equals, ARRAY[name, operator], type)
                ELSE format('%s %s %s', left_side,
                    visrec._comparison(held.atttypid, (strategies ->> operator)::integer), right_side)
            END;
        END LOOP;
    END LOOP;
    RETURN coalesce(nullif(array_to_string(conditions, ' AND '), ''), 'true');
END
$$;
COMMENT ON FUNCTION visrec._condition(regclass, jsonb) IS
    'A filter as a condition on the row t, with the filter itself as $1: {"column": value} for equality, null for IS '
    'NULL, {"column": {"operator": value}} with eq, ne, lt, lte, gt, gte, in; all of them must hold. ne holds for NULL, too.';

CREATE OR REPLACE FUNCTION visrec._estimate(relation regclass, condition text, filter jsonb) RETURNS double precision
-- Volatile, since EXPLAIN is refused to others; it changes nothing.
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE format('EXPLAIN (FORMAT JSON) SELECT FROM %s AS t WHERE %s', relation, condition) INTO plan USING filter;
    RETURN (plan #>> '{0,Plan,Plan Rows}')::double precision;
END
$$;
COMMENT ON FUNCTION visrec._estimate(regclass, text, jsonb) IS 'How many rows the planner expects a filter to leave.';

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

CREATE OR REPLACE FUNCTION visrec._check_k(k integer, filter jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF k IS NULL OR k < 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('k must be at least 1, not %s', coalesce(k::text, 'NULL'));
    END IF;
    IF filter IS NOT NULL THEN
        RAISE feature_not_supported USING
            MESSAGE = 'this table''s functions are of an earlier version, without filters',
            HINT = 'Attach the table again: SELECT visrec.attach(…).';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_k(integer, jsonb) IS 'An error for arguments no search function of 0.1.0 takes.';

CREATE OR REPLACE FUNCTION visrec._widen_search(k integer) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    setting text := CASE WHEN k < 1000 THEN 'hnsw.ef_search' ELSE 'enable_indexscan' END;
    previous text := current_setting(setting, true);
BEGIN
    PERFORM set_config(setting, CASE WHEN k < 1000 THEN (k + 1)::text ELSE 'off' END, true);
    RETURN ARRAY[setting, previous];
END
$$;

CREATE OR REPLACE FUNCTION visrec._check_search(k integer, max_distance double precision) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF k IS NULL OR k < 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('k must be at least 1, not %s', coalesce(k::text, 'NULL'));
    ELSIF max_distance < 0 OR max_distance = 'NaN' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('max_distance must be at least 0, not %s', max_distance),
            DETAIL = 'It is a cosine distance: 0 for the same direction, 1 for nothing in common, 2 at most.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_search(integer, double precision) IS 'An error for arguments no search function takes.';

CREATE OR REPLACE FUNCTION visrec._fill(template text, names jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    filled text := '';
    part text;
    n bigint;
BEGIN
    FOR part, n IN SELECT * FROM string_to_table(template, '@') WITH ORDINALITY LOOP
        IF n % 2 = 0 AND names ->> part IS NULL THEN
            RAISE internal_error USING MESSAGE = format('nothing to fill in for %s', part);
        END IF;
        filled := filled || CASE WHEN n % 2 = 1 THEN part ELSE names ->> part END;
    END LOOP;
    RETURN filled;
END
$$;
COMMENT ON FUNCTION visrec._fill(text, jsonb) IS
    'A template with its @names@ filled in, once: what is filled in is not looked at again.';

CREATE OR REPLACE FUNCTION visrec._search_names(relation regclass, config jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := (SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n);
    shown text;         -- ', OUT title text'
    selected text;      -- ', t.title'
BEGIN
    SELECT coalesce(string_agg(format(', OUT %I %s', a.attname, format_type(a.atttypid, a.atttypmod)), '' ORDER BY s.n), ''),
           coalesce(string_agg(format(', t.%I', a.attname), '' ORDER BY s.n), '')
    INTO shown, selected
    FROM jsonb_array_elements_text(config -> 'show_columns') WITH ORDINALITY AS s (name, n)
    JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = s.name AND a.attnum > 0;
    names := names || jsonb_build_object(
        'relation', quote_literal(relation::text),
        'shown', shown, 'selected', selected,
        'weights', visrec._weights(config ->> 'fingerprint'),
        'argument_text', visrec._key_text('$1', visrec._base_type(to_regtype(names ->> 'key_type'))),
        'distance', format('OPERATOR(%s.<=>)', names ->> 'vector_schema'),
        'nearest', format('%I.%I', config ->> 'functions_schema',
            visrec._function_name('visrec_nearest_', config ->> 'functions_name')),
        'recommend', format('%I.%I', config ->> 'functions_schema',
            visrec._function_name('recommend_', config ->> 'functions_name')));
    names := names || visrec._index_names(names, config);
    -- Parts of statements that are put together when a search runs: $1 the filter, $2 the vector, $3 excluded keys, $4 k.
    RETURN names || jsonb_build_object(
        'select_keys', quote_literal(visrec._fill('SELECT array_agg(c.id) FROM (SELECT t.@key@ AS id FROM @table@ AS t '
            'WHERE t.@vector@ IS NOT NULL AND NOT t.@key@ @equals@ ANY ($3) AND (', names)),
        'by_index', quote_literal(visrec._fill(') ORDER BY @order_by_parameter@ LIMIT $4) AS c', names)),
        -- the sum keeps the index out
        'one_by_one', quote_literal(visrec._fill(') ORDER BY (t.@vector@ @distance@ $2) + 0, t.@key@ LIMIT $4) AS c', names)));
END
$$;
COMMENT ON FUNCTION visrec._search_names(regclass, jsonb) IS 'What the templates of a table''s search functions are filled with.';

CREATE OR REPLACE FUNCTION visrec._make_similar(relation regclass, config jsonb) RETURNS regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := visrec._search_names(relation, config);
BEGIN
    -- Planned once a session: planning each time costs a third of the search. Not knowing k, the planner would rather
    -- sort the whole table than use the index.
    RETURN visrec._make_function(relation, config, 'similar_', '',
        arguments => (names ->> 'key_type') || ', integer, jsonb, double precision',
        declaration => visrec._fill(
            'INOUT id @key_type@, k integer DEFAULT 10, filter jsonb DEFAULT NULL, max_distance double precision '
            'DEFAULT NULL, OUT similarity double precision, OUT @image@ @image_type@@shown@) RETURNS SETOF record '
            'LANGUAGE plpgsql STABLE ROWS 10 @settings@ SET plan_cache_mode = force_generic_plan SET enable_sort = off', names),
        comment => format('The k rows of %s that look most like the row with this key, best first; of those that the '
            'filter leaves, and no farther than max_distance.', relation),
        body => visrec._fill($body$
#variable_conflict use_column
DECLARE
    -- Whatever is named in a query has a number, or a name that no column has.
    visrec_query @vector_schema@.vector;
    query_source bigint;
    @reduced_query@
    width integer;
    previous text;
BEGIN
    IF $2 IS NULL OR $2 < 1 OR $4 IS NOT NULL THEN
        PERFORM visrec._check_search($2, $4);
    END IF;
    -- All of the vector, as a copy: the one in the table would be fetched for each comparison.
    SELECT @vector_schema@.subvector(t.@vector@, 1, 16000), t.@source@ INTO visrec_query, query_source
    FROM @table@ AS t WHERE t.@key@ @equals@ $1;
    IF NOT FOUND THEN
        RAISE no_data_found USING
            MESSAGE = format('table "%s" has no row with the key %s', @relation@, coalesce($1::text, 'NULL'));
    ELSIF visrec_query IS NULL THEN
        PERFORM visrec._no_vector(@relation@, @argument_text@);
        RETURN;
    ELSIF query_source >> 32 <> @weights@ THEN
        PERFORM visrec._other_model(@relation@, @argument_text@);
    ELSIF $3 IS NOT NULL OR @exact@ OR row_security_active(@relation@::regclass) THEN
        RETURN QUERY SELECT * FROM @nearest@(visrec_query, $2, $3, $4, ARRAY[$1]);
        RETURN;
    END IF;
    @reduce_query@
    width := @width@;
    previous := current_setting(@width_setting@);
    IF previous::integer < width THEN
        PERFORM set_config(@width_setting@, width::text, true);
    END IF;
    RETURN QUERY
        SELECT t.@key@,
               CASE WHEN t.@source@ >> 32 <> @weights@ THEN visrec._other_model(@relation@, @key_text@)
                    ELSE 1 - t.visrec_distance END,
               t.@image@@selected@
        FROM (SELECT t.*, t.@vector@ @distance@ visrec_query AS visrec_distance FROM @table@ AS t
              WHERE t.@vector@ IS NOT NULL AND NOT t.@key@ @equals@ $1
              ORDER BY @order_by_variable@ LIMIT @pool@) AS t
        WHERE $4 IS NULL OR t.visrec_distance <= $4
        ORDER BY t.visrec_distance, t.@key@ LIMIT $2;
    IF previous::integer < width THEN
        PERFORM set_config(@width_setting@, previous, true);
    END IF;
END
$body$, names));
END
$$;
COMMENT ON FUNCTION visrec._make_similar(regclass, jsonb) IS 'Writes similar_<table>.';

CREATE OR REPLACE FUNCTION visrec._make_nearest(relation regclass, config jsonb) RETURNS regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := visrec._search_names(relation, config);
BEGIN
    RETURN visrec._make_function(relation, config, 'visrec_nearest_', '',
        arguments => visrec._fill('@vector_schema@.vector, integer, jsonb, double precision, @key_type@[]', names),
        declaration => visrec._fill(
            'query @vector_schema@.vector, k integer, filter jsonb, max_distance double precision, '
            'excluded @key_type@[], OUT id @key_type@, OUT similarity double precision, OUT @image@ @image_type@@shown@) '
            'RETURNS SETOF record LANGUAGE plpgsql STABLE ROWS 10 @settings@ SET plan_cache_mode = force_generic_plan '
            'SET enable_sort = off', names),
        comment => format('The k rows of %s nearest to a vector, best first, without the excluded ones: what its search '
            'functions call.', relation),
        body => visrec._fill($body$
#variable_conflict use_column
DECLARE
    -- So few rows are compared one by one in less time than the index takes to find k of them.
    few CONSTANT double precision := 10000;
    estimate double precision;
    share double precision := 1;    -- of the rows that the filter leaves
    condition text := 'true';
    exact boolean := @exact@;       -- more than the index finds in one go
    visrec_pool CONSTANT integer := @pool@;
    visrec_query CONSTANT @vector_schema@.vector := @vector_schema@.subvector($1, 1, 16000);     -- a copy, see similar_
    @reduced_query@
    visrec_ids @key_type@[];
    width integer;
    previous text;
BEGIN
    PERFORM visrec._check_search($2, $4);
    IF $3 IS NOT NULL THEN
        condition := visrec._condition(@relation@, $3);
        estimate := visrec._estimate(@relation@, condition, $3);
        exact := exact OR estimate <= few;
        SELECT estimate / greatest(c.reltuples, estimate, 1) INTO share FROM pg_class AS c WHERE c.oid = @relation@::regclass;
    END IF;
    IF NOT exact THEN
        width := @width_filtered@;
        previous := current_setting(@width_setting@);
        IF previous::integer < width THEN
            PERFORM set_config(@width_setting@, width::text, true);
        END IF;
        IF $3 IS NULL THEN
            @reduce_query@
            visrec_ids := ARRAY(SELECT t.@key@ FROM @table@ AS t WHERE t.@vector@ IS NOT NULL AND NOT t.@key@ @equals@ ANY ($5)
                ORDER BY @order_by_variable@ LIMIT visrec_pool);
        ELSE
            EXECUTE @select_keys@ || condition || @by_index@ INTO visrec_ids USING $3, visrec_query, $5, visrec_pool;
        END IF;
        PERFORM set_config(@width_setting@, previous, true);
        exact := coalesce(cardinality(visrec_ids), 0) < visrec_pool;  -- the index ran dry
    END IF;
    IF exact THEN
        EXECUTE @select_keys@ || condition || @one_by_one@ INTO visrec_ids USING $3, visrec_query, $5, $2;
    END IF;
    RETURN QUERY
        SELECT t.@key@,
               CASE WHEN t.@source@ >> 32 <> @weights@ THEN visrec._other_model(@relation@, @key_text@)
                    ELSE 1 - (t.@vector@ @distance@ visrec_query) END,
               t.@image@@selected@
        FROM @table@ AS t
        WHERE t.@key@ @equals@ ANY (visrec_ids) AND ($4 IS NULL OR t.@vector@ @distance@ visrec_query <= $4)
        ORDER BY (t.@vector@ @distance@ visrec_query) + 0, t.@key@ LIMIT $2;
END
$body$, names));
END
$$;
COMMENT ON FUNCTION visrec._make_nearest(regclass, jsonb) IS 'Writes visrec_nearest_<table>, which the other searches call.';

CREATE OR REPLACE FUNCTION visrec._query_vector(relation regclass, path text, image bytea, query text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    what text := CASE WHEN query IS NULL THEN 'image' ELSE 'text' END;
BEGIN
    IF num_nonnulls(path, image, query) <> 1 THEN
        RAISE null_value_not_allowed USING MESSAGE = 'there is nothing to search for: it is NULL';
    ELSIF NOT has_function_privilege('visrec._embed(text, text, bytea, text)', 'EXECUTE') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('role %s may not embed what is in no table', quote_ident(current_user)),
            HINT = format('An administrator can allow it: SELECT visrec.grant_access(%L);', current_user);
    ELSIF NOT EXISTS (SELECT FROM visrec.model AS m
                      WHERE m.name = config ->> 'model' AND m.fingerprint = config ->> 'fingerprint') THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('the model "%s" is not the one that table "%s" was attached with', config ->> 'model', relation),
            DETAIL = 'Vectors of two models cannot be compared.';
    END IF;
    RETURN visrec._embedding(what, visrec._embed(config ->> 'model', path, image, query));
END
$$;
COMMENT ON FUNCTION visrec._query_vector(regclass, text, bytea, text) IS
    'The vector of an image by its path or bytes, or of a text, by the model of an attached table.';

CREATE OR REPLACE FUNCTION visrec._make_search(relation regclass, config jsonb) RETURNS SETOF regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := visrec._search_names(relation, config);
    made record;
BEGIN
    FOR made IN SELECT * FROM (VALUES
        ('', 'text', 'NULL, NULL, $1', 'whose images fit a text best (for models with a text tower)'),
        ('_by_image', 'text', '$1, NULL, NULL', 'that look most like an image file inside image_roots'),
        ('_by_image', 'bytea', 'NULL, $1, NULL', 'that look most like an encoded image (JPEG, PNG …)')
    ) AS v (suffix, type, arguments, meaning) LOOP
        RETURN NEXT visrec._make_function(relation, config, 'search_', made.suffix,
            arguments => made.type || ', integer, jsonb, double precision',
            declaration => format('query %s, ', made.type) || visrec._fill(
                'k integer DEFAULT 10, filter jsonb DEFAULT NULL, max_distance double precision DEFAULT NULL, '
                'OUT id @key_type@, OUT similarity double precision, OUT @image@ @image_type@@shown@) '
                'RETURNS SETOF record LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp', names),
            comment => format('The k rows of %s %s, best first.', relation, made.meaning),
            body => visrec._fill($body$
#variable_conflict use_variable
BEGIN
    PERFORM visrec._check_search(k, max_distance);
    RETURN QUERY SELECT * FROM @nearest@(
        visrec._query_vector(@relation@, @arguments@)::@vector_schema@.vector, k, filter, max_distance, '{}');
END
$body$, names || jsonb_build_object('arguments', made.arguments)));
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._make_search(regclass, jsonb) IS 'Writes search_<table> and search_<table>_by_image.';

CREATE OR REPLACE FUNCTION visrec._blend(a vector, weight_a double precision, b vector, weight_b double precision) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT a * array_fill(weight_a::real, ARRAY[vector_dims(a)])::vector
         + b * array_fill(weight_b::real, ARRAY[vector_dims(b)])::vector;

END;
COMMENT ON FUNCTION visrec._blend(vector, double precision, vector, double precision) IS 'weight_a · a + weight_b · b.';

CREATE OR REPLACE FUNCTION visrec._cosine(a vector, b vector) RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN 1 - (a <=> b);
COMMENT ON FUNCTION visrec._cosine(vector, vector) IS 'The cosine of two vectors.';

CREATE OR REPLACE FUNCTION visrec._average(vectors vector[]) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT avg(v) FROM unnest(vectors) AS v;

END;
COMMENT ON FUNCTION visrec._average(vector[]) IS 'The mean.';

CREATE OR REPLACE FUNCTION visrec._weighted_mean(vectors vector[], weights double precision[]) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT sum(u.v * array_fill((u.w / t.total)::real, ARRAY[vector_dims(u.v)])::vector)
    FROM unnest(vectors, weights) AS u (v, w), (SELECT sum(w) AS total FROM unnest(weights) AS w) AS t;

END;
COMMENT ON FUNCTION visrec._weighted_mean(vector[], double precision[]) IS 'The weighted mean; the weights are positive.';

CREATE OR REPLACE FUNCTION visrec._mean(vectors vector[], weights double precision[]) RETURNS vector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF weights[1] = ALL (weights) THEN
        RETURN visrec._average(vectors);    -- in a third of the time
    END IF;
    RETURN visrec._weighted_mean(vectors, weights);
END
$$;
COMMENT ON FUNCTION visrec._mean(vector[], double precision[]) IS 'The weighted mean; the weights are positive.';

CREATE OR REPLACE FUNCTION visrec._apart(a vector, b vector) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN a + a - b;
COMMENT ON FUNCTION visrec._apart(vector, vector) IS '2a − b, which has the direction of a − b/2.';

CREATE OR REPLACE FUNCTION visrec._session(vectors vector[]) RETURNS vector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    n integer;
    alpha double precision;
BEGIN
    FOR n IN 2..cardinality(vectors) LOOP
        alpha := (visrec._cosine(vectors[n], vectors[n - 1]) + 1) / 2;     -- the state is in the place before
        vectors[n] := visrec._blend(vectors[n - 1], alpha, vectors[n], 1 - alpha);
    END LOOP;
    RETURN vectors[cardinality(vectors)];
END
$$;
COMMENT ON FUNCTION visrec._session(vector[]) IS
    'The state of a session after vectors in order of time: s := f(v1), then for each v: α1 = (cos(f(v), s) + 1) / 2, '
    'α2 = 1 − α1, s := α1·s + α2·f(v). What fits moves it little, what is new moves it much.';

CREATE OR REPLACE FUNCTION visrec._inputs_statement(names jsonb, arguments text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    -- A key that comes twice counts once.
    SELECT visrec._fill($query$
        SELECT array_agg(u.id ORDER BY u.n) FILTER (WHERE t.@key@ IS NULL) AS missing,
               array_agg(u.id ORDER BY u.n) FILTER (WHERE t.@key@ IS NOT NULL AND t.@vector@ IS NULL) AS bare,
               min(u.id) FILTER (WHERE t.@source@ >> 32 <> @weights@) AS other,
               array_agg(t.@vector@ ORDER BY u.n) FILTER (WHERE u.liked AND t.@vector@ IS NOT NULL) AS likes,
               array_agg(u.w ORDER BY u.n) FILTER (WHERE u.liked AND t.@vector@ IS NOT NULL) AS like_weights,
               array_agg(t.@vector@ ORDER BY u.n) FILTER (WHERE NOT u.liked AND t.@vector@ IS NOT NULL) AS dislikes,
               array_agg(u.w ORDER BY u.n) FILTER (WHERE NOT u.liked AND t.@vector@ IS NOT NULL) AS dislike_weights
        FROM (SELECT i.id, i.liked, coalesce(min(i.w), 1) AS w, min(i.n) AS n
              FROM (SELECT l.id, l.w, true, l.n FROM unnest(@liked@, @liked_weights@) WITH ORDINALITY AS l (id, w, n)
                    UNION ALL
                    SELECT d.id, d.w, false, d.n FROM unnest(@disliked@, @disliked_weights@) WITH ORDINALITY AS d (id, w, n)
                   ) AS i (id, w, liked, n) GROUP BY i.id, i.liked) AS u
        LEFT JOIN @table@ AS t ON t.@key@ @equals@ u.id::@key_type@
        $query$, names || jsonb_build_object('liked', arguments[1], 'liked_weights', arguments[2],
            'disliked', arguments[3], 'disliked_weights', arguments[4]))
$$;
COMMENT ON FUNCTION visrec._inputs_statement(jsonb, text[]) IS
    'The statement for the vectors of liked and disliked rows, by keys (text[]) and their weights: see visrec._check_inputs.';

CREATE OR REPLACE FUNCTION visrec._check_weights(weights double precision[], ids text[], what text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF weights IS NOT NULL AND (cardinality(weights) <> cardinality(ids) OR EXISTS (
        SELECT FROM unnest(weights) AS w WHERE w IS NULL OR NOT w > 0 OR w = 'infinity'))
    THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('there must be one weight greater than 0 for each of the %s rows', what);
    ELSIF array_position(ids, NULL) IS NOT NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = format('one of the %s rows is NULL', what);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_weights(double precision[], text[], text) IS 'An error for keys and weights that do not go together.';

CREATE OR REPLACE FUNCTION visrec._check_inputs(relation regclass, asked integer, missing text[], bare text[], other text,
    nothing boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF other IS NOT NULL THEN
        PERFORM visrec._other_model(relation, other);
    ELSIF missing IS NOT NULL OR bare IS NOT NULL THEN
        RAISE NOTICE USING
            MESSAGE = format('%s of the %s liked and disliked rows are left out', cardinality(missing || bare), asked),
            DETAIL = concat_ws(' ', 'Not in the table: ' || array_to_string(missing[1:10], ', ') || '.',
                'Without a vector: ' || array_to_string(bare[1:10], ', ') || '.');
    END IF;
    IF nothing THEN
        RAISE no_data_found USING
            MESSAGE = 'none of the liked rows has a vector',
            HINT = format('SELECT * FROM visrec.coverage(%L);', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_inputs(regclass, integer, text[], text[], text, boolean) IS
    'A NOTICE for rows that are missing or have no vector; an error where no liked one has any, or one of another model.';

CREATE OR REPLACE FUNCTION visrec._taste(relation regclass, liked vector[], liked_weights double precision[],
    disliked vector[], disliked_weights double precision[], strategy text, toward text, OUT taste vector)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    -- E = w_p · mean of liked − w_n · mean of disliked, with w_p = 1 and w_n = 1/2: what was liked decides.
    weight_toward CONSTANT double precision := 0.5;
BEGIN
    taste := CASE strategy WHEN 'session' THEN visrec._session(liked) ELSE visrec._mean(liked, liked_weights) END;
    IF disliked IS NOT NULL THEN
        taste := visrec._apart(taste, visrec._mean(disliked, disliked_weights));
    END IF;
    taste := visrec._unit(taste);
    IF toward IS NOT NULL THEN
        liked[1] := visrec._query_vector(relation, NULL, NULL, toward);
        taste := visrec._unit(visrec._blend(taste, 1 - weight_toward, liked[1], weight_toward));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._taste(regclass, vector[], double precision[], vector[], double precision[], text, text) IS
    'The unit vector that stands for a taste, by strategy mean or session, moved half-way toward a text.';

CREATE OR REPLACE FUNCTION visrec._unit(v vector) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN l2_normalize(v);
COMMENT ON FUNCTION visrec._unit(vector) IS 'The vector of length 1 in the same direction.';

CREATE OR REPLACE FUNCTION visrec._check_recommend(liked text[], strategy text, diversity double precision,
    liked_weights double precision[] DEFAULT NULL, disliked text[] DEFAULT '{}', disliked_weights double precision[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(cardinality(liked), 0) = 0 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'a taste needs at least one liked row',
            HINT = 'To start from words, call search_<table>.';
    ELSIF strategy IS NULL OR strategy NOT IN ('mean', 'session', 'best_score') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('there is no strategy "%s"', strategy),
            HINT = 'Strategies: mean, session (liked posts in order of time), best_score.';
    ELSIF diversity IS NULL OR NOT diversity BETWEEN 0 AND 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('diversity is between 0 and 1, not %s', coalesce(diversity::text, 'NULL'));
    ELSIF num_nonnulls(liked_weights, disliked_weights, array_position(liked, NULL), array_position(disliked, NULL)) > 0 THEN
        PERFORM visrec._check_weights(liked_weights, liked, 'liked');
        PERFORM visrec._check_weights(disliked_weights, disliked, 'disliked');
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_recommend(text[], text, double precision, double precision[], text[], double precision[]) IS 'An error for arguments that make no taste.';

CREATE OR REPLACE FUNCTION visrec.taste(relation regclass, liked anyarray, disliked anyarray,
    strategy text DEFAULT 'mean', toward text DEFAULT NULL, liked_weights double precision[] DEFAULT NULL,
    disliked_weights double precision[] DEFAULT NULL) RETURNS vector
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    config jsonb := visrec._attachment(relation);
    i record;
BEGIN
    PERFORM visrec._made_function(relation, config, 'visrec_nearest_');     -- not in tables attached before 0.2.0
    disliked := coalesce(disliked, liked[1:0]);
    PERFORM visrec._check_recommend(liked::text[], strategy, 0, liked_weights, disliked::text[], disliked_weights);
    IF strategy = 'best_score' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'best_score compares with each liked row: there is no one vector for it',
            HINT = 'Strategies with one: mean, session.';
    END IF;
    EXECUTE visrec._inputs_statement(visrec._search_names(relation, config), '{$1,$2,$3,$4}')
        INTO i USING liked::text[], liked_weights, disliked::text[], disliked_weights;
    PERFORM visrec._check_inputs(relation, cardinality(liked || disliked), i.missing, i.bare, i.other, i.likes IS NULL);
    RETURN visrec._taste(relation, i.likes, i.like_weights, i.dislikes, i.dislike_weights, strategy, toward);
END
$$;
COMMENT ON FUNCTION visrec.taste(regclass, anyarray, anyarray, text, text, double precision[], double precision[]) IS
    'The unit vector that stands for what somebody liked and disliked. mean: the weighted mean of the liked minus half '
    'the weighted mean of the disliked; session: the liked in order of time, s := α·s + (1 − α)·f(v) with '
    'α = (cos(f(v), s) + 1) / 2, minus the same. toward: moved half-way to a text.';

CREATE OR REPLACE FUNCTION visrec.taste(relation regclass, liked anyarray, strategy text DEFAULT 'mean',
    toward text DEFAULT NULL, liked_weights double precision[] DEFAULT NULL) RETURNS vector
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT visrec.taste(relation, liked, liked[1:0], strategy, toward, liked_weights)
$$;
COMMENT ON FUNCTION visrec.taste(regclass, anyarray, text, text, double precision[]) IS
    'The unit vector that stands for what somebody liked; see the form with disliked.';

CREATE OR REPLACE FUNCTION visrec._recommend(candidates_statement text, strategy text, taste vector, likes vector[],
    dislikes vector[], excluded text[], k integer, filter jsonb, max_distance double precision, diversity double precision)
RETURNS TABLE (id text, similarity double precision, place bigint)
LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    pool integer := CASE WHEN diversity > 0 THEN least(greatest(5 * k, 100), greatest(1000, k)) ELSE k END;
    candidates record;
BEGIN
    PERFORM visrec._check_search(k, max_distance);
    IF strategy = 'best_score' THEN
        candidates := visrec._best_scores(candidates_statement, likes, dislikes, excluded, pool, filter, max_distance);
    ELSE
        candidates := visrec._candidates(candidates_statement, taste, excluded, pool, filter, max_distance);
    END IF;
    IF diversity = 0 THEN
        RETURN QUERY SELECT c.key, c.score, c.n
            FROM unnest(candidates.keys, candidates.scores) WITH ORDINALITY AS c (key, score, n) ORDER BY n LIMIT k;
    ELSE
        RETURN QUERY SELECT candidates.keys[m.n], candidates.scores[m.n], m.place
            FROM visrec._diversify(candidates.vectors, candidates.scores, k, diversity)
                WITH ORDINALITY AS m (n, place);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._recommend(text, text, vector, vector[], vector[], text[], integer, jsonb, double precision,
    double precision) IS
    'What recommend_<table> returns where that is not simply what is nearest to a taste: keys and scores, best first.';

CREATE OR REPLACE FUNCTION visrec._candidates_statement(names jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    -- $1 vector, $2 k, $3 filter, $4 max_distance, $5 excluded keys
    SELECT visrec._fill($query$
        SELECT array_agg(@key_text@ ORDER BY s.n), array_agg(s.similarity ORDER BY s.n), array_agg(t.@vector@ ORDER BY s.n)
        FROM (SELECT r.id, r.similarity, row_number() OVER () AS n
              FROM @nearest@($1, $2, $3, $4, ($5)::@key_type@[]) AS r) AS s
        JOIN @table@ AS t ON t.@key@ @equals@ s.id
        $query$, names)
$$;
COMMENT ON FUNCTION visrec._candidates_statement(jsonb) IS 'The statement that visrec._candidates runs.';

CREATE OR REPLACE FUNCTION visrec._candidates(statement text, query vector, excluded text[], k integer, filter jsonb,
    max_distance double precision, OUT keys text[], OUT scores double precision[], OUT vectors vector[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE statement INTO keys, scores, vectors USING query, k, filter, max_distance, excluded;
END
$$;
COMMENT ON FUNCTION visrec._candidates(text, vector, text[], integer, jsonb, double precision) IS
    'The k rows nearest to a vector: keys, similarities and vectors, best first.';

CREATE OR REPLACE FUNCTION visrec._best_scores(candidates_statement text, liked vector[], disliked vector[], excluded text[],
    k integer, filter jsonb, max_distance double precision,
    OUT keys text[], OUT scores double precision[], OUT vectors vector[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    -- The best k by their nearest liked post are among the k nearest of each. More, since disliked ones push some down.
    pool integer := k + CASE WHEN disliked IS NULL THEN 0 ELSE greatest(k, 20) END;
BEGIN
    LOOP
        SELECT array_agg(s.key ORDER BY s.score DESC, s.key), array_agg(s.score ORDER BY s.score DESC, s.key),
               array_agg(s.vector ORDER BY s.score DESC, s.key)
        INTO keys, scores, vectors
        FROM (
            SELECT c.key, c.vector,
                   CASE WHEN c.near > coalesce(c.far, -1) THEN c.near ELSE -abs(c.far * c.far) END AS score
            FROM (
                SELECT u.key, (array_agg(u.vector))[1] AS vector, max(u.score) AS near,
                       (SELECT max(visrec._cosine((array_agg(u.vector))[1], d)) FROM unnest(disliked) AS d) AS far
                FROM unnest(liked) AS l,
                     visrec._candidates(candidates_statement, l, excluded, pool, filter, max_distance) AS c,
                     unnest(c.keys, c.scores, c.vectors) AS u (key, score, vector)
                GROUP BY u.key
            ) AS c
        ) AS s;
        EXIT WHEN pool >= 1000 OR (SELECT count(*) FROM unnest(scores) AS s WHERE s > 0) >= k
            OR coalesce(cardinality(keys), 0) < pool;
        pool := pool * 4;
    END LOOP;
    keys := keys[:k];
    scores := scores[:k];
    vectors := vectors[:k];
END
$$;
COMMENT ON FUNCTION visrec._best_scores(text, vector[], vector[], text[], integer, jsonb, double precision) IS
    'Candidates by the best of their cosines with the liked posts; where a disliked one is nearer, by minus the square '
    'of that cosine, so that they come last (as Qdrant''s best_score).';

CREATE OR REPLACE FUNCTION visrec._diversify(vectors vector[], scores double precision[], k integer, diversity double precision)
RETURNS SETOF integer
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    chosen integer;
    likeness double precision[] := array_fill(0::double precision, ARRAY[cardinality(scores)]);
    left_over boolean[] := array_fill(true, ARRAY[cardinality(scores)]);
BEGIN
    FOR i IN 1..least(k, cardinality(scores)) LOOP
        SELECT c.n INTO chosen
        FROM unnest(scores, likeness, left_over) WITH ORDINALITY AS c (score, likeness, left_over, n)
        WHERE c.left_over
        ORDER BY (1 - diversity) * c.score - diversity * c.likeness DESC, c.n LIMIT 1;
        RETURN NEXT chosen;
        left_over[chosen] := false;
        likeness := ARRAY(
            SELECT CASE WHEN i = 1 THEN visrec._cosine(c.vector, vectors[chosen])
                        ELSE greatest(c.likeness, visrec._cosine(c.vector, vectors[chosen])) END
            FROM unnest(vectors, likeness) WITH ORDINALITY AS c (vector, likeness, n) ORDER BY c.n);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._diversify(vector[], double precision[], integer, double precision) IS
    'Places of k of the candidates by maximal marginal relevance (Carbonell and Goldstein 1998): next is always the one '
    'with the greatest (1 − diversity) · score − diversity · greatest cosine with those already taken.';

CREATE OR REPLACE FUNCTION visrec._weighted(pairs jsonb, OUT liked text[], OUT liked_weights double precision[], OUT disliked text[],
    OUT disliked_weights double precision[])
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF jsonb_typeof(pairs) IS DISTINCT FROM 'array' OR EXISTS (
        SELECT FROM jsonb_array_elements(pairs) AS p
        WHERE jsonb_typeof(p) <> 'array' OR jsonb_typeof(p -> 1) IS DISTINCT FROM 'number' OR (p ->> 0) IS NULL)
    THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'what was liked is not a list of keys with their weights',
            HINT = 'For example [[42, 2], [7, 0.5], [9, -1]]; below 0 is disliked.';
    END IF;
    SELECT coalesce(array_agg(p ->> 0 ORDER BY n) FILTER (WHERE (p ->> 1)::float8 > 0), '{}'),
           coalesce(array_agg((p ->> 1)::float8 ORDER BY n) FILTER (WHERE (p ->> 1)::float8 > 0), '{}'),
           coalesce(array_agg(p ->> 0 ORDER BY n) FILTER (WHERE (p ->> 1)::float8 < 0), '{}'),
           coalesce(array_agg(-(p ->> 1)::float8 ORDER BY n) FILTER (WHERE (p ->> 1)::float8 < 0), '{}')
    INTO liked, liked_weights, disliked, disliked_weights
    FROM jsonb_array_elements(pairs) WITH ORDINALITY AS e (p, n);
END
$$;
COMMENT ON FUNCTION visrec._weighted(jsonb) IS 'Keys and weights out of [[key, weight], …].';

CREATE OR REPLACE FUNCTION visrec._make_recommend(relation regclass, config jsonb) RETURNS SETOF regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := visrec._search_names(relation, config);
BEGIN
    RETURN NEXT visrec._make_function(relation, config, 'recommend_', '',
        arguments => visrec._fill('@key_type@[], @key_type@[], integer, text, jsonb, double precision, '
            'double precision, text, @key_type@[], double precision[], double precision[]', names),
        declaration => visrec._fill(
            'liked @key_type@[], disliked @key_type@[] DEFAULT ''{}'', k integer DEFAULT 10, strategy text DEFAULT ''mean'', '
            'filter jsonb DEFAULT NULL, max_distance double precision DEFAULT NULL, diversity double precision DEFAULT 0, '
            'toward text DEFAULT NULL, seen @key_type@[] DEFAULT ''{}'', liked_weights double precision[] DEFAULT NULL, '
            'disliked_weights double precision[] DEFAULT NULL, '
            'OUT id @key_type@, OUT similarity double precision, OUT @image@ @image_type@@shown@) '
            -- planned once a session
            'RETURNS SETOF record LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp '
            'SET plan_cache_mode = force_generic_plan', names),
        comment => format('k rows of %s for the taste that liked and disliked rows show, best first, without those and '
            'the seen ones. strategy: mean, session (liked in order of time) or best_score; diversity: 0 to 1; toward: a '
            'text to steer by.', relation),
        body => visrec._fill($body$
#variable_conflict use_column
DECLARE
    liked_keys text[] := $1::text[];
    disliked_keys text[] := coalesce($2, '{}')::text[];
    i record;
    taste @vector_schema@.vector;
    excluded @key_type@[] := $1 || coalesce($2, '{}') || coalesce($9, '{}');
BEGIN
    PERFORM visrec._check_recommend(liked_keys, $4, $7, $10, disliked_keys, $11);
    @inputs@ INTO i;
    PERFORM visrec._check_inputs(@relation@, cardinality(liked_keys || disliked_keys), i.missing, i.bare, i.other, i.likes IS NULL);
    IF $4 <> 'best_score' THEN
        taste := visrec._taste(@relation@, i.likes, i.like_weights, i.dislikes, i.dislike_weights, $4, $8);
        IF $7 = 0 THEN
            RETURN QUERY SELECT * FROM @nearest@(taste, $3, $5, $6, excluded);
            RETURN;
        END IF;
    END IF;
    RETURN QUERY
        SELECT t.@key@, r.similarity, t.@image@@selected@
        FROM visrec._recommend(@candidates@, $4, taste, i.likes, i.dislikes, excluded::text[], $3, $5, $6, $7) AS r
        JOIN @table@ AS t ON t.@key@ @equals@ r.id::@key_type@
        ORDER BY r.place;
END
$body$, names || jsonb_build_object('candidates', quote_literal(visrec._candidates_statement(names)),
            'inputs', visrec._inputs_statement(names, '{liked_keys,$10,disliked_keys,$11}'))));
    RETURN NEXT visrec._make_function(relation, config, 'recommend_', '_weighted',
        arguments => 'jsonb, integer, text, jsonb, double precision, double precision, text, ' || (names ->> 'key_type') || '[]',
        declaration => visrec._fill(
            'weighted jsonb, k integer DEFAULT 10, strategy text DEFAULT ''mean'', filter jsonb DEFAULT NULL, '
            'max_distance double precision DEFAULT NULL, diversity double precision DEFAULT 0, toward text DEFAULT NULL, '
            'seen @key_type@[] DEFAULT ''{}'', OUT id @key_type@, OUT similarity double precision, '
            'OUT @image@ @image_type@@shown@) RETURNS SETOF record LANGUAGE plpgsql ROWS 10 '
            'SET search_path = pg_catalog, pg_temp', names),
        comment => format('As recommend_%s, with a weight for each row: [[key, weight], …], below 0 for a disliked one.',
            config ->> 'functions_name'),
        body => visrec._fill($body$
#variable_conflict use_column
DECLARE
    w record;
BEGIN
    w := visrec._weighted($1);
    RETURN QUERY SELECT * FROM @recommend@(w.liked::@key_type@[], w.disliked::@key_type@[], $2, $3, $4, $5, $6, $7, $8,
        w.liked_weights, w.disliked_weights);
END
$body$, names));
END
$$;
COMMENT ON FUNCTION visrec._make_recommend(regclass, jsonb) IS 'Writes recommend_<table> and recommend_<table>_weighted.';

CREATE OR REPLACE FUNCTION visrec._events_names(config jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    events regclass := to_regclass(config #>> '{events,table}');
    part text;
    names jsonb := '{}';
    held record;
BEGIN
    IF events IS NULL THEN
        RAISE undefined_table USING
            MESSAGE = format('the table of events %s does not exist', config #>> '{events,table}'),
            HINT = 'If it was renamed: SELECT visrec.attach_events(…), again.';
    END IF;
    names := jsonb_build_object('events', events::text);
    FOREACH part IN ARRAY ARRAY['user', 'item', 'weight', 'at'] LOOP
        CONTINUE WHEN config #>> ARRAY['events', part] IS NULL;     -- no weights: each counts 1
        SELECT quote_ident(a.attname) AS name, format_type(a.atttypid, -1) AS type,
               visrec._comparison(a.atttypid, 3) AS equals INTO held
        FROM pg_attribute AS a
        WHERE a.attrelid = events AND a.attname = config #>> ARRAY['events', part] AND a.attnum > 0 AND NOT a.attisdropped;
        IF held.name IS NULL THEN
            RAISE undefined_column USING
                MESSAGE = format('column "%s" of table "%s" does not exist', config #>> ARRAY['events', part], events),
                HINT = visrec._columns_hint(events);
        ELSIF held.equals IS NULL THEN
            RAISE datatype_mismatch USING
                MESSAGE = format('column "%s" cannot be used: values of type %s are not compared',
                    config #>> ARRAY['events', part], held.type);
        END IF;
        names := names || jsonb_build_object(part, 'e.' || held.name, part || '_type', held.type, part || '_equals', held.equals);
    END LOOP;
    RETURN jsonb_build_object('weight', '1::float8') || names;
END
$$;
COMMENT ON FUNCTION visrec._events_names(jsonb) IS
    'The names of a table of events and its columns, quoted, on the row e; an error where one is missing.';

CREATE OR REPLACE FUNCTION visrec._history(relation regclass, user_id text, most integer,
    OUT liked text[], OUT liked_weights double precision[], OUT disliked text[], OUT disliked_weights double precision[],
    OUT seen text[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config jsonb := visrec._attachment(relation);
BEGIN
    IF most IS NULL OR most < 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('history must be at least 1, not %s', coalesce(most::text, 'NULL'));
    END IF;
    -- An item counts by its latest event; those without a weight, or of weight 0, are only seen.
    EXECUTE visrec._fill($query$
        WITH latest AS (
            SELECT DISTINCT ON (@item@) (@item@)::text AS item, (@weight@)::float8 AS weight, @at@ AS at
            FROM @events@ AS e WHERE @user@ @user_equals@ ($1)::@user_type@ AND @item@ IS NOT NULL
            ORDER BY @item@, @at@ DESC NULLS LAST
        ), recent AS (
            SELECT * FROM latest WHERE weight <> 0 AND weight <> 'NaN' ORDER BY at DESC NULLS LAST, item LIMIT $2
        )
        SELECT array_agg(r.item ORDER BY r.at NULLS FIRST, r.item) FILTER (WHERE r.weight > 0),
               array_agg(r.weight ORDER BY r.at NULLS FIRST, r.item) FILTER (WHERE r.weight > 0),
               array_agg(r.item ORDER BY r.at NULLS FIRST, r.item) FILTER (WHERE r.weight < 0),
               array_agg(-r.weight ORDER BY r.at NULLS FIRST, r.item) FILTER (WHERE r.weight < 0),
               (SELECT coalesce(array_agg(l.item), '{}') FROM latest AS l)
        FROM recent AS r
        $query$, visrec._events_names(config))
    INTO liked, liked_weights, disliked, disliked_weights, seen USING user_id, most;
END
$$;
COMMENT ON FUNCTION visrec._history(regclass, text, integer) IS
    'What a user liked (weight above 0) and disliked (below 0) of late, in order of time, and all there are events of.';

CREATE OR REPLACE FUNCTION visrec._make_recommend_for(relation regclass, config jsonb) RETURNS SETOF regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb;
BEGIN
    IF config -> 'events' IS NULL OR to_regclass(config #>> '{events,table}') IS NULL THEN
        RETURN;
    END IF;
    names := visrec._search_names(relation, config) || jsonb_build_object('user_type',
        visrec._events_names(config) ->> 'user_type');
    RETURN NEXT visrec._make_function(relation, config, 'recommend_', '_for',
        arguments => (names ->> 'user_type')
            || ', integer, text, jsonb, double precision, double precision, text, integer',
        declaration => visrec._fill(
            'user_id @user_type@, k integer DEFAULT 10, strategy text DEFAULT ''mean'', filter jsonb DEFAULT NULL, '
            'max_distance double precision DEFAULT NULL, diversity double precision DEFAULT 0, toward text DEFAULT NULL, '
            'history integer DEFAULT 50, '
            'OUT id @key_type@, OUT similarity double precision, OUT @image@ @image_type@@shown@) '
            'RETURNS SETOF record LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp', names),
        comment => format('k rows of %s for a user, by the latest (history) of the events in %s, best first, without '
            'any that the user has events of.', relation, config #>> '{events,table}'),
        body => visrec._fill($body$
#variable_conflict use_column
DECLARE
    h record;
BEGIN
    SELECT * INTO h FROM visrec._history(@relation@, $1::text, $8);
    IF h.liked IS NULL THEN
        PERFORM visrec._check_search($2, $5);
        RAISE NOTICE 'user % has liked nothing', coalesce($1::text, 'NULL');
        RETURN;
    END IF;
    RETURN QUERY SELECT * FROM @recommend@(h.liked::@key_type@[], h.disliked::@key_type@[], $2, $3, $4, $5, $6, $7,
        h.seen::@key_type@[], h.liked_weights, h.disliked_weights);
END
$body$, names));
END
$$;
COMMENT ON FUNCTION visrec._make_recommend_for(regclass, jsonb) IS
    'Writes recommend_<table>_for, where the table''s events are known.';

CREATE OR REPLACE FUNCTION visrec.attach_events(relation regclass, events regclass, user_column name DEFAULT 'user_id',
    item_column name DEFAULT 'post_id', weight_column name DEFAULT 'weight', at_column name DEFAULT 'at') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation) - 'events';
BEGIN
    PERFORM visrec._check_owner(relation);
    IF events IS NOT NULL THEN
        IF num_nulls(user_column, item_column, at_column) > 0 THEN
            RAISE null_value_not_allowed USING MESSAGE = 'events need columns for the user, the item and the time';
        END IF;
        config := config || jsonb_build_object('events', jsonb_strip_nulls(jsonb_build_object(
            'table', (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c
                      JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = events),
            'user', user_column, 'item', item_column, 'weight', weight_column, 'at', at_column)));
        PERFORM visrec._events_names(config);
    END IF;
    PERFORM visrec._write(relation, config);
END
$$;
COMMENT ON FUNCTION visrec.attach_events(regclass, regclass, name, name, name, name) IS
    'Name the table that says who liked what, when: makes recommend_<table>_for. A weight above 0 is a like, below 0 a '
    'dislike, NULL or 0 only seen; without weight_column (NULL) each event is a like. NULL for the table forgets it. Who '
    'calls the function reads the events with its own rights.';

CREATE OR REPLACE FUNCTION visrec._grant(function regprocedure, acl aclitem[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    grantee oid;
BEGIN
    IF acl IS NULL THEN     -- as functions are from the start: PUBLIC may call it
        RETURN;
    END IF;
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);
    FOR grantee IN SELECT a.grantee FROM aclexplode(acl) AS a LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', function,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._grant(regprocedure, aclitem[]) IS 'Gives a function the grants of the one it replaces.';

CREATE OR REPLACE FUNCTION visrec._drop_replaced(config jsonb, made regprocedure[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    replaced record;
BEGIN
    FOR replaced IN
        SELECT f AS function, p.proname, p.proacl
        FROM visrec._table_functions(config ->> 'functions_schema', config ->> 'functions_name') AS f
        JOIN pg_proc AS p ON p.oid = f WHERE f <> ALL (made)
    LOOP
        EXECUTE format('DROP FUNCTION %s', replaced.function);
        PERFORM visrec._grant(p.oid, replaced.proacl) FROM pg_proc AS p
        WHERE p.oid = ANY (made) AND p.proname = replaced.proname;
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_replaced(jsonb, regprocedure[]) IS
    'Drops a table''s functions of an earlier version or attachment; those of the same name have their grants.';

CREATE OR REPLACE FUNCTION visrec._make_function(relation regclass, config jsonb, prefix text, suffix text, arguments text,
    declaration text, body text, comment text) RETURNS regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner regrole := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = relation);
    name text := format('%I.%I', config ->> 'functions_schema',
        visrec._function_name(prefix, config ->> 'functions_name', suffix));
    made regprocedure := to_regprocedure(format('%s(%s)', name, arguments));
    statement text := format('CREATE OR REPLACE FUNCTION %s(%s AS %L', name, declaration, body);
    acl aclitem[] := (SELECT p.proacl FROM pg_proc AS p WHERE p.oid = made);
    others regprocedure := (
        SELECT min(p.oid)::regprocedure FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE p.proname = visrec._function_name(prefix, config ->> 'functions_name', suffix)
          AND n.nspname = config ->> 'functions_schema' AND NOT visrec._depends_on_extension('pg_proc', p.oid));
BEGIN
    IF others IS NOT NULL THEN      -- with other arguments, too: a call could mean either
        RAISE duplicate_function USING
            MESSAGE = format('function %s exists and is not visrec''s', others),
            HINT = 'Rename or drop it, then attach again.';
    END IF;
    BEGIN
        EXECUTE statement;
    EXCEPTION WHEN invalid_function_definition THEN     -- other columns than before
        IF made IS NULL THEN
            RAISE;
        END IF;
        EXECUTE format('DROP FUNCTION %s', made);
        EXECUTE statement;
        PERFORM visrec._grant(to_regprocedure(format('%s(%s)', name, arguments)), acl);
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
COMMENT ON FUNCTION visrec._make_function(regclass, jsonb, text, text, text, text, text, text) IS
    'Writes one of a table''s functions: owned by the table''s owner, dropped with the extension.';

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

CREATE OR REPLACE FUNCTION visrec._make_triggers(relation regclass, config jsonb) RETURNS regprocedure
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

    function := visrec._make_function(relation, config, 'visrec_embed_', '',
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
    RETURN function;
END
$$;
COMMENT ON FUNCTION visrec._make_triggers(regclass, jsonb) IS
    'Writes the triggers that keep a table''s vectors current. One BEFORE UPDATE trigger takes away the vector of a '
    'changed image, so that no row ever shows the vector of another picture; the statement''s end brings the new ones.';

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

CREATE OR REPLACE FUNCTION visrec._write(relation regclass, config jsonb) RETURNS void
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

CREATE OR REPLACE FUNCTION visrec._kept(relation regclass) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_object_agg(c.key, c.value)
    FROM pg_trigger AS t, jsonb_each(visrec._config(t.tgargs)) AS c
    WHERE t.tgrelid = relation AND t.tgname = 'visrec_insert' AND NOT t.tgisinternal
      AND c.key IN ('events', 'index_method', 'index_metric', 'reduction')
$$;
COMMENT ON FUNCTION visrec._kept(regclass) IS 'What of an attachment stays when visrec.attach is called again.';

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

CREATE OR REPLACE FUNCTION visrec.detach(relation regclass, drop_vectors boolean DEFAULT false) RETURNS void
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

CREATE OR REPLACE FUNCTION visrec._index_parts(names jsonb, config jsonb, OUT method text, OUT metric text, OUT access name,
    OUT opclass name, OUT expression text, OUT operator text, OUT most integer, OUT dimension integer, OUT fill jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    schema text := names ->> 'vector_schema';
BEGIN
    SELECT m.dimension INTO dimension FROM visrec.model AS m WHERE m.name = config ->> 'model';
    fill := names || jsonb_build_object('dimension', dimension, 'reduction', config #>> '{reduction,function}',
        'dims', config #>> '{reduction,dims}');
    method := coalesce(config ->> 'index_method', 'hnsw');
    metric := coalesce(config ->> 'index_metric', 'cosine');
    -- the most numbers that pgvector indexes, and what it indexes
    SELECT i.access, CASE i.type WHEN 'bit' THEN 'bit_hamming_ops' ELSE i.type || m.ops END, i.most,
           i.expression,
           format('OPERATOR(%s.%s)', schema, CASE i.type WHEN 'bit' THEN '<~>' ELSE m.operator END)
    INTO access, opclass, most, expression, operator
    FROM (VALUES
        ('hnsw', 'hnsw', 'vector', 2000, '@it@'),
        ('hnsw_half', 'hnsw', 'halfvec', 4000, '(@it@::@vector_schema@.halfvec(@dimension@))'),
        ('hnsw_binary', 'hnsw', 'bit', 64000, '(@vector_schema@.binary_quantize(@it@)::bit(@dimension@))'),
        ('hnsw_reduced', 'hnsw', 'vector', NULL, '(@reduction@(@it@)::@vector_schema@.vector(@dims@))'),
        ('ivfflat', 'ivfflat', 'vector', 2000, '@it@'),
        ('none', NULL, 'vector', NULL, '@it@')
    ) AS i (method, access, type, most, expression),
    (VALUES ('cosine', '_cosine_ops', '<=>'), ('inner_product', '_ip_ops', '<#>'), ('l2', '_l2_ops', '<->'))
        AS m (metric, ops, operator)
    WHERE i.method = _index_parts.method AND m.metric = _index_parts.metric;
END
$$;
COMMENT ON FUNCTION visrec._index_parts(jsonb, jsonb) IS
    'What an attachment''s index is made of: expression is what is indexed, a template to be filled with fill and the '
    'vector, it; operator is NULL where there is no such method or metric.';

CREATE OR REPLACE FUNCTION visrec._index_names(names jsonb, config jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts record;
    ordering text;
    variable text;              -- what a projection is kept in, which would be made anew for each row
    reduce_query text := '';
    -- $2 is k in the functions that this is filled into. How many rows the index gives for k wanted ones: bits tell near rows from nearer ones only roughly, and fewer
    -- numbers, too.
    pool text := '$2';
    -- How many rows HNSW keeps in view (ef_search), 1000 at most: pgvector's default, 40, unless more rows are wanted. Of
    -- 100,000 made-up vectors that finds 0.988 of the nearest ten; 64 finds 0.998 and 100 0.9998, for 1.2 and 1.4 times the
    -- time (python -m benchmarks.searching). A larger hnsw.ef_search of the session's is kept.
    width text := 'least(greatest(2 * $2, 40), 1000)';
BEGIN
    SELECT * INTO parts FROM visrec._index_parts(names, config);
    ordering := visrec._fill(parts.expression, parts.fill || jsonb_build_object('it', 't.' || (names ->> 'vector')))
        || ' ' || parts.operator || ' ';
    IF parts.method = 'hnsw_reduced' THEN
        pool := 'greatest(10 * least($2, 1000), 100)';
        width := 'least(greatest(10 * $2, 100) + 1, 1000)';
        variable := 'visrec_reduced';
        reduce_query := visrec._fill('visrec_reduced := @reduction@(visrec_query);', parts.fill);
    ELSIF parts.method = 'hnsw_binary' THEN
        pool := 'greatest(20 * least($2, 1000), 200)';
        width := 'least(greatest(20 * $2, 200) + 1, 1000)';
    ELSIF parts.method = 'ivfflat' THEN
        width := format('visrec._probes(%s)', names ->> 'relation');
    END IF;
    RETURN jsonb_build_object(
        'pool', pool, 'width', width,
        -- HNSW goes on until it has k rows that the filter leaves, but finds better ones when it begins wide enough.
        'width_filtered', CASE parts.method WHEN 'ivfflat' THEN width
            ELSE format('least(greatest(%s, 2 * visrec_pool / share), 1000)::integer', width) END,
        'exact', CASE parts.method WHEN 'none' THEN 'true' ELSE '$2 >= 1000' END,
        'width_setting', CASE parts.method WHEN 'ivfflat' THEN '''ivfflat.probes''' ELSE '''hnsw.ef_search''' END,
        -- Costs are far from what these plans cost: compiling one takes longer than running it.
        'settings', 'SET search_path = pg_catalog, pg_temp SET jit = off '
            || CASE parts.method WHEN 'ivfflat' THEN 'SET ivfflat.iterative_scan = relaxed_order'
               ELSE 'SET hnsw.iterative_scan = strict_order' END,
        -- as the index has it, or the planner does not use it
        'order_by_variable', ordering || coalesce(variable,
            visrec._fill(parts.expression, parts.fill || '{"it": "visrec_query"}')),
        'reduced_query', CASE WHEN variable IS NULL THEN '' ELSE format('visrec_reduced %s.vector;', names ->> 'vector_schema') END,
        'reduce_query', reduce_query,
        'order_by_parameter', ordering || visrec._fill(parts.expression, parts.fill || '{"it": "$2"}'));
END
$$;
COMMENT ON FUNCTION visrec._index_names(jsonb, jsonb) IS
    'What a table''s search functions are filled with for its index: how they order by it and how wide they search.';

CREATE OR REPLACE FUNCTION visrec._probes(relation regclass) RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- The square root of the lists, as pgvector advises; twice that, since neighbours lie across borders.
    SELECT greatest(1, ceil(2 * sqrt(max(o.option_value::integer))))::integer
    FROM pg_index AS x
    JOIN pg_class AS c ON c.oid = x.indexrelid
    JOIN pg_am AS m ON m.oid = c.relam AND m.amname = 'ivfflat'
    CROSS JOIN pg_options_to_table(c.reloptions) AS o
    WHERE x.indrelid = relation AND o.option_name = 'lists'
$$;
COMMENT ON FUNCTION visrec._probes(regclass) IS 'How many of its ivfflat index''s lists a search of a table looks at.';

CREATE OR REPLACE FUNCTION visrec._vector_indexes(relation regclass, vector_column name) RETURNS TABLE (
    index regclass, access name, opclass name, plain boolean, made boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.indexrelid::regclass, m.amname, o.opcname, x.indkey[0] = a.attnum,
           visrec._depends_on_extension('pg_class', x.indexrelid)
    FROM pg_index AS x
    JOIN pg_class AS c ON c.oid = x.indexrelid
    JOIN pg_am AS m ON m.oid = c.relam AND m.amname IN ('hnsw', 'ivfflat')
    JOIN pg_opclass AS o ON o.oid = x.indclass[0]
    JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attname = vector_column
    WHERE x.indrelid = relation AND x.indpred IS NULL AND x.indisvalid
      AND EXISTS (SELECT FROM pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND d.refobjsubid = a.attnum)
$$;
COMMENT ON FUNCTION visrec._vector_indexes(regclass, name) IS
    'The vector indexes of a column, or of an expression on it (plain: of the column itself); made: by visrec.';

CREATE OR REPLACE FUNCTION visrec._build_index(relation regclass, names jsonb, parts record) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    workers text := current_setting('max_parallel_maintenance_workers');
    version int[] := (SELECT string_to_array(e.extversion, '.')::int[] FROM pg_extension AS e WHERE e.extname = 'vector');
    others oid[] := ARRAY(SELECT x.indexrelid FROM pg_index AS x WHERE x.indrelid = relation);
    rows bigint;
    options text := '';
BEGIN
    IF parts.access = 'ivfflat' THEN    -- as pgvector advises
        EXECUTE visrec._fill('SELECT count(t.@vector@) FROM @table@ AS t', names) INTO rows;
        options := format('WITH (lists = %s)',
            least(greatest(CASE WHEN rows <= 1000000 THEN rows / 1000 ELSE sqrt(rows) END::integer, 1), 32768));
    END IF;
    IF version < '{0,8,2}' THEN     -- earlier ones can overflow in a parallel build
        PERFORM set_config('max_parallel_maintenance_workers', '0', true);
    END IF;
    EXECUTE format('CREATE INDEX ON %s USING %I (%s %s.%I) %s', names ->> 'table', parts.access,
        '(' || visrec._fill(parts.expression, parts.fill || jsonb_build_object('it', names -> 'vector')) || ')',
        names ->> 'vector_schema', parts.opclass, options);
    PERFORM set_config('max_parallel_maintenance_workers', workers, true);
    EXECUTE format('ALTER INDEX %s DEPENDS ON EXTENSION visrec', (
        SELECT x.indexrelid::regclass FROM pg_index AS x WHERE x.indrelid = relation AND x.indexrelid <> ALL (others)));
END
$$;
COMMENT ON FUNCTION visrec._build_index(regclass, jsonb, record) IS 'Builds an index, which goes with the extension.';

CREATE OR REPLACE FUNCTION visrec._drop_indexes(indexes regclass[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    index regclass;
BEGIN
    FOREACH index IN ARRAY indexes LOOP
        EXECUTE format('DROP INDEX %s', index);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_indexes(regclass[]) IS 'Drops indexes.';

CREATE OR REPLACE FUNCTION visrec._make_index(relation regclass, config jsonb, rebuild boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := (SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n);
    parts record;
    present boolean;
BEGIN
    SELECT * INTO parts FROM visrec._index_parts(names, config);
    -- Of an expression, only what visrec made is known to be the one.
    SELECT bool_or(i.made AND NOT rebuild OR i.plain AND NOT i.made) INTO present
    FROM visrec._vector_indexes(relation, (config ->> 'vector_column')::name) AS i
    WHERE i.access = parts.access AND i.opclass = parts.opclass;
    IF parts.method = 'none' OR present THEN
        RETURN;
    ELSIF parts.dimension > parts.most THEN
        RAISE NOTICE USING
            MESSAGE = format('no index on column %s: %s indexes vectors of at most %s numbers', names ->> 'vector',
                parts.method, parts.most),
            DETAIL = format('The model''s vectors have %s; searches scan the table.', parts.dimension),
            HINT = format('SELECT visrec.reindex(%L, %L);', relation,
                CASE WHEN parts.dimension <= 4000 THEN 'hnsw_half' ELSE 'hnsw_binary' END);
        RETURN;
    END IF;
    PERFORM visrec._build_index(relation, names, parts);
END
$$;
COMMENT ON FUNCTION visrec._make_index(regclass, jsonb, boolean) IS
    'Builds the index of an attachment, unless the column has one.';

CREATE OR REPLACE FUNCTION visrec._check_index(relation regclass, config jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts record;
BEGIN
    SELECT * INTO parts FROM visrec._index_parts((SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n), config);
    IF parts.method = 'hnsw_reduced' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'the method "hnsw_reduced" needs a number of dimensions',
            HINT = format('SELECT * FROM visrec.reduce(%L, 128);', relation);
    ELSIF parts.operator IS NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('there is no index with the method "%s" and the metric "%s"', config ->> 'index_method',
                config ->> 'index_metric'),
            HINT = 'Methods: hnsw, hnsw_half, hnsw_binary, ivfflat, none. Metrics: cosine, inner_product, l2.';
    ELSIF parts.dimension IS NULL THEN
        RAISE undefined_object USING
            MESSAGE = format('model "%s" is not registered', config ->> 'model'),
            HINT = format('SELECT visrec.register_model(%L);', config ->> 'model');
    ELSIF parts.dimension > parts.most THEN
        RAISE program_limit_exceeded USING
            MESSAGE = format('cannot index the vectors of table "%s" with the method "%s"', relation, parts.method),
            DETAIL = format('They have %s numbers, and it takes at most %s.', parts.dimension, parts.most),
            HINT = format('Methods that take them: %s.', concat_ws(', ',
                CASE WHEN parts.dimension <= 4000 THEN 'hnsw_half (at most 4000)' END,
                CASE WHEN parts.dimension <= 64000 THEN 'hnsw_binary (at most 64000)' END, 'none'));
    ELSIF config ->> 'source_column' IS NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('table "%s" was attached under an earlier version', relation),
            HINT = 'Attach it again: SELECT visrec.attach(…).';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_index(regclass, jsonb) IS 'An error for an index that cannot be made.';

CREATE OR REPLACE FUNCTION visrec._replace_index(relation regclass, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    replaced regclass[];
BEGIN
    SELECT coalesce(array_agg(i.index), '{}') INTO replaced
    FROM visrec._vector_indexes(relation, (config ->> 'vector_column')::name) AS i WHERE i.made;
    -- The long part first: until the short rest, searches go on with the index before.
    PERFORM visrec._make_index(relation, config, rebuild => true);
    PERFORM visrec._write(relation, config);
    PERFORM visrec._drop_indexes(replaced);
    PERFORM visrec._drop_reductions(config);
END
$$;
COMMENT ON FUNCTION visrec._replace_index(regclass, jsonb) IS
    'Builds the index of an attachment that is changed, has the functions use it, and drops those before.';

CREATE OR REPLACE FUNCTION visrec.reindex(relation regclass, method text DEFAULT 'hnsw', metric text DEFAULT 'cosine') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation) - 'reduction'
        || jsonb_build_object('index_method', coalesce(method, 'NULL'), 'index_metric', coalesce(metric, 'NULL'));
BEGIN
    PERFORM visrec._check_owner(relation);
    PERFORM visrec._check_index(relation, config);
    PERFORM visrec._replace_index(relation, config);
END
$$;
COMMENT ON FUNCTION visrec.reindex(regclass, text, text) IS
    'Builds the index of a table''s vectors anew, and has its search functions use it. method: hnsw; hnsw_half (half the '
    'size, of half-precision numbers); hnsw_binary (a fraction of the size, of one bit a number; finds candidates, which '
    'are compared by the vectors themselves); ivfflat (built faster, searched slower; build it when the rows are there); '
    'none (every row is compared: exact). metric: cosine, inner_product or l2, which order unit vectors alike, so that '
    'results are the same; similarity is the cosine whichever. Only what visrec made is dropped. Rows can be read '
    'meanwhile, not written. For a large load: reindex with none, load or backfill, then reindex with hnsw: building once '
    'is faster than growing.';

CREATE OR REPLACE FUNCTION visrec._reductions(config jsonb) RETURNS TABLE (function regprocedure, number integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.oid::regprocedure, n
    FROM generate_series(1, 99) AS n
    JOIN pg_proc AS p ON p.proname = visrec._function_name('visrec_reduced_', config ->> 'functions_name', '_' || n)
    JOIN pg_namespace AS s ON s.oid = p.pronamespace AND s.nspname = config ->> 'functions_schema'
$$;
COMMENT ON FUNCTION visrec._reductions(jsonb) IS 'The functions that project a table''s vectors, and their numbers.';

CREATE OR REPLACE FUNCTION visrec._drop_reductions(config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unused regprocedure;
BEGIN
    FOR unused IN
        SELECT r.function FROM visrec._reductions(config) AS r
        WHERE visrec._depends_on_extension('pg_proc', r.function) AND NOT EXISTS (
            SELECT FROM pg_depend AS d WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = r.function)
    LOOP
        EXECUTE format('DROP FUNCTION %s', unused);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_reductions(jsonb) IS 'Drops those of a table''s projections that no index is made of.';

CREATE OR REPLACE FUNCTION visrec._make_reduction(relation regclass, config jsonb, components jsonb) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := (SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n);
    -- Not the function in use: its index is made of what that gave when it was built.
    number integer := (SELECT min(n) FROM generate_series(1, 99) AS n
                       WHERE n NOT IN (SELECT r.number FROM visrec._reductions(config) AS r));
BEGIN
    PERFORM visrec._make_function(relation, config, 'visrec_reduced_', '_' || number,
        arguments => visrec._fill('@vector_schema@.vector', names),
        declaration => visrec._fill('@vector_schema@.vector) RETURNS @vector_schema@.vector LANGUAGE plpgsql '
            'IMMUTABLE STRICT PARALLEL SAFE', names),
        comment => format('A vector of %s on %s principal components, fitted to the vectors of the model with the '
            'fingerprint %s.', relation, jsonb_array_length(components), config ->> 'fingerprint'),
        -- One expression, which PL/pgSQL evaluates by itself, on a copy: the vector in the table would be fetched for
        -- each component. <#> is minus the inner product.
        body => visrec._fill(E'\nDECLARE\n    v CONSTANT @vector_schema@.vector := @vector_schema@.subvector($1, 1, 16000);\n'
            'BEGIN\n    RETURN ARRAY[\n@rows@\n    ]::@vector_schema@.vector;\nEND\n',
            names || jsonb_build_object('rows', (
                SELECT string_agg(visrec._fill('        @row@::@vector_schema@.vector OPERATOR(@vector_schema@.<#>) v',
                    names || jsonb_build_object('row', quote_literal(c.row))), E',\n' ORDER BY c.n)
                FROM jsonb_array_elements_text(components) WITH ORDINALITY AS c (row, n)))));
    RETURN format('%I.%I', config ->> 'functions_schema',
        visrec._function_name('visrec_reduced_', config ->> 'functions_name', '_' || number));
END
$$;
COMMENT ON FUNCTION visrec._make_reduction(regclass, jsonb, jsonb) IS
    'Writes visrec_reduced_<table>_<number>, which projects a vector, and returns its name.';

CREATE OR REPLACE FUNCTION visrec._checked_reduction(relation regclass, config jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dims text := config #>> '{reduction,dims}';
BEGIN
    IF dims IS NULL OR config #>> '{reduction,fingerprint}' = config ->> 'fingerprint'
        AND to_regproc(config #>> '{reduction,function}') IS NOT NULL
    THEN
        RETURN config;
    END IF;
    RAISE NOTICE USING
        MESSAGE = format('the index of table "%s" is no longer reduced to %s dimensions', relation, dims),
        DETAIL = 'They were fitted to another model''s vectors, or their function is gone.',
        HINT = format('SELECT * FROM visrec.reduce(%L, %s);', relation, dims);
    RETURN config - '{reduction,index_method,index_metric}'::text[];
END
$$;
COMMENT ON FUNCTION visrec._checked_reduction(regclass, jsonb) IS
    'An attachment that is made anew, without a reduction that does not go with it.';

CREATE OR REPLACE FUNCTION visrec._sample(relation regclass, config jsonb, dimension integer, OUT vectors bytea, OUT size bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := (SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n);
    most integer := least(10000, 20000000 / dimension);
BEGIN
    EXECUTE visrec._fill($query$
        SELECT string_agg(substr(@vector_schema@.vector_send(s.vector), 5), ''), count(*)      -- without its head
        FROM (SELECT t.@vector@ AS vector FROM @table@ AS t
              WHERE t.@vector@ IS NOT NULL AND (t.@source@ >> 32 = $2) IS NOT FALSE ORDER BY @draw@ LIMIT $1) AS s
        $query$, names || jsonb_build_object('draw', visrec._draw(names ->> 'key_text')))
    INTO vectors, size USING most, visrec._weights(config ->> 'fingerprint');
END
$$;
COMMENT ON FUNCTION visrec._sample(regclass, jsonb, integer) IS
    'At most 10,000 vectors of a table, the same each time, as float4 on end.';

CREATE OR REPLACE FUNCTION visrec.reduce(relation regclass, dims integer, OUT variance double precision,
    OUT neighbours double precision, OUT recall double precision)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    dimension integer := (SELECT m.dimension FROM visrec.model AS m WHERE m.name = config ->> 'model');
    sample record;
    fitted jsonb;
BEGIN
    PERFORM visrec._check_owner(relation);
    PERFORM visrec._check_index(relation, config || '{"index_method": "none", "index_metric": "cosine"}');
    SELECT * INTO sample FROM visrec._sample(relation, config, dimension);
    IF dims IS NULL OR dims < 1 OR dims >= dimension OR dims > 2000 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('cannot reduce vectors of %s numbers to %s', dimension, coalesce(dims::text, 'NULL')),
            DETAIL = format('It takes from 1 to %s.', least(dimension - 1, 2000));
    ELSIF sample.size <= dims THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('cannot fit %s components to the %s vectors of table "%s"', dims, sample.size, relation),
            HINT = 'Reduce when the rows are there.';
    END IF;
    fitted := visrec._principal_components(sample.vectors, dimension, dims);
    IF fitted ? 'error' THEN
        PERFORM visrec._raise(fitted -> 'error', format('could not reduce the vectors of table "%s"', relation));
    END IF;
    PERFORM visrec._replace_index(relation, config || jsonb_build_object(
        'index_method', 'hnsw_reduced', 'index_metric', 'l2', 'reduction', jsonb_build_object(
            'function', visrec._make_reduction(relation, config, fitted -> 'components'), 'dims', dims,
            'fingerprint', config ->> 'fingerprint')));
    SELECT f.variance, f.neighbours, f.recall INTO variance, neighbours, recall
    FROM jsonb_to_record(fitted) AS f (variance float8, neighbours float8, recall float8);
END
$$;
COMMENT ON FUNCTION visrec.reduce(regclass, integer) IS
    'Builds the index of a table''s vectors on dims numbers instead of all: their first principal components, fitted to '
    'at most 10,000 of them. The index shrinks; it finds candidates, 10 for each row wanted, which are compared by '
    'the vectors themselves, and those stay as they are. What is lost, for 100 rows of the sample: variance, the share of '
    'the variance that is kept; neighbours, of the ten nearest rows those that are also among the ten nearest by the '
    'components alone; recall, those among the 100 candidates. visrec.recall measures the whole table; visrec.reindex '
    'goes back. For the table''s owner. Source: Jolliffe, Principal Component Analysis, 2002.';
REVOKE ALL ON FUNCTION visrec.reduce(regclass, integer) FROM PUBLIC;

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

CREATE OR REPLACE FUNCTION visrec._make_backfill(relation regclass, config jsonb) RETURNS regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    function regprocedure;
BEGIN
    function := visrec._make_function(relation, config, 'visrec_backfill_', '',
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
    RETURN function;
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

CREATE OR REPLACE FUNCTION visrec._check_evaluation(k integer[], sample integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(cardinality(k), 0) = 0 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'k must name at least one number of neighbours',
            HINT = 'For example ''{1,5,10}''.';
    ELSIF EXISTS (SELECT FROM unnest(k) AS c WHERE c IS NULL OR c < 1) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('k must be at least 1, not %s', (
                SELECT coalesce(c::text, 'NULL') FROM unnest(k) AS c WHERE c IS NULL OR c < 1 LIMIT 1));
    ELSIF sample < 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('sample must be at least 1, not %s', sample),
            HINT = 'NULL takes all.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_evaluation(integer[], integer) IS 'An error for arguments that no evaluation takes.';

CREATE OR REPLACE FUNCTION visrec._evaluated_column(relation regclass, name name, strategy integer) RETURNS pg_attribute
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found pg_attribute;
BEGIN
    SELECT a.* INTO found FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped;
    IF found.attname IS NULL THEN
        RAISE undefined_column USING
            MESSAGE = format('table "%s" has no column "%s"', relation, name),
            HINT = visrec._columns_hint(relation);
    ELSIF visrec._comparison(found.atttypid, strategy) IS NULL THEN
        RAISE feature_not_supported USING
            MESSAGE = format('column "%s" of table "%s" cannot be used here: values of type %s are not compared',
                name, relation, format_type(found.atttypid, found.atttypmod));
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION visrec._evaluated_column(regclass, name, integer) IS
    'A column by its name, or an error: undefined_column where there is none, feature_not_supported where its type has '
    'no such comparison (strategy as for visrec._comparison: 1 <, 3 =).';

CREATE OR REPLACE FUNCTION visrec._made_function(relation regclass, config jsonb, prefix text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name name := visrec._function_name(prefix, config ->> 'functions_name');
BEGIN
    IF NOT EXISTS (SELECT FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
                   WHERE n.nspname = config ->> 'functions_schema' AND p.proname = name) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('table "%s" has no function %I', relation, name),
            HINT = 'Attach the table again: SELECT visrec.attach(…).';
    END IF;
    RETURN format('%I.%I', config ->> 'functions_schema', name);
END
$$;
COMMENT ON FUNCTION visrec._made_function(regclass, jsonb, text) IS
    'The quoted name of one of the functions that attach wrote for a table, or an error that it is not there.';

CREATE OR REPLACE FUNCTION visrec._draw(key_text text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.format('sha256(convert_to(%1$s, ''UTF8'')), %1$s COLLATE "C"', key_text);
COMMENT ON FUNCTION visrec._draw(text) IS
    'What to order by for a sample that has nothing to do with the rows'' content, and is the same each time: the '
    'SHA-256 of the key, as text.';

CREATE OR REPLACE FUNCTION visrec._measures(hits boolean[], relevant bigint, k integer, OUT "precision" double precision,
    OUT recall double precision, OUT ap double precision, OUT ndcg double precision, OUT hit double precision)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce(sum(r.hit), 0)::double precision / k,
           coalesce(sum(r.hit), 0)::double precision / relevant,
           coalesce(sum(r.hit * r.found / r.place::double precision), 0) / least(k, relevant),
           coalesce(sum(r.hit / ln(r.place + 1::double precision)), 0)
               / (SELECT sum(1 / ln(i + 1::double precision)) FROM generate_series(1, least(k, relevant)) AS i),
           coalesce(max(r.hit), 0)
    FROM (SELECT h.hit::integer AS hit, h.place, sum(h.hit::integer) OVER (ORDER BY h.place) AS found
          FROM unnest(hits) WITH ORDINALITY AS h (hit, place) WHERE h.place <= k) AS r;

END;
COMMENT ON FUNCTION visrec._measures(boolean[], bigint, integer) IS
    'One list of results, hits telling at each place whether it is relevant, measured at k; relevant > 0 is how many '
    'relevant rows there are. precision: relevant ones among the first k, divided by k, also where the list is shorter. '
    'recall: the same count divided by relevant. ap: the sum, over the places i <= k that are relevant, of precision '
    'at i, divided by min(k, relevant) (so 1 is the best there can be; trec_eval''s map_cut divides by relevant). '
    'ndcg: the sum of 1 / log2(i + 1) over the same places, divided by what min(k, relevant) relevant ones at the top '
    'would have (Järvelin and Kekäläinen 2002, gains of 0 or 1). hit: 1 where one of the first k is relevant, else 0.';

CREATE OR REPLACE FUNCTION visrec._recall_of_one(names jsonb, id text, k integer,
    OUT recall double precision, OUT by_index double precision, OUT one_by_one double precision)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Distances that differ by less are of rows as near as each other.
    tolerance CONSTANT double precision := 1e-9;
    found double precision[];
    wanted bigint;
    farthest double precision;
    began timestamptz := clock_timestamp();
    between_both timestamptz;
BEGIN
    EXECUTE visrec._fill('SELECT array_agg(1 - r.similarity) FROM @similar@($1::@key_type@, $2) AS r', names)
    INTO found USING id, k;
    between_both := clock_timestamp();
    EXECUTE visrec._fill($query$
        SELECT count(*), max(n.distance)
        FROM (SELECT (t.@vector@ @distance@ (SELECT q.@vector@ FROM @table@ AS q WHERE q.@key@ @equals@ $1::@key_type@))
                     + 0 AS distance        -- the sum keeps the index out
              FROM @table@ AS t WHERE t.@vector@ IS NOT NULL AND NOT t.@key@ @equals@ $1::@key_type@
              ORDER BY 1 LIMIT $2) AS n
        WHERE n.distance <> 'NaN'           -- of a vector without a direction
        $query$, names) INTO wanted, farthest USING id, k;
    by_index := extract(epoch FROM between_both - began) * 1000;
    one_by_one := extract(epoch FROM clock_timestamp() - between_both) * 1000;
    IF wanted > 0 THEN
        recall := (SELECT count(*) FROM unnest(found) AS f WHERE f <= farthest + tolerance)::double precision / wanted;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._recall_of_one(jsonb, text, integer) IS
    'How many of a row''s k nearest similar_<table> finds, and how many milliseconds that and an exact search took.';

CREATE OR REPLACE FUNCTION visrec.recall(relation regclass, k integer DEFAULT 10, sample integer DEFAULT 100, OUT queries bigint,
    OUT recall double precision, OUT worst double precision, OUT index_ms double precision, OUT exact_ms double precision)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    config jsonb := visrec._attachment(relation);
    names jsonb;
    id text;
    one record;
    recalls double precision[] := '{}';
    by_index double precision[] := '{}';
    one_by_one double precision[] := '{}';
BEGIN
    PERFORM visrec._check_evaluation(ARRAY[k], sample);
    names := visrec._search_names(relation, config)
        || jsonb_build_object('similar', visrec._made_function(relation, config, 'similar_'));
    FOR id IN EXECUTE visrec._fill('SELECT @key_text@ FROM @table@ AS t WHERE t.@vector@ IS NOT NULL ORDER BY @draw@ '
        'LIMIT $1', names || jsonb_build_object('draw', visrec._draw(names ->> 'key_text'))) USING sample
    LOOP
        one := visrec._recall_of_one(names, id, k);
        IF one.recall IS NOT NULL THEN
            recalls := recalls || one.recall;
            by_index := by_index || one.by_index;
            one_by_one := one_by_one || one.one_by_one;
        END IF;
    END LOOP;
    queries := cardinality(recalls);
    SELECT avg(r), min(r) INTO recall, worst FROM unnest(recalls) AS r;
    index_ms := (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY m) FROM unnest(by_index) AS m);
    exact_ms := (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY m) FROM unnest(one_by_one) AS m);
    IF queries = 0 THEN
        RAISE NOTICE USING
            MESSAGE = format('table "%s" has no two vectors to compare', relation),
            HINT = format('SELECT * FROM visrec.coverage(%L);', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec.recall(regclass, integer, integer) IS
    'How many of a row''s k nearest similar_<table> finds: for sample rows with a vector (NULL: all), a share from 0 to '
    '1, the mean and the worst of them. A row that is returned counts if it is no farther (by 1e-9) than the k-th '
    'nearest of an exact search; where fewer than k other rows have a vector, of those. The sample is the first by '
    'the SHA-256 of the keys, so the same table gives the same. index_ms and exact_ms: the median milliseconds of a '
    'call of similar_<table> and of the exact search. Errors: invalid_parameter_value for k or sample below 1; '
    'object_not_in_prerequisite_state where the table is not attached, or has vectors of another model.';

CREATE OR REPLACE FUNCTION visrec._evaluate(relation regclass, label_column name, ks integer[], sample integer)
RETURNS TABLE (category text, k integer, queries bigint, "precision" double precision, recall double precision,
    map double precision, ndcg double precision, hit_rate double precision)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    names jsonb := (SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n);
    label pg_attribute;
    alone bigint;
BEGIN
    PERFORM visrec._check_evaluation(ks, sample);
    label := visrec._evaluated_column(relation, label_column, 3);
    names := names || jsonb_build_object(
        'similar', visrec._made_function(relation, config, 'similar_'), 'draw', visrec._draw('l.key'),
        'label', format('%I', label_column), 'same', visrec._comparison(label.atttypid, 3),
        'label_text', visrec._key_text(format('t.%I', label_column), visrec._base_type(label.atttypid)));
    RETURN QUERY EXECUTE visrec._fill($query$
        WITH labelled AS (
            SELECT t.@key@ AS id, @key_text@ AS key, t.@label@ AS label, count(*) OVER w - 1 AS others,
                   min((@label_text@) COLLATE "C") OVER w AS category
            FROM @table@ AS t WHERE t.@vector@ IS NOT NULL AND t.@label@ IS NOT NULL
            WINDOW w AS (PARTITION BY t.@label@)
        ), asked AS (
            SELECT * FROM labelled AS l WHERE l.others > 0 ORDER BY @draw@ LIMIT $2
        ), answered AS MATERIALIZED (
            SELECT a.category, a.others, ARRAY(
                SELECT coalesce(t.@label@ @same@ a.label, false)
                FROM (SELECT r.id, row_number() OVER () AS place FROM @similar@(a.id, $3) AS r) AS s
                JOIN @table@ AS t ON t.@key@ @equals@ s.id
                ORDER BY s.place) AS hits
            FROM asked AS a
        )
        SELECT a.category, c.k, count(*), avg(m."precision"), avg(m.recall), avg(m.ap), avg(m.ndcg), avg(m.hit)
        FROM answered AS a, (SELECT DISTINCT u.k FROM unnest($1) AS u (k)) AS c,
             visrec._measures(a.hits, a.others, c.k) AS m
        GROUP BY GROUPING SETS ((a.category, c.k), (c.k))
        ORDER BY a.category NULLS FIRST, c.k
        $query$, names) USING ks, sample, (SELECT max(u.k) FROM unnest(ks) AS u (k));
    EXECUTE visrec._fill('SELECT count(*) FROM (SELECT FROM @table@ AS t WHERE t.@vector@ IS NOT NULL AND t.@label@ '
        'IS NOT NULL GROUP BY t.@label@ HAVING count(*) = 1) AS s', names) INTO alone;
    IF alone > 0 THEN
        RAISE NOTICE '% rows are left out: no other row with a vector has their value of "%"', alone, label_column;
    ELSIF NOT FOUND THEN
        RAISE NOTICE USING
            MESSAGE = format('table "%s" has no row with a vector and a value of "%s"', relation, label_column),
            HINT = format('SELECT * FROM visrec.coverage(%L);', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._evaluate(regclass, name, integer[], integer) IS 'What visrec.evaluate returns.';

CREATE OR REPLACE FUNCTION visrec.evaluate(relation regclass, label_column name, k integer[] DEFAULT '{1,5,10}',
    sample integer DEFAULT NULL)
RETURNS TABLE (category text, k integer, queries bigint, "precision" double precision, recall double precision,
    map double precision, ndcg double precision, hit_rate double precision)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- In SQL, since PL/pgSQL has no arguments and results of one name.
    SELECT * FROM visrec._evaluate($1, $2, $3, $4)
$$;
COMMENT ON FUNCTION visrec.evaluate(regclass, name, integer[], integer) IS
    'How well a row''s neighbours by similar_<table> share its label: each row with a vector and a label is a query '
    '(sample of them, the first by the SHA-256 of their keys, or all), the rest of the table is searched, and a result '
    'with the same label is relevant. One line for each k over all queries, with category NULL, and one for each '
    'category, each the mean over its queries of: precision, relevant ones among the first k / k; recall, the same / R, '
    'R being the other rows with a vector and that label; map, the mean of AP = the sum of precision at i over the '
    'relevant places i <= k, / min(k, R); ndcg, the sum of 1 / log2(i + 1) over those places / the most it could be, '
    'with min(k, R) of them (Järvelin and Kekäläinen 2002); hit_rate, whether there is any. All are from 0 to 1. Rows '
    'without a label are no queries and never relevant; queries with R = 0 are left out, with a NOTICE. Errors: '
    'invalid_parameter_value for k or sample below 1; undefined_column; feature_not_supported for a label that is not '
    'compared; object_not_in_prerequisite_state where the table is not attached, or has vectors of another model.';

CREATE OR REPLACE FUNCTION visrec._check_evaluate_taste(k integer[], holdout double precision, strategies text[], sample integer)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM visrec._check_evaluation(k, sample);
    PERFORM visrec._check_recommend('{0}', s, 0) FROM unnest(strategies) AS s;
    IF coalesce(cardinality(strategies), 0) = 0 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'strategies must name at least one',
            HINT = 'Strategies: mean, session (liked posts in order of time), best_score.';
    ELSIF holdout IS NULL OR NOT (holdout > 0 AND holdout < 1) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('holdout must be between 0 and 1, not %s', coalesce(holdout::text, 'NULL')),
            DETAIL = 'It is the share of each user''s items that is to be foretold.';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_evaluate_taste(integer[], double precision, text[], integer) IS
    'An error for arguments that visrec.evaluate_taste does not take.';

CREATE OR REPLACE FUNCTION visrec._taste_names(relation regclass, events regclass, user_column name, item_column name,
    at_column name) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    who pg_attribute := visrec._evaluated_column(events, user_column, 3);
    item pg_attribute := visrec._evaluated_column(events, item_column, 3);
    at pg_attribute := visrec._evaluated_column(events, at_column, 1);
    names jsonb := (SELECT to_jsonb(n) FROM visrec._names(relation, config) AS n);
BEGIN
    BEGIN
        EXECUTE format('SELECT NULL::%s::%s', format_type(item.atttypid, -1), names ->> 'key_type');
    EXCEPTION WHEN cannot_coerce THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" of table "%s" holds no keys of table "%s"', item_column, events, relation),
            DETAIL = format('It is of type %s, the key of type %s.', format_type(item.atttypid, item.atttypmod),
                names ->> 'key_type');
    END;
    RETURN names || jsonb_build_object(
        'recommend', visrec._made_function(relation, config, 'recommend_'),
        'events', events::text, 'draw', visrec._draw('h.who'),
        'user', format('e.%I', who.attname), 'item', format('e.%I', item.attname), 'at', format('e.%I', at.attname),
        'user_text', visrec._key_text(format('e.%I', who.attname), visrec._base_type(who.atttypid)));
END
$$;
COMMENT ON FUNCTION visrec._taste_names(regclass, regclass, name, name, name) IS
    'What the statements of visrec.evaluate_taste are filled with, or an error for a column that there is not.';

CREATE OR REPLACE FUNCTION visrec._evaluate_taste(relation regclass, events regclass, user_column name, item_column name,
    at_column name, ks integer[], holdout double precision, strategies text[], sample integer)
RETURNS TABLE (strategy text, k integer, users bigint, "precision" double precision, recall double precision,
    map double precision, ndcg double precision, hit_rate double precision)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb;
    short bigint;
BEGIN
    PERFORM visrec._check_evaluate_taste(ks, holdout, strategies, sample);
    names := visrec._taste_names(relation, events, user_column, item_column, at_column);
    RETURN QUERY EXECUTE visrec._fill($query$
        WITH met AS (               -- each item once, when the user first met it
            SELECT DISTINCT ON (@user@, t.@key@) @user@ AS who, @user_text@ AS name, t.@key@ AS id, @key_text@ AS key,
                   @at@ AS at
            FROM @events@ AS e JOIN @table@ AS t ON t.@key@ @equals@ @item@::@key_type@
            WHERE t.@vector@ IS NOT NULL AND @user@ IS NOT NULL AND @at@ IS NOT NULL
            ORDER BY @user@, t.@key@, @at@
        ), histories AS (
            SELECT min(v.name COLLATE "C") AS who, array_agg(v.id ORDER BY v.at, v.key COLLATE "C") AS ids,
                   -- less a trifle, as 0.07 * 100 is more than 7
                   count(*) - least(count(*) - 1, ceil(count(*) * $2 - 1e-9)::bigint) AS past
            FROM met AS v GROUP BY v.who HAVING count(*) >= 2
        ), asked AS (
            SELECT h.ids[:h.past] AS liked, h.ids[h.past + 1:] AS held_out
            FROM histories AS h ORDER BY @draw@ LIMIT $5
        ), answered AS MATERIALIZED (
            SELECT s.strategy, cardinality(a.held_out) AS relevant, ARRAY(
                SELECT r.id @equals@ ANY (a.held_out)
                FROM (SELECT r.id, row_number() OVER () AS place
                      FROM @recommend@(liked => a.liked, k => $3, strategy => s.strategy) AS r) AS r
                ORDER BY r.place) AS hits
            FROM asked AS a, (SELECT DISTINCT u.s FROM unnest($4) AS u (s)) AS s (strategy)
        )
        SELECT a.strategy, c.k, count(*), avg(m."precision"), avg(m.recall), avg(m.ap), avg(m.ndcg), avg(m.hit)
        FROM answered AS a, (SELECT DISTINCT u.k FROM unnest($1) AS u (k)) AS c,
             visrec._measures(a.hits, a.relevant, c.k) AS m
        GROUP BY a.strategy, c.k
        ORDER BY array_position($4, a.strategy), c.k
        $query$, names) USING ks, holdout, (SELECT max(u.k) FROM unnest(ks) AS u (k)), strategies, sample;
    EXECUTE visrec._fill($query$
        SELECT count(*) FROM (
            SELECT FROM @events@ AS e
            LEFT JOIN @table@ AS t ON t.@key@ @equals@ @item@::@key_type@ AND t.@vector@ IS NOT NULL
            WHERE @user@ IS NOT NULL GROUP BY @user@
            HAVING count(DISTINCT t.@key@) FILTER (WHERE @at@ IS NOT NULL) < 2) AS s
        $query$, names) INTO short;
    IF short > 0 THEN
        RAISE NOTICE '% users are left out: they have fewer than 2 items with a vector', short;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._evaluate_taste(regclass, regclass, name, name, name, integer[], double precision, text[],
    integer) IS 'What visrec.evaluate_taste returns.';

CREATE OR REPLACE FUNCTION visrec.evaluate_taste(relation regclass, events regclass, user_column name DEFAULT 'user_id',
    item_column name DEFAULT 'post_id', at_column name DEFAULT 'at', k integer[] DEFAULT '{5,10}',
    holdout double precision DEFAULT 0.5, strategies text[] DEFAULT '{mean,session}', sample integer DEFAULT NULL)
RETURNS TABLE (strategy text, k integer, users bigint, "precision" double precision, recall double precision,
    map double precision, ndcg double precision, hit_rate double precision)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    -- In SQL, since PL/pgSQL has no arguments and results of one name.
    SELECT * FROM visrec._evaluate_taste($1, $2, $3, $4, $5, $6, $7, $8, $9)
$$;
COMMENT ON FUNCTION visrec.evaluate_taste(regclass, regclass, name, name, name, integer[], double precision, text[],
    integer) IS
    'How well recommend_<table> foretells what users went on to: of each user''s n items in order of time, the last '
    'holdout · n (rounded up, at least one, at most n - 1) are held out; the earlier ones are what was liked, and '
    'results that were held out are relevant. An item counts once, when the user first met it, and so never as both; '
    'items without a vector and events with a NULL do not count; items of one time are in the order of their keys. One '
    'line for each strategy and k: the mean over users of the measures of visrec.evaluate, R being the items held out. '
    'sample takes that many users, the first by the SHA-256 of user_column as text; NULL takes all. Users with fewer '
    'than 2 items are left out, with a NOTICE. Errors: invalid_parameter_value for k or sample below 1, holdout not '
    'between 0 and 1, or an unknown strategy; undefined_column; feature_not_supported for a column that is not compared; '
    'datatype_mismatch where item_column cannot be cast to the key''s type; '
    'object_not_in_prerequisite_state where the table is not attached, or has vectors of another model.';

CREATE OR REPLACE FUNCTION visrec._near_pairs(relation regclass, config jsonb, k integer, max_distance double precision,
    OUT ids_a text[], OUT ids_b text[], OUT similarities double precision[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := visrec._search_names(relation, config);
    key_type oid := visrec._base_type(to_regtype(names ->> 'key_type'));
BEGIN
    EXECUTE visrec._fill($query$
        SELECT array_agg(@a_text@ ORDER BY p.a, p.b), array_agg(@b_text@ ORDER BY p.a, p.b),
               array_agg(p.similarity ORDER BY p.a, p.b)
        FROM (
            SELECT CASE WHEN n.id @greater@ t.@key@ THEN t.@key@ ELSE n.id END AS a,
                   CASE WHEN n.id @greater@ t.@key@ THEN n.id ELSE t.@key@ END AS b,
                   max(n.similarity) AS similarity
            FROM @table@ AS t CROSS JOIN LATERAL @similar@(t.@key@, $1, NULL, $2) AS n
            WHERE t.@vector@ IS NOT NULL
            GROUP BY 1, 2
        ) AS p
        $query$, names || jsonb_build_object('similar', visrec._made_function(relation, config, 'similar_'),
            'a_text', visrec._key_text('p.a', key_type), 'b_text', visrec._key_text('p.b', key_type)))
    INTO ids_a, ids_b, similarities USING k, max_distance;
END
$$;
COMMENT ON FUNCTION visrec._near_pairs(regclass, jsonb, integer, double precision) IS
    'Each row with its k nearest, no farther than max_distance: unordered pairs, each once, in the order of their keys.';

CREATE OR REPLACE FUNCTION visrec._random_similarities(relation regclass, config jsonb, pairs integer DEFAULT 2000)
RETURNS double precision[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sample double precision[];
BEGIN
    -- Rows in the order of a hash, each with those that come next: with the next one where there are many rows.
    EXECUTE visrec._fill($query$
        WITH chosen AS MATERIALIZED (
            SELECT s.id, row_number() OVER (ORDER BY s.hash, s.id) AS n, count(*) OVER () AS total
            FROM (SELECT t.@key@ AS id, hashtextextended(@key_text@, 0) AS hash FROM @table@ AS t
                  WHERE t.@vector@ IS NOT NULL ORDER BY 2, 1 LIMIT $1 + 1) AS s),
        pairs AS MATERIALIZED (
            SELECT a.id AS a, b.id AS b FROM chosen AS a JOIN chosen AS b ON b.n > a.n AND b.n <= a.n + 2 * $1 / a.total
            ORDER BY b.n - a.n, a.n LIMIT $1)
        SELECT array_agg(s.similarity ORDER BY s.similarity)
        FROM (SELECT 1 - (a.@vector@ @distance@ b.@vector@) AS similarity FROM pairs AS p
              JOIN @table@ AS a ON a.@key@ @equals@ p.a JOIN @table@ AS b ON b.@key@ @equals@ p.b) AS s
        WHERE s.similarity <> 'NaN'
        $query$, visrec._search_names(relation, config))
    INTO sample USING pairs;
    RETURN sample;
END
$$;
COMMENT ON FUNCTION visrec._random_similarities(regclass, jsonb, integer) IS
    'The similarities of so many random pairs of rows, in ascending order; the same pairs each time.';

CREATE OR REPLACE FUNCTION visrec.duplicates(relation regclass, k integer DEFAULT 5, max_distance double precision DEFAULT 0.1)
RETURNS TABLE (id_a text, id_b text, kind text, similarity double precision, percentile double precision)
LANGUAGE plpgsql ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    pairs record;
    answer jsonb;
    sample double precision[];
BEGIN
    PERFORM visrec._check_owner(relation);
    PERFORM visrec._check_search(k, max_distance);
    SELECT * INTO pairs FROM visrec._near_pairs(relation, config, k, max_distance);
    IF pairs.ids_a IS NULL THEN
        RETURN;
    END IF;
    answer := visrec._duplicate_kinds(relation, config, pairs.ids_a, pairs.ids_b);
    IF answer ? 'error' THEN
        PERFORM visrec._raise(answer -> 'error', format('could not compare the images of table "%s"', relation));
    END IF;
    sample := visrec._random_similarities(relation, config);
    RETURN QUERY
        SELECT p.a, p.b, p.kind, p.similarity, 100.0::float8 * width_bucket(p.similarity, sample) / cardinality(sample)
        FROM unnest(pairs.ids_a, pairs.ids_b, pairs.similarities,
            ARRAY(SELECT jsonb_array_elements_text(answer -> 'kinds'))) WITH ORDINALITY AS p (a, b, similarity, kind, n)
        ORDER BY array_position('{exact,near,similar}', p.kind), p.similarity DESC, p.n;
END
$$;
COMMENT ON FUNCTION visrec.duplicates(regclass, integer, double precision) IS
    'Pairs of rows that show the same picture or similar ones, each once, the surest first: of each row''s k nearest '
    'those no farther than max_distance. kind: exact (the same bytes), near (one picture saved twice: its perceptual '
    'hash and its colours) or similar (by their vectors alone; also where a picture cannot be read). percentile: the '
    'share of random pairs of the table that are no more similar. For the table''s owner.';
REVOKE ALL ON FUNCTION visrec.duplicates(regclass, integer, double precision) FROM PUBLIC;

CREATE OR REPLACE FUNCTION visrec.selftest(OUT "check" text, OUT ok boolean, OUT result text, OUT advice text) RETURNS SETOF record
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    root text;
    registered visrec.model;
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
    FOR registered IN SELECT m.* FROM visrec.model AS m ORDER BY m.name LOOP
        "check" := format('model %s', registered.name);
        answer := visrec._embed(registered.name, NULL, visrec._test_picture(), NULL);
        cosine := visrec._cosine(answer ->> 'embedding', registered.reference::text);
        -- The numbers it is computed in may have changed since: half or 8-bit ones are rounded.
        ok := coalesce(cosine >= CASE WHEN EXISTS (SELECT FROM visrec.encoder_status() AS e
            WHERE e.model = registered.name AND e.precision <> 'f32') THEN 0.99 ELSE 0.999 END, false);
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

CREATE OR REPLACE FUNCTION visrec._granted_functions() RETURNS SETOF regprocedure
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT unnest(ARRAY[
        'visrec.attach(regclass, name, name, text, text, text, name[])',
        'visrec.backfill(regclass, integer, bigint)',
        'visrec.retry(regclass)',
        'visrec.duplicates(regclass, integer, double precision)',
        'visrec.reduce(regclass, integer)',
        'visrec.embed_image(text, text)',
        'visrec.embed_image(bytea, text)',
        'visrec.embed_text(text, text)',
        'visrec._use_model(text)',
        'visrec._embed(text, text, bytea, text)',
        'visrec._embed_rows(oid, jsonb, text[])',
        'visrec._embed_queued(oid, jsonb)',
        'visrec._write_vectors(oid, jsonb, text[])',
        'visrec._backfill_batch(oid, jsonb, text, integer, integer)',
        'visrec._duplicate_kinds(oid, jsonb, text[], text[])',
        'visrec._principal_components(bytea, integer, integer)'
    ]::regprocedure[])
$$;

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
