-- tune: how broadly searches must look so that they find what the attachment's target promises.

CREATE FUNCTION visrec._widths(n visrec._names) RETURNS integer[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lists integer;
BEGIN
    IF n.index_method = 'ivfflat' THEN
        lists := (SELECT max(visrec._option(i.index, 'lists')) FROM visrec.attachment AS a, visrec._indexes(a.relation, a.numbers[3]) AS i
                  WHERE a.id = n.id AND i.access = 'ivfflat');
        RETURN ARRAY(SELECT DISTINCT least(ceil(f * sqrt(lists))::integer, lists) AS probes
                     FROM unnest('{0.5,1,2,3,4,6,8,12,16}'::float8[]) AS f ORDER BY probes);
    END IF;
    RETURN ARRAY(SELECT w FROM unnest('{40,60,100,150,200,300,400,600,800,1000}'::integer[]) AS w
                 -- Fewer candidates than these are never asked for: see visrec._index_pool.
                 WHERE w >= CASE n.index_method WHEN 'hnsw_binary' THEN 200 WHEN 'hnsw_reduced' THEN 100 ELSE 0 END ORDER BY w);
END
$$;
COMMENT ON FUNCTION visrec._widths(visrec._names) IS 'The widths that visrec.tune tries: of hnsw.ef_search, or of ivfflat.probes.';

CREATE FUNCTION visrec._option(index regclass, option text) RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.option_value::integer FROM pg_class AS c, pg_options_to_table(c.reloptions) AS o
    WHERE c.oid = index AND o.option_name = option
$$;
COMMENT ON FUNCTION visrec._option(regclass, text) IS 'A storage parameter of an index; NULL where it has its default.';

CREATE FUNCTION visrec._found_by_index(n visrec._names, id text, width integer, k integer) RETURNS double precision[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_sort = off SET jit = off AS $$
DECLARE
    parts record := visrec._index_parts(n);
    asked record;
    breadth text;
    before text[];
    pool integer;
    broad integer;
    found double precision[];
BEGIN
    n.width := width;
    asked := visrec._index_pool(n);
    breadth := CASE asked.scan WHEN 'hnsw' THEN 'hnsw.ef_search' ELSE 'ivfflat.probes' END;
    before := ARRAY[current_setting(breadth), current_setting(asked.scan || '.iterative_scan')];
    EXECUTE replace(format('SELECT %s, %s', asked.pool, asked.breadth), '$3', k::text) INTO pool, broad;
    PERFORM set_config(breadth, broad::text, true), set_config(asked.scan || '.iterative_scan', 'off', true);
    EXECUTE format($query$
        SELECT array_agg(s.d ORDER BY s.d)
        FROM (SELECT t.%1$s OPERATOR(%2$s.<=>) (SELECT q.%1$s FROM %3$s AS q WHERE q.%4$s %5$s $1::%6$s) AS d
              FROM %3$s AS t WHERE t.%1$s IS NOT NULL AND NOT t.%4$s %5$s $1::%6$s
              ORDER BY %7$s %8$s %9$s LIMIT $2) AS s
        $query$, n.vector, n.vector_schema, n."table", n.key, n.equals, n.key_type, format(parts.expression, 't.' || n.vector),
        parts.operator, format(parts.expression, format('(SELECT %s.subvector(q.%s, 1, 16000) FROM %s AS q WHERE q.%s %s $1::%s)',
            n.vector_schema, n.vector, n."table", n.key, n.equals, n.key_type)))
    INTO found USING id, pool;
    PERFORM set_config(breadth, before[1], true), set_config(asked.scan || '.iterative_scan', before[2], true);
    RETURN found[:k];
END
$$;
COMMENT ON FUNCTION visrec._found_by_index(visrec._names, text, integer, integer) IS
    'The distances of a row''s k nearest as the index finds them with a width, nearest first.';

CREATE FUNCTION visrec._nearest_distances(n visrec._names, ids text[], bounds double precision[], k integer) RETURNS SETOF double precision[]
-- One scan for all of them: to fetch a vector takes longer than to compare it.
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    RETURN QUERY EXECUTE format($query$
        WITH asked AS MATERIALIZED (
            SELECT a.n, a.bound, t.%1$s AS id, %2$s.subvector(t.%3$s, 1, 16000) AS vector
            FROM ROWS FROM (unnest($1::%4$s[]), unnest($2)) WITH ORDINALITY AS a (id, bound, n)
            JOIN %5$s AS t ON t.%1$s %6$s a.id
        ), near AS MATERIALIZED (
            SELECT c.n, c.d
            FROM (SELECT t.%1$s AS id, %2$s.subvector(t.%3$s, 1, 16000) AS vector FROM %5$s AS t WHERE t.%3$s IS NOT NULL OFFSET 0) AS h
            CROSS JOIN LATERAL (
                SELECT q.n, h.vector OPERATOR(%2$s.<=>) q.vector AS d FROM asked AS q
                WHERE h.vector OPERATOR(%2$s.<=>) q.vector <= q.bound AND NOT q.id %6$s h.id OFFSET 0) AS c
        )
        SELECT (SELECT (array_agg(e.d ORDER BY e.d))[:$3] FROM near AS e WHERE e.n = a.n)
        FROM generate_series(1, cardinality($1)) AS a (n) ORDER BY a.n
        $query$, n.key, n.vector_schema, n.vector, n.key_type, n."table", n.equals)
    USING ids, bounds, k;
END
$$;
COMMENT ON FUNCTION visrec._nearest_distances(visrec._names, text[], double precision[], integer) IS
    'For each of these rows the distances of its k nearest, nearest first, by an exact search that is told of a bound that '
    'the k-th is within; NULL for a vector without a direction.';

CREATE FUNCTION visrec._measure_widths(n visrec._names, seconds double precision) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    k CONSTANT integer := 10;
    most CONSTANT integer := 200;
    -- Distances that differ by less are of rows as near as each other.
    tolerance CONSTANT double precision := 1e-9;
    started CONSTANT timestamptz := clock_timestamp();
    widths CONSTANT integer[] := visrec._widths(n);
    began timestamptz;
    searched timestamptz;
    needed double precision;
    rows bigint;
    ids text[];
    batch text[];
    size integer := 8;
    done integer := 0;
    one double precision[];
    found text[];               -- what the index found: of each query of the batch, with each width
    bounds double precision[];
    nearest double precision[];
    place bigint;
    queries integer := 0;
    recalls double precision[] := '{}';
    times double precision[] := '{}';
BEGIN
    EXECUTE format('SELECT count(t.%s) FROM %s AS t', n.vector, n."table") INTO rows;
    EXECUTE format('SELECT ARRAY(SELECT %1$s FROM %2$s AS t WHERE t.%3$s IS NOT NULL '
        'ORDER BY hashtextextended(%1$s COLLATE "C", 0), %1$s COLLATE "C" LIMIT %4$s)', n.key_text, n."table", n.vector, most) INTO ids;
    -- What a scan would take, from a part of it.
    began := clock_timestamp();
    EXECUTE format('SELECT FROM (SELECT %1$s.subvector(t.%2$s, 1, 16000) AS v FROM %3$s AS t WHERE t.%2$s IS NOT NULL LIMIT 5000) AS s HAVING '
        'count(s.v) = 0', n.vector_schema, n.vector, n."table");
    needed := extract(epoch FROM clock_timestamp() - began) * greatest(rows / 5000.0, 1);
    WHILE done < cardinality(ids) AND extract(epoch FROM clock_timestamp() - started) + needed <= seconds LOOP
        began := clock_timestamp();
        batch := ids[done + 1 : done + size];
        found := '{}';
        bounds := '{}';
        FOR q IN 1 .. cardinality(batch) LOOP
            FOR w IN 1 .. cardinality(widths) LOOP
                searched := clock_timestamp();
                one := visrec._found_by_index(n, batch[q], widths[w], k);
                times := times || (extract(epoch FROM clock_timestamp() - searched) * 1000)::double precision;
                found := found || coalesce(one::text, '{}');
            END LOOP;
            -- The broadest search has the k-th at worst this far away.
            bounds := bounds || coalesce(one[k] + tolerance, 'Infinity');
        END LOOP;
        FOR nearest, place IN SELECT * FROM visrec._nearest_distances(n, batch, bounds, k) WITH ORDINALITY LOOP
            CONTINUE WHEN nearest IS NULL;
            queries := queries + 1;
            FOR w IN 1 .. cardinality(widths) LOOP
                recalls := recalls || (
                    SELECT count(*)::double precision / cardinality(nearest)
                    FROM unnest(found[(place - 1) * cardinality(widths) + w]::double precision[]) AS d
                    WHERE d <= nearest[cardinality(nearest)] + tolerance);
            END LOOP;
        END LOOP;
        done := done + cardinality(batch);
        needed := extract(epoch FROM clock_timestamp() - began) / cardinality(batch);
        -- One scan for more rows takes less time for each.
        size := least(64, greatest(8, floor((seconds - extract(epoch FROM clock_timestamp() - started)) / needed)));
        needed := needed * size;
    END LOOP;
    RETURN jsonb_build_object('rows', rows, 'queries', queries, 'all', done = cardinality(ids), 'needed', needed, 'widths', (
        SELECT jsonb_agg(to_jsonb(m) ORDER BY m.width)
        FROM (SELECT widths[(r.n - 1) % cardinality(widths) + 1] AS width, avg(r.recall) AS recall,
                     coalesce(stddev_samp(r.recall), 0) AS deviation, percentile_cont(0.5) WITHIN GROUP (ORDER BY r.ms) AS ms
              FROM ROWS FROM (unnest(recalls), unnest(times)) WITH ORDINALITY AS r (recall, ms, n) GROUP BY 1) AS m));
END
$$;
COMMENT ON FUNCTION visrec._measure_widths(visrec._names, double precision) IS
    'What visrec.tune measures in so many seconds. rows: how many vectors the table has; queries: for how many of them the ten '
    'nearest were asked for; widths: for each the mean recall, its standard deviation, and the median milliseconds; all: whether '
    'the whole sample was asked; needed: the seconds that the next batch would have taken.';

CREATE FUNCTION visrec._reindex_call(a visrec.attachment, m integer, ef_construction integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('CALL visrec.reindex(%L, %L%s%s%s%s);', a.relation, a.index_method,
        CASE WHEN a.index_metric <> 'cosine' THEN format(', %L', a.index_metric) ELSE '' END, visrec._name_argument(a.id),
        ', m => ' || m, ', ef_construction => ' || ef_construction)
$$;
COMMENT ON FUNCTION visrec._reindex_call(visrec.attachment, integer, integer) IS 'The call that builds an attachment''s index with these options (NULL: pgvector''s), for hints.';

CREATE FUNCTION visrec._out_of_reach(a visrec.attachment) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    index regclass := (SELECT min(i.index::oid) FROM visrec._indexes(a.relation, a.numbers[3]) AS i WHERE i.made AND i.access = 'hnsw');
    m integer := coalesce(visrec._option(index, 'm'), 16);
    ef integer := coalesce(visrec._option(index, 'ef_construction'), 64);
    hint text;
BEGIN
    -- Twice the neighbours a row, chosen of four times the candidates: what is too thin gets denser.
    hint := CASE
        WHEN a.index_method IN ('hnsw', 'hnsw_half') AND m < 64
            THEN visrec._reindex_call(a, least(2 * m, 64), least(greatest(4 * ef, 4 * m), 1000))
        WHEN a.index_method IN ('hnsw_binary', 'hnsw_reduced')
            THEN format('CALL visrec.reindex(%L, ''hnsw''%s);', a.relation, visrec._name_argument(a.id))
        ELSE format('SELECT visrec.attach(%L%s, recall => %s);', a.relation, visrec._name_argument(a.id),
            to_char(floor(a.tuned_recall * 100) / 100, 'FM0.00')) END;
    RAISE WARNING USING
        MESSAGE = format('searches of table "%s" find %s of the nearest rows, fewer than the %s that they should', visrec._label(a.relation),
            to_char(a.tuned_recall, 'FM0.0000'), a.recall),
        DETAIL = format('That is with a width of %s, the best of those that were tried.', a.width)
            || CASE WHEN index IS NOT NULL THEN format(' The index has m = %s and ef_construction = %s.', m, ef) ELSE '' END,
        HINT = hint;
END
$$;
COMMENT ON FUNCTION visrec._out_of_reach(visrec.attachment) IS 'Says what would reach an attachment''s target, where no width does.';

CREATE FUNCTION visrec._tune(attachment integer, seconds double precision) RETURNS TABLE (width integer, recall double precision,
    at_least double precision, ms double precision, kept boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    measured CONSTANT jsonb := visrec._call(attachment, 'measure', jsonb_build_object('seconds', seconds));
    queries CONSTANT bigint := measured ->> 'queries';
    rows CONSTANT bigint := measured ->> 'rows';
    a visrec.attachment;
    before integer;
    lines jsonb;
    best record;
BEGIN
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = attachment;
    IF queries = 0 THEN
        IF rows >= 2 AND NOT (measured ->> 'all')::boolean THEN
            RAISE NOTICE USING
                MESSAGE = format('table "%s" cannot be tuned in %s', visrec._label(a.relation), make_interval(secs => seconds)),
                DETAIL = format('An exact search of its %s vectors takes longer.', rows),
                HINT = format('SELECT * FROM visrec.tune(%L, ''%s s''%s);', a.relation, ceil((measured ->> 'needed')::float8 * 10),
                    visrec._name_argument(a.id));
        ELSE
            RAISE NOTICE USING
                MESSAGE = format('table "%s" has fewer than two vectors to compare', visrec._label(a.relation)),
                HINT = format('SELECT * FROM visrec.coverage(%L%s);', a.relation, visrec._name_argument(a.id));
        END IF;
        RETURN;
    END IF;
    lines := (
        SELECT jsonb_agg(jsonb_build_object('width', m.width, 'recall', m.recall, 'ms', m.ms, 'at_least', m.recall
                -- One-sided, 95 %. A few queries that all found everything do not show that others would: hits are taken to
                -- vary at least as they do by chance where the target is just met. No error where all rows were asked for.
                - 1.645 * greatest(m.deviation, sqrt(a.recall * (1 - a.recall) / 10)) / sqrt(queries)
                * sqrt(1 - queries / rows::float8)) ORDER BY m.width)
        FROM jsonb_to_recordset(measured -> 'widths') AS m (width integer, recall float8, deviation float8, ms float8));
    SELECT l.*, l.at_least >= a.recall AS reached INTO best
    FROM jsonb_to_recordset(lines) AS l (width integer, recall float8, at_least float8, ms float8)
    ORDER BY reached DESC, CASE WHEN l.at_least < a.recall THEN -l.recall END, l.width LIMIT 1;
    before := a.width;
    a.width := best.width;
    a.tuned_recall := best.recall;
    a.tuned_at := clock_timestamp();
    a.tuned_queries := queries;
    a.tuned_rows := rows;
    IF best.width IS DISTINCT FROM before THEN       -- the planned searches have it in them: they are made anew with relation
        UPDATE visrec.own_attachment AS o SET (relation, width, tuned_recall, tuned_at, tuned_queries, tuned_rows)
            = ROW (o.relation, a.width, a.tuned_recall, a.tuned_at, a.tuned_queries, a.tuned_rows) WHERE o.id = a.id;
    ELSE
        UPDATE visrec.own_attachment AS o SET (tuned_recall, tuned_at, tuned_queries, tuned_rows)
            = ROW (a.tuned_recall, a.tuned_at, a.tuned_queries, a.tuned_rows) WHERE o.id = a.id;
    END IF;
    IF best.recall < a.recall THEN
        PERFORM visrec._out_of_reach(a);
    ELSIF NOT best.reached THEN
        RAISE NOTICE USING
            MESSAGE = format('%s queries are too few to tell whether searches of table "%s" find %s of the nearest rows', queries,
                visrec._label(a.relation), a.recall),
            DETAIL = format('These found %s.', to_char(best.recall, 'FM0.0000')),
            HINT = CASE WHEN (measured ->> 'all')::boolean THEN 'It is the best that was found; a lower target of visrec.attach would be sure.'
                ELSE format('SELECT * FROM visrec.tune(%L, ''%s s''%s);', a.relation, ceil(4 * seconds), visrec._name_argument(a.id)) END;
    END IF;
    RETURN QUERY SELECT l.width, l.recall, l.at_least, l.ms, l.width = best.width
        FROM jsonb_to_recordset(lines) AS l (width integer, recall float8, at_least float8, ms float8) ORDER BY l.width;
END
$$;
COMMENT ON FUNCTION visrec._tune(integer, double precision) IS 'What visrec.tune does.';

CREATE FUNCTION visrec.tune(relation regclass, budget interval DEFAULT '30 seconds', name name DEFAULT NULL) RETURNS TABLE (width integer,
    recall double precision, at_least double precision, ms double precision, kept boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(visrec._find(relation, name));
    seconds CONSTANT double precision := extract(epoch FROM budget);
BEGIN
    PERFORM visrec._check_owner(relation);
    IF (seconds > 0) IS NOT TRUE THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('budget must be greater than 0, not %s', coalesce(budget::text, 'NULL'));
    ELSIF NOT visrec._has_index(n) THEN
        RAISE NOTICE USING
            MESSAGE = format('table "%s" has no index to tune', visrec._label(n.relation)),
            DETAIL = 'Searches compare every row, and find all of the nearest.',
            HINT = format('CALL visrec.reindex(%L%s);', relation, visrec._name_argument(n.id));
        RETURN;
    END IF;
    PERFORM visrec._note_hidden(relation);
    RETURN QUERY SELECT * FROM visrec._tune(n.id, seconds);
END
$$;
COMMENT ON FUNCTION visrec.tune(regclass, interval, name) IS
    'Finds how broadly searches of a table must look to reach the attachment''s target (attach''s recall), and keeps that width. '
    'The rows of a sample (at most 200, the same each time, fewer if the budget of time ends) are searched by the index at '
    'growing widths, hnsw.ef_search 40 to 1000 or ivfflat.probes, and exactly. recall: of their ten nearest, the share '
    'found, in the mean (as in visrec.recall); at_least: recall - 1.645 s / sqrt(n) * sqrt(1 - n / N) for n queries among N vectors, with s '
    'the standard deviation of their recalls, but at least sqrt(target (1 - target) / 10): with 95 % certainty '
    'it is no less than that. ms: the median of a search. Kept is the smallest width whose at_least reaches the target, else the one with the highest '
    'recall, with a WARNING that says what would reach it. All searches of the table then look so broadly, or as '
    'broadly as the session''s own setting says if that is greater. Measured as the table''s owner, also for administrators. '
    'Called at the end of backfill and reindex; due again when the table has doubled (see visrec.selftest).';

CREATE FUNCTION visrec._has_index(n visrec._names) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts record := visrec._index_parts(n);
BEGIN
    RETURN n.index_method <> 'none' AND EXISTS (
        SELECT FROM visrec.attachment AS a, visrec._indexes(a.relation, a.numbers[3]) AS i
        WHERE a.id = n.id AND i.access = parts.access AND i.opclass = parts.opclass AND (i.made OR i.plain));
END
$$;
COMMENT ON FUNCTION visrec._has_index(visrec._names) IS 'Whether searches of an attached table have the index that they ask for.';

CREATE FUNCTION visrec._tune_again(attachment integer, seconds double precision, again boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- To compare so few one by one takes a moment, and to tune for them longer.
    few CONSTANT bigint := 1000;
    a visrec.attachment;
    rows bigint;
BEGIN
    IF NOT visrec._has_index(visrec._resolve(attachment)) THEN
        RETURN;
    END IF;
    rows := visrec._call(attachment, 'count_vectors');
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = attachment;
    IF rows < few OR NOT again AND rows < 2 * a.tuned_rows THEN
        RETURN;
    END IF;
    PERFORM visrec._tune(attachment, seconds);
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = attachment;
    IF a.tuned_recall >= a.recall THEN
        RAISE NOTICE '%: searches find % of the nearest rows, with a width of %', visrec._label(a.relation),
            to_char(a.tuned_recall, 'FM0.0000'), a.width;
    END IF;
EXCEPTION WHEN OTHERS THEN      -- what was done before stays done
    RAISE WARNING USING
        MESSAGE = format('could not tune table "%s": %s', visrec._label(a.relation), SQLERRM),
        HINT = format('SELECT * FROM visrec.tune(%L%s);', a.relation, visrec._name_argument(attachment));
END
$$;
COMMENT ON FUNCTION visrec._tune_again(integer, double precision, boolean) IS
    'What backfill and reindex end with: tunes a table of at least 1000 vectors, unless it was tuned with more than half as many '
    '(again: also then).';

CREATE FUNCTION visrec._vectors_about(a visrec.attachment) RETURNS double precision
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- As ANALYZE and VACUUM left it: to count would read every row.
    SELECT sum(greatest(c.reltuples, 0) * (1 - coalesce(s.stanullfrac, 0)))
    FROM (SELECT a.relation::oid AS relid UNION SELECT p.relid FROM pg_partition_tree(a.relation) AS p) AS t
    JOIN pg_class AS c ON c.oid = t.relid AND c.relkind <> 'p'
    LEFT JOIN pg_attribute AS f ON f.attrelid = c.oid AND f.attname = visrec._current_name(a.relation, a.numbers[3])
    LEFT JOIN pg_statistic AS s ON s.starelid = c.oid AND s.staattnum = f.attnum AND NOT s.stainherit
$$;
COMMENT ON FUNCTION visrec._vectors_about(visrec.attachment) IS 'How many vectors a table has, as its statistics say.';

CREATE FUNCTION visrec._recall_state(a visrec.attachment, OUT due boolean, OUT result text) RETURNS record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    few CONSTANT double precision := 1000;      -- as in visrec._tune_again
    rows double precision := visrec._vectors_about(a);
BEGIN
    IF a.index_method = 'none' OR a.tuned_at IS NULL AND rows < few THEN
        RETURN;
    ELSIF a.tuned_at IS NULL THEN
        due := true;
        result := format('not measured, among about %s vectors', rows::bigint);
        RETURN;
    END IF;
    due := a.tuned_recall < a.recall OR rows >= greatest(2 * a.tuned_rows, few);
    result := format('%s (target %s) with a width of %s, of %s queries on %s among %s vectors', to_char(a.tuned_recall, 'FM0.0000'), a.recall,
        a.width, a.tuned_queries, a.tuned_at::date, a.tuned_rows) || CASE WHEN rows >= greatest(2 * a.tuned_rows, few)
        THEN format('; now there are about %s', rows::bigint) ELSE '' END;
END
$$;
COMMENT ON FUNCTION visrec._recall_state(visrec.attachment) IS
    'What visrec.selftest says of an attachment''s recall, and whether visrec.tune is due: never called for 1000 vectors or more, '
    'below the target, or twice as many vectors as then. NULLs where there is nothing to say.';
REVOKE ALL ON FUNCTION visrec._vectors_about(visrec.attachment), visrec._recall_state(visrec.attachment) FROM PUBLIC;
