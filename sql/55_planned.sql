-- Searches that are planned once a session. visrec._nearest and visrec._similar write their statements anew for each call,
-- and planning those takes as long as running them. So each attachment has a few functions in schema visrec, of the same
-- statements with its names in them, which the common case goes through: no filter, and what the index finds will do.
-- They are made by the trigger of visrec.attachment, and anew when it is written and something in them has changed.

CREATE FUNCTION visrec._index_pool(n visrec._names, OUT pool text, OUT breadth text, OUT scan text, OUT times integer,
    OUT more integer, OUT at_least integer, OUT width integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    scan := CASE n.index_method WHEN 'ivfflat' THEN 'ivfflat' ELSE 'hnsw' END;
    -- How many rows the index gives for k wanted ones: one more shows whether it is as near as the k-th; bits tell near rows
    -- from nearer ones only roughly, and fewer numbers, too: there a greater width means more of them.
    -- Half precision changes places that are close together.
    more := CASE n.index_method WHEN 'hnsw_half' THEN 10 ELSE 1 END;
    times := CASE n.index_method WHEN 'hnsw_binary' THEN 20 WHEN 'hnsw_reduced' THEN 10 ELSE 1 END;
    at_least := CASE WHEN times > 1 THEN greatest(10 * times, least(n.width, 1000) - 1) END;
    pool := CASE WHEN times > 1 THEN format('GREATEST(%s OPERATOR(pg_catalog.*) $3, %s)', times, at_least)
        ELSE '$3 OPERATOR(pg_catalog.+) ' || more END;
    -- How many rows HNSW keeps in view, 1000 at most: what visrec.tune kept, or pgvector's default; more if more rows are wanted.
    width := CASE WHEN n.width IS NULL AND scan = 'ivfflat' THEN visrec._probes(n.relation) ELSE coalesce(n.width, 40) END;
    breadth := CASE scan WHEN 'ivfflat' THEN coalesce(n.width::text, format('visrec._probes(%s)', n.relation))
        ELSE format('LEAST(GREATEST(2 OPERATOR(pg_catalog.*) $3, %s, (%s) OPERATOR(pg_catalog.+) 1), 1000)', width, pool) END;
END
$$;
COMMENT ON FUNCTION visrec._index_pool(visrec._names) IS
    'Expressions for how many rows the index is asked for k ($3) wanted ones, and how broadly it looks; scan: the prefix of '
    'pgvector''s settings for it. The same in numbers: times k and at_least so many (once k and so many more where times is 1); width.';

CREATE FUNCTION visrec._names_hold(n visrec._names) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held CONSTANT text := 'pg_catalog.%s(%L)::pg_catalog.oid OPERATOR(pg_catalog.=) %s::pg_catalog.oid';
BEGIN
    RETURN concat_ws(' AND ',
        format(held, 'to_regclass', n.relation::regclass, n.relation),
        (SELECT format(held, 'to_regtype', t.oid::regtype, t.oid) FROM pg_type AS t JOIN pg_depend AS d ON d.classid = 'pg_type'::regclass
            AND d.objid = t.oid AND d.deptype = 'e' JOIN pg_extension AS e ON e.oid = d.refobjid
         WHERE t.typname = 'vector' AND e.extname = 'vector'),
        (SELECT format(held, 'to_regoperator', p.oid::regoperator, p.oid)
         FROM pg_index AS x JOIN pg_opclass AS c ON c.oid = x.indclass[0]
         JOIN pg_amop AS o ON o.amopfamily = c.opcfamily AND o.amopstrategy = 3
            AND o.amoplefttype = c.opcintype AND o.amoprighttype = c.opcintype
         JOIN pg_operator AS p ON p.oid = o.amopopr AND p.oprnamespace <> 'pg_catalog'::regnamespace
         WHERE x.indrelid = n.relation AND x.indisprimary));
END
$$;
COMMENT ON FUNCTION visrec._names_hold(visrec._names) IS
    'An expression for whether the names of an attachment''s table, of pgvector and of the key''s operator still mean what they do '
    'now: the owner of a schema may rename it, and make another of its name.';

CREATE FUNCTION visrec._inputs_statement(n visrec._names, target text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A key that comes twice counts once.
    RETURN format($query$
    SELECT pg_catalog.array_agg(%1$s ORDER BY u.n) FILTER (WHERE t.%2$s IS NULL),
           pg_catalog.array_agg(%1$s ORDER BY u.n) FILTER (WHERE t.%2$s IS NOT NULL AND t.%3$s IS NULL),
           pg_catalog.min(%1$s) FILTER (WHERE t.%3$s IS NOT NULL AND t.%4$s[1] OPERATOR(pg_catalog.<>) 0
               AND t.%4$s[1] OPERATOR(pg_catalog.>>) 32 OPERATOR(pg_catalog.<>) %5$s),
           pg_catalog.array_agg(t.%3$s ORDER BY u.n) FILTER (WHERE u.liked AND t.%3$s IS NOT NULL),
           pg_catalog.array_agg(u.w ORDER BY u.n) FILTER (WHERE u.liked AND t.%3$s IS NOT NULL),
           pg_catalog.array_agg(t.%3$s ORDER BY u.n) FILTER (WHERE NOT u.liked AND t.%3$s IS NOT NULL),
           pg_catalog.array_agg(u.w ORDER BY u.n) FILTER (WHERE NOT u.liked AND t.%3$s IS NOT NULL)
    %8$s
    FROM (SELECT i.id, i.liked, coalesce(pg_catalog.min(i.w), 1) AS w, pg_catalog.min(i.n) AS n
          FROM (SELECT l.id, l.w, true, l.n
                FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) WITH ORDINALITY AS l (id, w, n)
                UNION ALL SELECT d.id, d.w, false, d.n
                FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4)) WITH ORDINALITY AS d (id, w, n)
               ) AS i (id, w, liked, n) GROUP BY i.id, i.liked) AS u
    LEFT JOIN %6$s AS t ON t.%2$s %7$s u.id$query$,
        visrec._key_expression('u.id', n.key_oid), n.key, n.vector, n.source, n.weights, n."table", n.equals, target);
