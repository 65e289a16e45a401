-- Filters: which rows a search may return, as JSON. Names are checked against the table and quoted; values are read out of the filter,
-- which is the statement's parameter $3. Only those of types that PostgreSQL does not come with are in the statement, as quoted
-- literals: a literal is read by its type, where text would be cast, and a cast may be anybody's.

CREATE FUNCTION visrec._comparisons(type oid) RETURNS jsonb
-- Every filter asks: PL/pgSQL plans the statement once a session.
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    declared oid;
BEGIN
    IF (SELECT t.typtype = 'd' FROM pg_type AS t WHERE t.oid = type) THEN
        RETURN visrec._comparisons(visrec._base_type(type));
    END IF;
    -- The type that the type's index operators are declared for: those of text serve varchar, and so on.
    declared := (SELECT CASE
        WHEN t.typtype = 'e' THEN 'anyenum'::regtype
        WHEN t.oid = 'varchar'::regtype THEN 'text'::regtype
        WHEN t.typcategory = 'A' THEN 'anyarray'::regtype
        WHEN t.typtype = 'r' THEN 'anyrange'::regtype
        ELSE t.oid END FROM pg_type AS t WHERE t.oid = type);
    RETURN (SELECT jsonb_object_agg(a.amopstrategy, format('OPERATOR(%I.%s)', n.nspname, p.oprname))
            FROM pg_opclass AS o
            JOIN pg_amop AS a ON a.amopfamily = o.opcfamily AND a.amoplefttype = o.opcintype AND a.amoprighttype = o.opcintype
            JOIN pg_operator AS p ON p.oid = a.amopopr
            JOIN pg_namespace AS n ON n.oid = p.oprnamespace
            WHERE o.opcdefault AND o.opcintype = declared AND o.opcmethod = 403);       -- btree, by its fixed oid
END
$$;
COMMENT ON FUNCTION visrec._comparisons(oid) IS
    'A type''s operators by their B-tree strategies: 1 <, 2 <=, 3 =, 4 >=, 5 >; NULL where the type has no order.';

