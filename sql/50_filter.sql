-- Filters: which rows a search may return, as JSON. Names are checked against the table and quoted; values never
-- become part of a statement: they are read out of the filter, which is its parameter $3.

CREATE FUNCTION visrec._comparison(type oid, strategy integer) RETURNS text
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

CREATE FUNCTION visrec._filter_column(relation regclass, name text) RETURNS pg_attribute
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found pg_attribute;
BEGIN
    SELECT a.* INTO found FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped;
    IF found.attname IS NULL THEN
        RAISE undefined_column USING
            MESSAGE = format('column "%s" in the filter does not exist in table "%s"', name, visrec._label(relation)),
            HINT = visrec._columns_hint(relation);
    -- As text a JSON string and a number are the same, and an array is no value.
    ELSIF visrec._comparison(found.atttypid, 3) IS NULL OR visrec._base_type(found.atttypid) = 'jsonb'::regtype
        OR EXISTS (SELECT FROM pg_type AS t WHERE t.oid = visrec._base_type(found.atttypid) AND t.typcategory IN ('A', 'R', 'C'))
    THEN
        RAISE feature_not_supported USING
            MESSAGE = format('cannot filter by column "%s" of type %s', name, format_type(found.atttypid, found.atttypmod));
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION visrec._filter_column(regclass, text) IS 'A column that a filter may name, or an error.';

CREATE FUNCTION visrec._condition(relation regclass, filter jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    strategies CONSTANT jsonb := '{"lt": 1, "lte": 2, "gte": 4, "gt": 5}';
    conditions text[] := '{}';
    held pg_attribute;
    name text;
    wanted jsonb;       -- {"operator": value, …}
    path text[];
    operator text;
    value jsonb;
    left_side text;
    right_side text;
    type text;
    equals text;
BEGIN
    IF jsonb_typeof(filter) <> 'object' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('the filter must be a JSON object, not %s', jsonb_typeof(filter)),
            HINT = 'For example {"category": "shoes", "price": {"lt": 100}}.';
    END IF;
    FOR name, wanted IN SELECT * FROM jsonb_each(filter) LOOP
        held := visrec._filter_column(relation, name);
        type := format_type(held.atttypid, -1);
        equals := visrec._comparison(held.atttypid, 3);
        left_side := format('t.%I', name);
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
            right_side := format('($3 #>> %L)::%s', path, type);
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
                WHEN operator = 'in' THEN format('%s %s ANY (ARRAY(SELECT jsonb_array_elements_text($3 #> %L))::%s[])',
                    left_side, equals, path, type)
                ELSE format('%s %s %s', left_side,
                    visrec._comparison(held.atttypid, (strategies ->> operator)::integer), right_side)
            END;
        END LOOP;
    END LOOP;
    RETURN coalesce(nullif(array_to_string(conditions, ' AND '), ''), 'true');
END
$$;
COMMENT ON FUNCTION visrec._condition(regclass, jsonb) IS
    'A filter as a condition on the row t, with the filter itself as $3: {"column": value} for equality, null for IS '
    'NULL, {"column": {"operator": value}} with eq, ne, lt, lte, gt, gte, in; all of them must hold. ne holds for NULL, too.';

CREATE FUNCTION visrec._estimate(n visrec._names, condition text, filter jsonb) RETURNS double precision
-- Volatile, since EXPLAIN is refused to others; it changes nothing.
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE format('EXPLAIN (FORMAT JSON) SELECT FROM %s AS t WHERE %s', n."table", condition) INTO plan
    USING NULL::text, NULL::text, filter;
    RETURN (plan #>> '{0,Plan,Plan Rows}')::double precision;
END
$$;
COMMENT ON FUNCTION visrec._estimate(visrec._names, text, jsonb) IS 'How many rows the planner expects a filter to leave.';
