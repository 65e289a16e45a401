-- A table of events (who liked what, when), named once: recommendation for a user by id.

CREATE FUNCTION visrec._event_names(relation regclass, columns name[], OUT "table" text, OUT user_name text, OUT user_type text,
    OUT user_equals text, OUT item text, OUT item_text text, OUT weight text, OUT at text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held record;
    place integer;
BEGIN
    IF visrec._label(relation) IS NULL THEN
        RAISE undefined_table USING
            MESSAGE = 'the table of events no longer exists',
            HINT = 'Name another: SELECT visrec.attach_events(…);';
    END IF;
    "table" := relation;
    weight := '1::float8';      -- without weights each event counts 1
    FOR place IN 1..4 LOOP
        CONTINUE WHEN columns[place] IS NULL;
        SELECT a.attname AS name, a.atttypid, format_type(visrec._base_type(a.atttypid), -1) AS type, visrec._comparison(a.atttypid, 3) AS equals,
               visrec._base_type(a.atttypid) AS base INTO held
        FROM pg_attribute AS a
        WHERE a.attrelid = relation AND a.attname = columns[place] AND a.attnum > 0 AND NOT a.attisdropped;
        IF held.name IS NULL THEN
            RAISE undefined_column USING
                MESSAGE = format('column "%s" of table "%s" does not exist', columns[place], visrec._label(relation)),
                HINT = format('Name it: SELECT visrec.attach_events(…, %s => …); %s',
                    ('{user_column,item_column,weight_column,at_column}'::text[])[place], visrec._columns_hint(relation));
        ELSIF held.equals IS NULL THEN
            RAISE datatype_mismatch USING
                MESSAGE = format('cannot use column "%s" because type %s has no order', columns[place], held.type);
        ELSIF place = 3 AND held.base NOT IN ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype, 'numeric'::regtype, 'real'::regtype,
            'double precision'::regtype)
        THEN
            RAISE datatype_mismatch USING
                MESSAGE = format('column "%s" cannot hold weights because it is of type %s', columns[place], held.type),
                HINT = 'A weight is a number. Without weights: SELECT visrec.attach_events(…, weight_column => NULL);';
        END IF;
        CASE place
        WHEN 1 THEN
            user_name := format('e.%I', held.name);
            user_type := held.type;
            user_equals := held.equals;
        WHEN 2 THEN
            item := format('e.%I', held.name);
            item_text := visrec._key_expression(item, held.atttypid);
        WHEN 3 THEN weight := format('e.%I', held.name);
        ELSE at := format('e.%I', held.name);
        END CASE;
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._event_names(regclass, name[]) IS
    'The names of a table of events and its columns (user, item, weight, time), quoted, on the row e, and the item as text; raises an '
    'error if one is missing.';

CREATE FUNCTION visrec._history(attachment integer, user_id text, most integer, OUT liked text[], OUT liked_weights double precision[],
    OUT disliked text[], OUT disliked_weights double precision[], OUT seen text[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    e record;
BEGIN
    IF most IS NULL OR most < 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('history must be at least 1, not %s', coalesce(most::text, 'NULL'));
    END IF;
    SELECT r.* INTO e FROM visrec.attachment AS a, visrec._event_names(a.events, visrec._current_events(a)) AS r WHERE a.id = attachment;
    -- An item counts by its latest event; those without a weight, or of weight 0, are only seen.
    EXECUTE format($query$
        WITH latest AS (
            SELECT DISTINCT ON (%1$s) %9$s AS item, (%2$s)::float8 AS weight, %3$s AS at
            FROM %4$s AS e WHERE %5$s %6$s %7$L::%8$s AND %1$s IS NOT NULL
            ORDER BY %1$s, %3$s DESC NULLS LAST
        ), recent AS (
            SELECT * FROM latest WHERE weight <> 0 AND weight <> 'NaN' ORDER BY at DESC NULLS LAST, item LIMIT $1
        )
        SELECT array_agg(r.item ORDER BY r.at NULLS FIRST, r.item) FILTER (WHERE r.weight > 0),
               array_agg(r.weight ORDER BY r.at NULLS FIRST, r.item) FILTER (WHERE r.weight > 0),
               array_agg(r.item ORDER BY r.at NULLS FIRST, r.item) FILTER (WHERE r.weight < 0),
               array_agg(-r.weight ORDER BY r.at NULLS FIRST, r.item) FILTER (WHERE r.weight < 0),
               (SELECT coalesce(array_agg(l.item), '{}') FROM latest AS l)
        FROM recent AS r
        $query$, e.item, e.weight, e.at, e."table", e.user_name, e.user_equals, user_id, e.user_type, e.item_text)
    INTO liked, liked_weights, disliked, disliked_weights, seen USING most;
END
$$;
COMMENT ON FUNCTION visrec._history(integer, text, integer) IS
    'What a user lately liked (weight above 0) and disliked (below 0), in order of time, and all items the user has events of.';

CREATE FUNCTION visrec._recommend_for(attachment integer, user_id anyelement, k integer, strategy text, filter jsonb,
    max_distance double precision, diversity double precision, toward text, history integer, strict boolean) RETURNS SETOF record
LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
    user_text text := visrec._key_text(user_id);
    h record := visrec._history(attachment, user_text, history);
BEGIN
    PERFORM visrec._check_search(k, max_distance);
    IF h.liked IS NULL THEN
        PERFORM visrec._nothing(strict, format('user %s has no liked rows', coalesce(user_text, 'NULL')));
        RETURN;
    END IF;
    RETURN QUERY EXECUTE visrec._result_statement(n, visrec._typed_call(n, h.liked, h.disliked, h.seen))
    USING n, k, strategy, filter, max_distance, diversity, toward, h.liked_weights, h.disliked_weights, strict;
END
$$;
COMMENT ON FUNCTION visrec._recommend_for(integer, anyelement, integer, text, jsonb, double precision, double precision, text,
    integer, boolean) IS 'What recommend_<name>_for returns.';

CREATE FUNCTION visrec.attach_events(relation regclass, events regclass, user_column name DEFAULT 'user_id',
    item_column name DEFAULT 'post_id', weight_column name DEFAULT 'weight', at_column name DEFAULT 'at', name name DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    a visrec.attachment;
BEGIN
    PERFORM visrec._check_owner(relation);
    SELECT r.* INTO a FROM visrec._find(relation, name) AS f JOIN visrec.attachment AS r ON r.id = f;
    a := visrec._as_now(a);
    a.events := attach_events.events;
    a.event_columns := NULL;
    IF a.events IS NOT NULL THEN
        IF num_nulls(user_column, item_column, at_column) > 0 THEN
            RAISE null_value_not_allowed USING MESSAGE = 'user_column, item_column and at_column must not be null';
        END IF;
        a.event_columns := ARRAY[user_column, item_column, weight_column, at_column];
        PERFORM visrec._event_names(a.events, a.event_columns);
    END IF;
    PERFORM visrec._make_shells(visrec._write_attachment(a));
END
$$;
COMMENT ON FUNCTION visrec.attach_events(regclass, regclass, name, name, name, name, name) IS
    'Names the table that says who liked what, when, and makes recommend_<name>_for. A weight above 0 is a like, below 0 a '
    'dislike, NULL or 0 only seen; without weight_column (NULL) each event is a like. NULL for the table forgets it. The '
    'caller of the function reads the events with its own rights.';