CREATE FUNCTION visrec._comparison(type oid, strategy integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN visrec._comparisons(type) ->> strategy::text;
COMMENT ON FUNCTION visrec._comparison(oid, integer) IS 'One of the operators of visrec._comparisons.';

CREATE FUNCTION visrec._filter_column(relation regclass, name text, OUT type text, OUT operators jsonb, OUT as_text boolean, OUT own boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found pg_attribute;
    kind "char";
    category "char";
    base oid;
BEGIN
    SELECT a.* INTO found FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped;
    IF found.attname IS NULL THEN
        RAISE undefined_column USING
            MESSAGE = format('column "%s" in the filter does not exist in table "%s"', name, visrec._label(relation)),
            HINT = visrec._columns_hint(relation);
    END IF;
    SELECT t.typtype, t.typcategory, t.oid INTO kind, category, base FROM pg_type AS t WHERE t.oid = found.atttypid;
    IF kind = 'd' THEN
        SELECT t.typcategory, t.oid INTO category, base FROM pg_type AS t WHERE t.oid = visrec._base_type(found.atttypid);
    END IF;
    operators := visrec._comparisons(base);
    -- As text a JSON string and a number are the same, and an array is no value.
    IF operators IS NULL OR base = 'jsonb'::regtype OR category IN ('A', 'R', 'C') THEN
        RAISE feature_not_supported USING
            MESSAGE = format('cannot filter by column "%s" of type %s', name, format_type(found.atttypid, found.atttypmod));
    END IF;
    -- A value is not cut or rounded to fit a column of short texts, or a domain of round numbers, before it is compared.
    as_text := base IN ('"char"'::regtype, 'name'::regtype);
    IF as_text THEN
        operators := visrec._comparisons('text'::regtype);
    END IF;
    type := CASE WHEN as_text THEN 'text' ELSE format_type(base, -1) END;
    own := base < 16384;
END
$$;
COMMENT ON FUNCTION visrec._filter_column(regclass, text) IS
    'The type to compare a column that a filter may name by, with the type''s operators as visrec._comparisons has them; as_text: '
    'the column is cast to it; own: PostgreSQL comes with the type. Or an error.';

CREATE FUNCTION visrec._condition(relation regclass, filter jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    strategies CONSTANT jsonb := '{"lt": 1, "lte": 2, "gte": 4, "gt": 5}';
    conditions text[] := '{}';
    held record;
    name text;
    wanted jsonb;       -- {"operator": value, …}
    path text[];
    operator text;
    value jsonb;
    left_side text;
    right_side text;
    equals text;
BEGIN
    IF jsonb_typeof(filter) <> 'object' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('the filter must be a JSON object, not %s', jsonb_typeof(filter)),
            HINT = 'For example {"category": "shoes", "price": {"lt": 100}}.';
    END IF;
    FOR name, wanted IN SELECT * FROM jsonb_each(filter) LOOP
        held := visrec._filter_column(relation, name);
        equals := held.operators ->> '3';
        left_side := format(CASE WHEN held.as_text THEN 't.%I::text COLLATE "C"' ELSE 't.%I' END, name);
        path := ARRAY[name];
        IF wanted = '{}' THEN
            RAISE invalid_parameter_value USING
                MESSAGE = format('filter on column "%s" has no operator', name),
                HINT = 'Operators: eq, ne, lt, lte, gt, gte, in.';
        ELSIF jsonb_typeof(wanted) <> 'object' THEN
            wanted := jsonb_build_object('eq', wanted);
        ELSE
            path := ARRAY[name, NULL];
        END IF;
        FOR operator, value IN SELECT * FROM jsonb_each(wanted) LOOP
            -- Where the value stands in the filter, cast to the column's type.
            path := path[:1] || CASE WHEN cardinality(path) = 2 THEN ARRAY[operator] END;
            right_side := CASE WHEN held.own THEN format('($3 #>> %L)::%s', path, held.type) ELSE format('%L::%s', value #>> '{}', held.type) END;
            IF operator NOT IN ('eq', 'ne', 'in') AND NOT strategies ? operator THEN
                RAISE invalid_parameter_value USING
                    MESSAGE = format('unknown filter operator "%s" for column "%s"', operator, name),
                    HINT = 'Operators: eq, ne, lt, lte, gt, gte, in.';
            ELSIF (operator = 'in') <> (jsonb_typeof(value) = 'array') OR jsonb_typeof(value) = 'object'
                OR jsonb_typeof(value) = 'null' AND operator NOT IN ('eq', 'ne')
            THEN
                RAISE invalid_parameter_value USING
                    MESSAGE = format('filter operator "%s" on column "%s" does not take %s', operator, name, CASE jsonb_typeof(value)
                        WHEN 'null' THEN 'null' WHEN 'array' THEN 'an array' WHEN 'object' THEN 'an object' ELSE 'a single value' END),
                    HINT = '"in" takes an array, null goes with "eq" and "ne", the others take one value.';
            END IF;
            conditions := conditions || CASE
                WHEN jsonb_typeof(value) = 'null' AND operator = 'eq' THEN left_side || ' IS NULL'
                WHEN jsonb_typeof(value) = 'null' THEN left_side || ' IS NOT NULL'
                WHEN operator = 'eq' THEN format('%s %s %s', left_side, equals, right_side)
                WHEN operator = 'ne' THEN format('(%1$s IS NULL OR NOT %1$s %2$s %3$s)', left_side, equals, right_side)
                WHEN operator = 'in' THEN format(CASE WHEN value @> '[null]' THEN '(%1$s %2$s ANY (%3$s) OR %1$s IS NULL)' ELSE '%1$s %2$s ANY (%3$s)' END,
                    left_side, equals, CASE WHEN held.own THEN format('ARRAY(SELECT jsonb_array_elements_text($3 #> %L))::%s[]', path, held.type)
                        ELSE format('%L::%s[]', ARRAY(SELECT jsonb_array_elements_text(value)), held.type) END)
                ELSE format('%s %s %s', left_side,
                    held.operators ->> (strategies ->> operator), right_side)
            END;
        END LOOP;
    END LOOP;
    RETURN coalesce(nullif(array_to_string(conditions, ' AND '), ''), 'true');
END
$$;
COMMENT ON FUNCTION visrec._condition(regclass, jsonb) IS
    'A filter as a condition on the row t, with the filter itself as $3: {"column": value} for equality, null for IS '
    'NULL, {"column": {"operator": value}} with eq, ne, lt, lte, gt, gte, in; all of them must hold. ne holds for NULL, too, and in '
    'where null is among its values.';

CREATE FUNCTION visrec._raise_value(relation regclass, filter jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT f.key AS name, c.type, v #>> '{}' AS value
        FROM jsonb_each(filter) AS f, visrec._filter_column(relation, f.key) AS c, jsonb_path_query(f.value, 'strict $.**') AS v
        WHERE jsonb_typeof(v) NOT IN ('object', 'array', 'null')
    LOOP
        BEGIN
            EXECUTE format('SELECT %L::%s', held.value, held.type);
        EXCEPTION WHEN data_exception THEN
            RAISE USING ERRCODE = SQLSTATE, MESSAGE = format('filter on column "%s": %s', held.name, SQLERRM);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._raise_value(regclass, jsonb) IS 'Raises an error for a value of a filter that is none of its column''s.';
