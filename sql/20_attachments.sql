-- What is attached: finding an attachment, and reading it against the table as it is now.

CREATE FUNCTION visrec._label(relation oid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.nspname || '.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = relation
$$;
COMMENT ON FUNCTION visrec._label(oid) IS 'A table''s name for messages: with its schema, not quoted.';

CREATE FUNCTION visrec._check_owner(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT visrec._owns(relation) THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('must be owner of table "%s"', visrec._label(relation)),
            HINT = (SELECT format('Its owner is role "%s".', pg_get_userbyid(c.relowner)) FROM pg_class AS c WHERE c.oid = relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_owner(regclass) IS 'Raises an error unless the current role has the owner''s rights.';

CREATE FUNCTION visrec._columns_hint(relation regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('Columns: %s.', string_agg(a.attname, ', ' ORDER BY a.attnum)) FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION visrec._columns_hint(regclass) IS 'A table''s columns, for errors about one that does not exist.';

CREATE FUNCTION visrec._base_type(type oid) RETURNS oid
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    base oid;
BEGIN
    LOOP
        base := (SELECT t.typbasetype FROM pg_type AS t WHERE t.oid = type AND t.typtype = 'd');
        IF base IS NULL THEN
            RETURN type;
        END IF;
        type := base;
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._base_type(oid) IS 'The base type of a domain, also of a domain over a domain; else the type itself.';

CREATE FUNCTION visrec._type_name(type oid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN t.typnamespace <> 'pg_catalog'::regnamespace OR format_type(t.oid, -1) = ANY (
            '{bigint,integer,smallint,numeric,real,double precision,boolean,character varying,interval,'
            'timestamp with time zone,timestamp without time zone,time with time zone,time without time zone}')
        THEN format_type(t.oid, -1) ELSE format('pg_catalog.%I', t.typname) END
    FROM pg_type AS t WHERE t.oid = type
$$;
COMMENT ON FUNCTION visrec._type_name(oid) IS
    'A type''s name that means the same under any search_path: with its schema, unless it is a keyword.';

-- Keys as text ---------------------------------------------------------------------------------

-- Through the type's output function: a cast may be anybody's.
CREATE FUNCTION visrec._key_text(key anyelement) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD' SET intervalstyle = 'iso_8601' SET timezone = 'UTC' SET extra_float_digits = 1
SET bytea_output = 'hex' SET lc_monetary = 'C' AS $$
BEGIN
    RETURN format('%s', key);
END
$$;
COMMENT ON FUNCTION visrec._key_text(anyelement) IS
    'A value as text that the same value always has, whatever DateStyle, TimeZone and the like are set to.';

CREATE FUNCTION visrec._key_texts(keys anyarray) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(visrec._key_text(k.key) ORDER BY k.n), '{}') FROM unnest(keys) WITH ORDINALITY AS k (key, n)
$$;
COMMENT ON FUNCTION visrec._key_texts(anyarray) IS 'visrec._key_text of each.';

CREATE FUNCTION visrec._key_expression(key text, type oid) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    base regtype := type;
BEGIN
    IF type >= 10000 THEN       -- not one of PostgreSQL's own
        base := visrec._base_type(type);
    END IF;
    -- Two texts that read differently are different, also where the key's collation says that they are equal.
    RETURN CASE
        WHEN base IN ('smallint', 'integer', 'bigint', 'oid', 'uuid', 'boolean') THEN format('pg_catalog.format(''%%s'', %s)', key)
        WHEN base IN ('text', 'varchar', 'name')
            THEN format('(pg_catalog.format(''%%s'', %s) COLLATE pg_catalog."C")', key)
        WHEN base = 'bpchar'::regtype       -- without the blanks that fill it up
            THEN format('%s::pg_catalog.bpchar::pg_catalog.text', key)
        WHEN base = 'numeric'::regtype      -- 1.0 and 1.00 are the same key
            THEN format('pg_catalog.format(''%%s'', pg_catalog.trim_scale(%s::pg_catalog.numeric))', key)
        ELSE format('visrec._key_text(%s)', key) END;
END
$$;
COMMENT ON FUNCTION visrec._key_expression(text, oid) IS 'The expression for a key of this type as text, as in visrec.failure.';

-- Where a vector comes from: two numbers beside it. The first has 32 bits for the model's weights and 32 for the image
-- (its path, or its length and ends); the second stands for the content (the file's size and time, or all the bytes).
-- These are asked for each row and so have no SET clause; every name in them is qualified.

CREATE FUNCTION visrec._hash(data bytea) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN ('x' OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.encode(pg_catalog.sha256(data), 'hex'), 1, 8))
        ::pg_catalog.bit(32)::pg_catalog.int8;
END
$$;
COMMENT ON FUNCTION visrec._hash(bytea) IS 'The first 32 bits of the SHA-256, from 0 to 2^32 - 1.';

CREATE FUNCTION visrec._weights(fingerprint text) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN visrec._hash(pg_catalog.convert_to(fingerprint, 'UTF8')) OPERATOR(pg_catalog.-) 2147483648;
END
$$;
COMMENT ON FUNCTION visrec._weights(text) IS 'A fingerprint as a number from -2^31 to 2^31 - 1.';

CREATE FUNCTION visrec._source(image text, weights bigint) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN (weights OPERATOR(pg_catalog.<<) 32)
        OPERATOR(pg_catalog.|) visrec._hash(pg_catalog.convert_to(image, 'UTF8'));
END
$$;
COMMENT ON FUNCTION visrec._source(text, bigint) IS
    'The first number of a vector''s source: the model in the upper half, a hash of the image''s path in the lower.';

CREATE FUNCTION visrec._source(image bytea, weights bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    -- Not the whole picture: each visrec.coverage would read all of it. visrec.recheck does.
    size integer := pg_catalog.octet_length(image);
BEGIN
    RETURN (weights OPERATOR(pg_catalog.<<) 32) OPERATOR(pg_catalog.|) visrec._hash(pg_catalog.int4send(size)
        OPERATOR(pg_catalog.||) pg_catalog.substr(image, 1, 8192)
        OPERATOR(pg_catalog.||) pg_catalog.substr(image, GREATEST(1, size OPERATOR(pg_catalog.-) 8191)));
END
$$;
COMMENT ON FUNCTION visrec._source(bytea, bigint) IS
    'The first number of a vector''s source: the model in the upper half, a hash of the image''s length and of its first and '
    'last 8 kB in the lower.';

CREATE FUNCTION visrec._stamp(image bytea) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN ('x' OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.encode(pg_catalog.sha256(image), 'hex'), 1, 16))
        ::pg_catalog.bit(64)::pg_catalog.int8 OPERATOR(pg_catalog.&) 9223372036854775807;
END
$$;
COMMENT ON FUNCTION visrec._stamp(bytea) IS 'The second number of a vector''s source: 63 bits of the SHA-256 of all of the image.';

-- Reading an attachment ------------------------------------------------------------------------

CREATE TYPE visrec._names AS (
    id integer, relation oid, name name, owner oid, "table" text,
    key text, key_oid oid, key_type text, key_text text, equals text, greater text,
    image text, holds_bytes boolean, has_image text, vector text, vector_schema text, source text, source_value text,
    stale text, due text, shown text,
    model text, fingerprint text, weights bigint, on_error text, index_method text, index_metric text, reduction integer,
    path name[], width integer
);
COMMENT ON TYPE visrec._names IS
    'An attachment as it is now. Names are quoted for use in a statement, where the row is t. table: the rows, with ONLY '
    'unless it is partitioned; key_text: the key as text; equals and greater: the operators of the primary key''s index; '
    'has_image, stale and due: conditions; source_value: what source[1] must be; shown: the shown columns, with commas; path: schemas of the '
    'owner''s (see visrec._safe_path); width: what visrec.tune kept.';

CREATE FUNCTION visrec._find(relation regclass, name name DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found integer := (SELECT min(a.id) FROM visrec.attachment AS a
                      WHERE a.relation = _find.relation AND a.name = coalesce(_find.name, a.name));
BEGIN
    IF found IS NULL AND relation IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'the table must not be null';
    ELSIF found IS NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = CASE WHEN name IS NULL THEN format('table "%s" is not attached', visrec._label(relation))
                ELSE format('table "%s" has no attachment named "%s"', visrec._label(relation), name) END,
            HINT = coalesce('Attachments: ' || (SELECT string_agg(a.name, ', ' ORDER BY a.id) FROM visrec.attachment AS a
                                                WHERE a.relation = _find.relation) || '.',
                format('SELECT visrec.attach(%L);', relation));
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION visrec._find(regclass, name) IS
    'The id of a table''s attachment with this name; with NULL, of its first. Raises an error where it has none.';

CREATE FUNCTION visrec._name_argument(attachment integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN EXISTS (SELECT FROM visrec.attachment AS o WHERE o.relation = a.relation AND o.id < a.id)
        THEN format(', name => %L', a.name) ELSE '' END
    FROM visrec.attachment AS a WHERE a.id = attachment
$$;
COMMENT ON FUNCTION visrec._name_argument(integer) IS
    'What a call in a hint has after its table, unless the attachment is the table''s first.';

CREATE FUNCTION visrec._current_name(relation oid, number smallint) RETURNS name
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attnum = number AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION visrec._current_name(oid, smallint) IS 'A column''s name now; NULL where it is gone.';

CREATE FUNCTION visrec._attached_above(relation oid, vector smallint) RETURNS oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT o.relation FROM pg_partition_ancestors(relation) AS p JOIN visrec.attachment AS o ON o.relation = p.relid
            WHERE p.relid <> _attached_above.relation
                AND visrec._current_name(o.relation, o.numbers[3]) = visrec._current_name(_attached_above.relation, vector) LIMIT 1);
END
$$;
COMMENT ON FUNCTION visrec._attached_above(oid, smallint) IS
    'The table that this one is a partition of, where that is attached with the same column for its vectors: its attachment counts.';

CREATE FUNCTION visrec._attach_call(a visrec.attachment) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN visrec._attached_above(a.relation, a.numbers[3]) IS NOT NULL
        THEN format('SELECT visrec.detach(%L%s);', a.relation, visrec._name_argument(a.id))
        WHEN visrec._current_name(a.relation, a.numbers[2]) IS NOT NULL
        THEN format('SELECT visrec.attach(%L%s);', a.relation, visrec._name_argument(a.id))
        ELSE format('SELECT visrec.attach(%1$L, image_column => …%2$s); or SELECT visrec.detach(%1$L%2$s);', a.relation,
            visrec._name_argument(a.id)) END
$$;
COMMENT ON FUNCTION visrec._attach_call(visrec.attachment) IS 'The call that brings an attachment up to date, for hints.';

CREATE FUNCTION visrec._problem(a visrec.attachment, with_triggers boolean DEFAULT true) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = a.relation) THEN
        RETURN 'the table does not exist';
    END IF;
    FOR part IN
        SELECT c.name, f.attname, c.type, f.atttypid
        FROM unnest(a.columns, a.numbers, a.types) WITH ORDINALITY AS c (name, number, type, n)
        LEFT JOIN pg_attribute AS f ON f.attrelid = a.relation AND f.attnum = c.number AND NOT f.attisdropped
        ORDER BY c.n
    LOOP
        IF part.attname IS NULL THEN
            RETURN format('column "%s" no longer exists', part.name);
        ELSIF part.atttypid <> part.type THEN
            RETURN format('the type of column "%s" changed from %s to %s', part.attname,
                format_type(part.type, -1), format_type(part.atttypid, -1));
        END IF;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_index AS x WHERE x.indrelid = a.relation AND x.indisprimary AND x.indnkeyatts = 1
                   AND x.indkey[0] = a.numbers[1]) THEN
        RETURN format('column "%s" is no longer the primary key', a.columns[1]);
    ELSIF NOT EXISTS (SELECT FROM pg_proc AS p JOIN pg_class AS c ON c.oid = a.relation AND c.relowner = p.proowner
                      WHERE p.proname = '_table_' || a.id AND p.pronamespace = 'visrec'::regnamespace AND p.prosecdef) THEN
        RETURN 'its owner changed, or its function in schema visrec';
    ELSIF visrec._attached_above(a.relation, a.numbers[3]) IS NOT NULL THEN
        RETURN format('it is a partition of table "%s", which is attached with the same vectors',
            visrec._label(visrec._attached_above(a.relation, a.numbers[3])));
    -- In a restore the triggers come last.
    ELSIF with_triggers AND (SELECT count(*) FROM visrec._our_triggers(a.relation) AS t WHERE t.attachment = a.id) < 6 THEN
        RETURN 'some of its triggers are missing';
    ELSIF with_triggers AND visrec._watches_others(a) THEN
        RETURN 'its triggers watch other columns than its images are made of';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION visrec._problem(visrec.attachment, boolean) IS
    'What changed since a table was attached, so that visrec.attach must be called again; NULL if nothing did.';

CREATE FUNCTION visrec._raise_problem(a visrec.attachment) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE object_not_in_prerequisite_state USING
        MESSAGE = format('table "%s" has changed since it was attached', visrec._label(a.relation)),
        DETAIL = (SELECT upper(left(p, 1)) || substr(p, 2) || '.' FROM visrec._problem(a) AS p),
        HINT = visrec._attach_call(a);
END
$$;
COMMENT ON FUNCTION visrec._raise_problem(visrec.attachment) IS 'Raises what visrec._problem says.';

CREATE FUNCTION visrec._resolve(attachment integer, missing_ok boolean DEFAULT false) RETURNS visrec._names
-- Every search and every INSERT asks: one statement, planned once a session.
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    n visrec._names;
BEGIN
    SELECT a.id, a.relation, a.name, c.relowner, CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || c.oid::regclass,
           f.names[1], a.types[1], CASE WHEN a.types[1]::oid IN (20, 21, 23) THEN format_type(a.types[1], -1)
               ELSE visrec._type_name(visrec._base_type(a.types[1])) END, CASE WHEN a.types[1]::oid IN (20, 21, 23, 2950) THEN format('pg_catalog.format(''%%s'', t.%s)', f.names[1])
               ELSE visrec._key_expression('t.' || f.names[1], a.types[1]) END,
           o.names[1], o.names[2],
           f.names[2], i.holds_bytes,
           -- What is empty is no image: Django, for one, never stores NULL there.
           CASE WHEN i.holds_bytes THEN format('(t.%1$s IS NOT NULL AND pg_catalog.octet_length(t.%1$s::pg_catalog.bytea) OPERATOR(pg_catalog.>) 0)',
                   f.names[2])
               ELSE format('(t.%1$s IS NOT NULL AND t.%1$s::pg_catalog.text OPERATOR(pg_catalog.<>) '''')', f.names[2]) END,
           f.names[3], v.schema, f.names[4], v.source_value,
           -- No source: the user wrote this vector; never stale.
           format('(t.%1$s IS NOT NULL AND t.%2$s[1] IS NOT NULL AND (t.%2$s[1] OPERATOR(pg_catalog.=) %3$s) IS NOT TRUE)',
               f.names[3], f.names[4], v.source_value),
           NULL, CASE WHEN cardinality(f.names) > 4 THEN ', t.' || array_to_string(f.names[5:], ', t.') ELSE '' END,
           a.model, a.fingerprint, a.weights, a.on_error, a.index_method, a.index_metric, a.reduction, a.path || (SELECT s.nspname FROM pg_namespace AS s WHERE s.oid = c.relnamespace),
           a.width
    INTO n
    FROM visrec.attachment AS a
    JOIN pg_class AS c ON c.oid = a.relation
    CROSS JOIN LATERAL (
        SELECT array_agg(quote_ident(f.attname) ORDER BY k.n) AS names, bool_and(f.atttypid IS NOT DISTINCT FROM k.type) AS sound
        FROM unnest(a.numbers, a.types) WITH ORDINALITY AS k (number, type, n)
        LEFT JOIN pg_attribute AS f ON f.attrelid = a.relation AND f.attnum = k.number AND NOT f.attisdropped) AS f
    -- Outside pg_catalog a schema may be renamed, and another take its name.
    CROSS JOIN LATERAL (SELECT CASE WHEN array_to_string(a.operators, ' ') ~ '^OPERATOR[(]pg_catalog[.][^ ]+ OPERATOR[(]pg_catalog[.][^ ]+$'
        THEN a.operators ELSE visrec._key_operators(a.relation, a.numbers[1]) END AS names OFFSET 0) AS o
    CROSS JOIN LATERAL (SELECT CASE a.types[2]::oid WHEN 25 THEN false WHEN 1043 THEN false      -- text, varchar
        ELSE visrec._base_type(a.types[2]) = 17 END AS holds_bytes OFFSET 0) AS i
    CROSS JOIN LATERAL (SELECT
        (SELECT t.typnamespace::regnamespace::text FROM pg_type AS t WHERE t.oid = a.types[3]) AS schema,
        format('visrec._source(t.%s::pg_catalog.%s, %s)', f.names[2], CASE WHEN i.holds_bytes THEN 'bytea' ELSE 'text' END, a.weights)
            AS source_value OFFSET 0) AS v
    WHERE a.id = attachment AND f.sound AND NOT (c.relispartition AND visrec._attached_above(a.relation, a.numbers[3]) IS NOT NULL) AND EXISTS (
        SELECT FROM pg_index AS x WHERE x.indrelid = a.relation AND x.indisprimary AND x.indnkeyatts = 1 AND x.indkey[0] = a.numbers[1]);
    IF n.id IS NULL THEN
        IF missing_ok THEN
            RETURN NULL;
        END IF;
        PERFORM visrec._raise_problem(a) FROM visrec.attachment AS a WHERE a.id = attachment;
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('attachment %s does not exist', attachment),
            DETAIL = 'Its table was detached, or restored without the data of visrec.attachment.',
            HINT = 'Attach the table: SELECT visrec.attach(…).';
    END IF;
    n.due := format('(%s AND (t.%s IS NULL OR %s))', n.has_image, n.vector, n.stale);
    RETURN n;
END
$$;
COMMENT ON FUNCTION visrec._resolve(integer, boolean) IS
    'An attachment''s names as they are now. Renamed columns are found by their numbers; any other change is an error '
    'that says what to call. missing_ok: NULL, not an error.';

CREATE FUNCTION visrec._untuned(a visrec.attachment) RETURNS visrec.attachment
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    a.width := NULL;
    a.tuned_recall := NULL;
    a.tuned_at := NULL;
    a.tuned_queries := NULL;
    a.tuned_rows := NULL;
    RETURN a;
END
$$;
COMMENT ON FUNCTION visrec._untuned(visrec.attachment) IS
    'An attachment without what visrec.tune measured: other vectors, or another kind of index, are another matter.';

CREATE FUNCTION visrec._numbers(relation oid, columns name[]) RETURNS smallint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(
        SELECT coalesce(f.attnum, 0) FROM unnest(columns) WITH ORDINALITY AS c (name, n)
        LEFT JOIN pg_attribute AS f ON f.attrelid = relation AND f.attname = c.name AND NOT f.attisdropped
        ORDER BY c.n)
$$;
COMMENT ON FUNCTION visrec._numbers(oid, name[]) IS 'The numbers of columns; 0 for one that does not exist.';

CREATE FUNCTION visrec._current_events(a visrec.attachment) RETURNS name[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(coalesce(visrec._current_name((a).events, c.number), c.name) ORDER BY c.n)
    FROM unnest((a).event_columns, (a).event_numbers) WITH ORDINALITY AS c (name, number, n)
$$;
COMMENT ON FUNCTION visrec._current_events(visrec.attachment) IS
    'The columns of an attachment''s table of events by their names now; one that is gone by the name it had.';

CREATE FUNCTION visrec._events_problem(a visrec.attachment) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN a.events IS NULL THEN NULL
        WHEN NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = a.events) THEN 'the table of events does not exist'
        ELSE (SELECT format('column "%s" of the table of events no longer exists', min(c.name))
              FROM unnest(a.event_columns, a.event_numbers) AS c (name, number)
              WHERE c.name IS NOT NULL AND visrec._current_name(a.events, c.number) IS NULL HAVING count(*) > 0) END
$$;
COMMENT ON FUNCTION visrec._events_problem(visrec.attachment) IS
    'What changed in the table of events, so that visrec.attach_events must be called again; NULL if nothing did.';

CREATE VIEW visrec.attached AS
SELECT a.relation, a.name,
       visrec._current_name(a.relation, a.numbers[1]) AS key_column,
       visrec._current_name(a.relation, a.numbers[2]) AS image_column,
       visrec._current_name(a.relation, a.numbers[3]) AS vector_column,
       a.model, a.fingerprint, a.mode, a.on_error,
       ARRAY(SELECT visrec._current_name(a.relation, s.number) FROM pg_catalog.unnest(a.numbers[5:]) WITH ORDINALITY AS s (number, n)
             ORDER BY s.n) AS show_columns,
       a.index_method, a.index_metric, a.recall, a.width, a.events, coalesce(visrec._problem(a), visrec._events_problem(a)) AS problem
FROM visrec.attachment AS a;
COMMENT ON VIEW visrec.attached IS
    'The attached tables, a line for each attachment, and what each was attached with. name: what its functions are named '
    'after. recall: the target that visrec.tune aims at; width: what it kept. problem: what changed since, so that visrec.attach or visrec.attach_events must be called again; NULL if nothing did.';
GRANT SELECT ON visrec.attached TO PUBLIC;
