-- A table of events (who liked what, when), named once: recommendation for a user by id.

CREATE FUNCTION visrec._events_names(config jsonb) RETURNS jsonb
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

CREATE FUNCTION visrec._history(relation regclass, user_id text, most integer,
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

CREATE FUNCTION visrec._make_recommend_for(relation regclass, config jsonb) RETURNS SETOF regprocedure
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

CREATE FUNCTION visrec.attach_events(relation regclass, events regclass, user_column name DEFAULT 'user_id',
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