END
$$;
COMMENT ON FUNCTION visrec._inputs_statement(visrec._names, text) IS
    'The statement that visrec._inputs_<id> runs, of liked keys ($1) and their weights ($2), and disliked ones ($3, $4).';

CREATE FUNCTION visrec._make_search(attachment integer, kind text, arguments text, rest text, body text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    function_name text := format('_%s_%s', kind, attachment);
    -- Of what CREATE OR REPLACE cannot change. Not the text itself: the name of a type may have a line break in it.
    head text := format(E'-- %s\n', md5(concat_ws(')', arguments, rest)));
    made record;
BEGIN
    SELECT p.oid::regprocedure AS function, p.prosrc AS text INTO made FROM pg_proc AS p
    WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname = function_name;
    IF made.text = head || body THEN        -- to mark it anew would lock the extension until the transaction ends
        RETURN;
    ELSIF NOT starts_with(made.text, head) THEN
        BEGIN
            EXECUTE format('DROP FUNCTION %s', made.function);
        EXCEPTION WHEN dependent_objects_still_exist THEN       -- a view of anybody's: all may call it
            EXECUTE format('ALTER FUNCTION %s RENAME TO %I', made.function, '_unused_' || made.function::oid);
        END;
    END IF;
    EXECUTE format('CREATE OR REPLACE FUNCTION visrec.%I(%s) %s AS %L', function_name, arguments, rest, head || body);
    made.function := (SELECT p.oid::regprocedure FROM pg_proc AS p
                      WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname = function_name);
    EXECUTE format('ALTER FUNCTION %s DEPENDS ON EXTENSION visrec', made.function);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', made.function);
    EXECUTE format('COMMENT ON FUNCTION %s IS %L', made.function, format('For searches of %s: statements that are planned once a session.',
        (SELECT visrec._label(a.relation) FROM visrec.attachment AS a WHERE a.id = attachment)));
END
$$;
COMMENT ON FUNCTION visrec._make_search(integer, text, text, text, text) IS
    'Makes a planned search, unless it is there as it should be.';
REVOKE ALL ON FUNCTION visrec._make_search(integer, text, text, text, text) FROM PUBLIC;

CREATE FUNCTION visrec._make_searches(attachment integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
    a visrec.attachment;
    columns text;
    parts record := visrec._index_parts(n);
    pool record := visrec._index_pool(n);
    ordering text;
    hold CONSTANT text := visrec._names_hold(n);
BEGIN
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = attachment;
    -- Not by their own names: PL/pgSQL takes no parameter that is called $1.
    columns := (SELECT string_agg(format(', column_%s %s', c.n, visrec._type_name(c.type)), '' ORDER BY c.n)
                FROM unnest(a.types) WITH ORDINALITY AS c (type, n) WHERE c.n = 2 OR c.n > 4);
    ordering := format('%s %s %s', format(parts.expression, 't.' || n.vector), parts.operator, format(parts.expression, '$1'));

    -- Not knowing k, the planner would rather sort the whole table than use the index.
    PERFORM visrec._make_search(attachment, 'nearest',
        format('%s.vector, %s[], integer, double precision, boolean, OUT ids %s[], OUT distances double precision[]',
            n.vector_schema, n.key_type, n.key_type),
        'LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan SET enable_sort = off SET jit = off',
        CASE n.index_method WHEN 'none' THEN 'BEGIN END' ELSE format($body$
#variable_conflict use_column
<<search>>
DECLARE
    pool integer := %1$s;
    breadth pg_catalog.text := pg_catalog.current_setting(%2$L, true);
    broad pg_catalog.text;
    iterative pg_catalog.text;
    goes_on boolean := false;
    ignored pg_catalog.text;        -- an assignment is an expression, where PERFORM would be a statement
    found_ids %3$s[];
    found_distances double precision[];
    found pg_catalog.record;
BEGIN
    IF NOT $5 THEN
        IF (%13$s) IS NOT TRUE THEN     -- a name means something else now
            RETURN;
        END IF;
    END IF;
    IF search.breadth IS NULL THEN      -- pgvector's library is not loaded yet in this session, and knows its settings
        PERFORM visrec._cosine($1, $1);
        search.breadth := pg_catalog.current_setting(%2$L);
    END IF;
    search.iterative := pg_catalog.current_setting(%4$L);
    search.broad := GREATEST(search.breadth::integer, %6$s)::pg_catalog.text;
    IF search.broad OPERATOR(pg_catalog.<>) search.breadth THEN
        search.ignored := pg_catalog.set_config(%2$L, search.broad, true);
    END IF;
    -- A scan that may go on costs more from the start, and one that may not finds enough unless there are dead rows.
    IF search.iterative OPERATOR(pg_catalog.<>) 'off' THEN
        search.ignored := pg_catalog.set_config(%4$L, 'off', true);
    END IF;
    LOOP
        SELECT pg_catalog.array_agg(s.id ORDER BY s.d, s.id), pg_catalog.array_agg(s.d ORDER BY s.d, s.id)
        INTO search.found_ids, search.found_distances
        FROM (SELECT t.%7$s::%3$s AS id, t.%8$s OPERATOR(%9$s.<=>) $1 AS d FROM %10$s AS t
              WHERE t.%8$s IS NOT NULL AND NOT t.%7$s %11$s ANY ($2) ORDER BY %12$s LIMIT search.pool) AS s;
        EXIT WHEN search.goes_on OR pg_catalog.cardinality(search.found_ids) OPERATOR(pg_catalog.=) search.pool;
        search.goes_on := true;
        search.ignored := pg_catalog.set_config(%4$L, %5$L, true);
    END LOOP;
    IF search.goes_on OR search.broad OPERATOR(pg_catalog.<>) search.breadth OR search.iterative OPERATOR(pg_catalog.<>) 'off' THEN
        search.ignored := pg_catalog.set_config(%4$L, search.iterative, true);
        search.ignored := pg_catalog.set_config(%2$L, search.breadth, true);
    END IF;
    IF pg_catalog.cardinality(search.found_ids) OPERATOR(pg_catalog.=) search.pool THEN
        IF search.found_distances[$3] OPERATOR(pg_catalog.<>) search.found_distances[$3 OPERATOR(pg_catalog.+) 1]
            OR search.found_distances[$3] OPERATOR(pg_catalog.>) $4
        THEN
            ids := search.found_ids[:$3];
            distances := search.found_distances[:$3];
        ELSE
            search.found := visrec._by_index(%14$L::visrec._names, $1, $2, $3, NULL::pg_catalog.jsonb, 'true', 1, 20000, true);
            ids := search.found.ids;
            distances := search.found.distances;
        END IF;
    END IF;
END
$body$, pool.pool, CASE pool.scan WHEN 'hnsw' THEN 'hnsw.ef_search' ELSE 'ivfflat.probes' END, n.key_type,
            pool.scan || '.iterative_scan', CASE pool.scan WHEN 'hnsw' THEN 'strict_order' ELSE 'relaxed_order' END, pool.breadth,
            n.key, n.vector, n.vector_schema, n."table", n.equals, ordering, hold, n) END);

    PERFORM visrec._make_search(attachment, 'similar', format('%s, integer, jsonb, double precision, boolean', n.key_type),
        format('RETURNS TABLE (id %s, similarity double precision%s) LANGUAGE plpgsql STABLE ROWS 10', n.key_type, columns),
        format($body$
#variable_conflict use_column
<<search>>
DECLARE
    found pg_catalog.record;
BEGIN
    IF $4 IS NULL AND $2 OPERATOR(pg_catalog.>) 0 AND $2 OPERATOR(pg_catalog.<) 1000 AND %13$s THEN
        <<asked>>
        DECLARE         -- here: a domain by the name of pgvector's type would run its CHECKs
            query %1$s.vector;
            source pg_catalog.int8;
        BEGIN
            -- All of the vector, as a copy: the one in the table would be fetched for each comparison.
            SELECT %1$s.subvector(t.%2$s, 1, 16000), t.%3$s[1] INTO asked.query, asked.source
            FROM %4$s AS t WHERE t.%5$s %6$s $1;
            IF asked.query IS NOT NULL AND (asked.source IS NULL OR asked.source OPERATOR(pg_catalog.=) 0
                OR asked.source OPERATOR(pg_catalog.>>) 32 OPERATOR(pg_catalog.=) %7$s)
            THEN
                IF $3 IS NULL THEN
                    search.found := visrec.%8$I(asked.query, ARRAY[$1], $2, NULL, true);
                ELSE
                    search.found := visrec._filtered(%14$L::visrec._names, asked.query, ARRAY[$1], $2, $3);
                END IF;
                IF search.found.ids IS NOT NULL THEN
                    RETURN QUERY %9$s;
                END IF;
                IF search.found.ids IS NOT NULL OR $3 IS NOT NULL THEN      -- a filter may leave nothing
                    RETURN;
                END IF;
            END IF;
        EXCEPTION WHEN undefined_column OR undefined_table OR undefined_function OR datatype_mismatch THEN
            NULL;       -- the table has changed: what follows says how, or finds its columns by their numbers
        END;
    END IF;
    RETURN QUERY SELECT * FROM visrec._similar(%10$s, $1, $2, $3, $4, $5) AS r (id %11$s, similarity double precision%12$s);
END
$body$, n.vector_schema, n.vector, n.source, n."table", n.key, n.equals, n.weights, '_nearest_' || n.id,
            visrec._result_statement(n, '(SELECT search.found.ids AS ids, search.found.distances AS distances)'),
            n.id, n.key_type, columns, hold, n));

    PERFORM visrec._make_search(attachment, 'result', format('%s[], double precision[]', n.key_type),
        format('RETURNS TABLE (id %s, similarity double precision%s) LANGUAGE plpgsql STABLE ROWS 10', n.key_type, columns),
        format($body$
#variable_conflict use_column
BEGIN
    IF %1$s THEN
        RETURN QUERY %2$s;
    ELSE
        RETURN QUERY EXECUTE visrec._result_statement(visrec._resolve(%3$s)) USING $1, $2;
    END IF;
END
$body$, hold, visrec._result_statement(n), n.id));

    PERFORM visrec._make_search(attachment, 'inputs', format('%1$s[], double precision[], %1$s[], double precision[], '
        'OUT missing text[], OUT bare text[], OUT other text, OUT likes %2$s.vector[], OUT like_weights double precision[], '
        'OUT dislikes %2$s.vector[], OUT dislike_weights double precision[]', n.key_type, n.vector_schema),
        'LANGUAGE plpgsql STABLE', format($body$
#variable_conflict use_column
BEGIN
    IF %1$s THEN%2$s;
    ELSE
        EXECUTE visrec._inputs_statement(visrec._resolve(%3$s), '')
        INTO missing, bare, other, likes, like_weights, dislikes, dislike_weights USING $1, $2, $3, $4;
    END IF;
END
$body$, hold, visrec._inputs_statement(n, 'INTO missing, bare, other, likes, like_weights, dislikes, dislike_weights'), n.id));
END
$$;
COMMENT ON FUNCTION visrec._make_searches(integer) IS
    'Makes an attachment''s planned searches, as it is now: visrec._nearest_<id>, by a vector, without the excluded keys (NULLs '
    'where visrec._nearest must look closer; which of those beyond max_distance it gives does not matter; true: the caller has seen '
    'to it that the names hold); visrec._similar_<id>, by a key; visrec._result_<id>, the columns that searches return, of keys and '
    'distances; and visrec._inputs_<id>, the vectors of liked and disliked rows.';
REVOKE ALL ON FUNCTION visrec._make_searches(integer) FROM PUBLIC;

CREATE FUNCTION visrec._renew_searches(attachment integer) RETURNS void
-- As the extension's owner: who renames a schema may own none of the tables in it. What is made follows from the line alone.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '10ms' AS $$
BEGIN
    PERFORM FROM pg_event_trigger_ddl_commands();       -- an error for anybody else
    PERFORM visrec._make_searches(attachment);
END
$$;
COMMENT ON FUNCTION visrec._renew_searches(integer) IS 'visrec._make_searches for whoever renames what an attachment''s names are made of.';

CREATE FUNCTION visrec._searches_hold(a visrec.attachment) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname = '_similar_' || a.id
        AND (strpos(p.prosrc, a.relation::regclass || ' AS t') = 0
             OR strpos(p.prosrc, format('OPERATOR(pg_catalog.=) %s::pg_catalog.oid', a.relation::oid)) = 0))
$$;
COMMENT ON FUNCTION visrec._searches_hold(visrec.attachment) IS
    'Whether an attachment''s planned searches have its table''s name and number in them, as far as they are there.';

CREATE FUNCTION visrec._searches(attachment integer) RETURNS SETOF regprocedure
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.oid::regprocedure FROM pg_proc AS p, unnest('{nearest,similar,result,inputs}'::text[]) AS s (name)
    WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname = format('_%s_%s', s.name, attachment)
$$;
COMMENT ON FUNCTION visrec._searches(integer) IS 'The functions that visrec._make_searches made.';
