-- Searches under a filter: by the index or row by row, whichever costs less, and by the other where the guess was wrong.

CREATE FUNCTION visrec._expected(n visrec._names, condition text, filter jsonb, OUT rows double precision,
    OUT share double precision, OUT cost double precision)
-- Volatile, since EXPLAIN is refused to others; it changes nothing.
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    plan json;
    all_rows double precision;
BEGIN
    EXECUTE format('EXPLAIN (FORMAT JSON) SELECT FROM %s AS t WHERE %s', n."table", condition) INTO plan
    USING NULL::text, NULL::text, filter;
    rows := (plan #>> '{0,Plan,Plan Rows}')::double precision;
    cost := (plan #>> '{0,Plan,Total Cost}')::double precision;
    all_rows := (SELECT c.reltuples FROM pg_class AS c WHERE c.oid = n.relation);
    IF all_rows < 0 THEN        -- never analyzed: the planner goes by the table's size
        EXECUTE format('EXPLAIN (FORMAT JSON) SELECT FROM %s AS t', n."table") INTO plan;
        all_rows := (plan #>> '{0,Plan,Plan Rows}')::double precision;
    END IF;
    share := rows / greatest(all_rows, rows, 1);
END
$$;
COMMENT ON FUNCTION visrec._expected(visrec._names, text, jsonb) IS
    'How many rows the planner expects a filter to leave, of all rows, and the cost of finding them in its own units.';

CREATE FUNCTION visrec._costs(n visrec._names, pool integer, rows double precision, share double precision, cost double precision,
    OUT by_index double precision, OUT by_row double precision, OUT per_visit double precision)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dimension double precision := (SELECT m.dimension FROM visrec.model AS m WHERE m.name = n.model);
BEGIN
    -- Microseconds, measured by benchmarks/filtering.py; what counts is how they compare. A vector is fetched from TOAST.
    by_row := 1.5 * cost + (4 + dimension / 600) * rows;
    -- The index knows nothing of the filter: of the rows that it visits a share passes.
    per_visit := CASE n.index_method WHEN 'hnsw_binary' THEN 4 WHEN 'ivfflat' THEN 0.5 ELSE 4 + dimension / 85 END;
    -- It is asked as broadly as visrec._by_index does, and goes on until enough have passed: some four visits to find one more.
    by_index := 4 * per_visit * greatest(coalesce(n.width, 40), least(coalesce(n.width, 40) / greatest(share, 1e-9), 24 * pool),
        pool / greatest(share, 1e-9));
END
$$;
COMMENT ON FUNCTION visrec._costs(visrec._names, integer, double precision, double precision, double precision) IS
    'About how many microseconds it takes to find pool rows by the index, a visit to each costing per_visit, and to compare all '
    'rows that a filter leaves; rows, share and cost as visrec._expected has them.';

CREATE FUNCTION visrec._by_index(n visrec._names, query vector, excluded anyarray, k integer, filter jsonb, condition text,
    share double precision, visits double precision, tied boolean DEFAULT false, OUT ids anyarray, OUT distances double precision[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
-- The planner would rather sort a few rows than use the index.
SET enable_sort = off AS $$
DECLARE
    parts record := visrec._index_parts(n);
    ordering CONSTANT text := format('%s %s %s', format(parts.expression, 't.' || n.vector), parts.operator, format(parts.expression, '$1'));
    asked record := visrec._index_pool(n);
    settings CONSTANT text[] := ARRAY[CASE asked.scan WHEN 'hnsw' THEN 'hnsw.ef_search' ELSE 'ivfflat.probes' END,
        asked.scan || '.iterative_scan', 'hnsw.max_scan_tuples'];
    before text[];
    pool integer;
    widest integer;
    broad integer;
    found record;
BEGIN
    IF current_setting(settings[1], true) IS NULL THEN
        PERFORM visrec._cosine(query, query);       -- loads pgvector's library, which knows the settings
    END IF;
    before := ARRAY(SELECT current_setting(s) FROM unnest(settings) AS s);
    pool := CASE asked.times WHEN 1 THEN k + asked.more ELSE greatest(asked.times * k, asked.at_least) END;
    broad := asked.width;
    widest := greatest(1000, 2 * pool);
    LOOP
        IF tied THEN
            pool := least(CASE WHEN found IS NULL THEN pool + 40 ELSE 5 * pool END, widest);
        END IF;
        IF asked.scan = 'hnsw' THEN     -- it goes on until it has enough, but finds better ones when it begins broadly enough
            broad := least(greatest(2 * k, pool + 1, asked.width, least(asked.width / share, 24 * pool)), 1000);
        ELSE        -- rows that pass are in as many lists more
            broad := least(ceil(asked.width / greatest(share, 1e-4)), 32768);
        END IF;
        -- A larger setting of the session's is kept. Rows come nearly in order, and are sorted below.
        PERFORM set_config(settings[1], greatest(before[1]::integer, broad)::text, true),
            set_config(settings[2], 'relaxed_order', true),
            set_config(settings[3], least(greatest(visits, 2 * broad), 2147483647)::integer::text, true);
        -- Rows of one vector are as far in the index, too. Once it gives a farther one, it has given them all.
        EXECUTE format('SELECT s.ids, s.distances, (SELECT max(u.o) FROM unnest(s.distances, s.orders) AS u (d, o) WHERE u.d = s.distances[$4]) '
            '< s.reached AS past FROM (SELECT array_agg(p.id ORDER BY p.d, p.id) AS ids, array_agg(p.d ORDER BY p.d, p.id) AS distances, '
            'array_agg(p.o ORDER BY p.d, p.id) AS orders, (array_agg(p.o ORDER BY p.place DESC))[1] AS reached '
            'FROM (SELECT i.*, row_number() OVER () AS place '
            'FROM (SELECT t.%1$s::%9$s AS id, t.%2$s OPERATOR(%3$s.<=>) $1 AS d, %7$s AS o FROM %4$s AS t WHERE %6$s '
            'AND t.%2$s IS NOT NULL AND NOT t.%1$s %5$s ANY ($2) ORDER BY %7$s LIMIT %8$s) AS i) AS p) AS s',
            n.key, n.vector, n.vector_schema, n."table", n.equals, condition, ordering, pool, n.key_type)
        INTO found USING query, excluded, filter, k;
        tied := found.distances[k] = found.distances[k + 1] AND NOT found.past;
        EXIT WHEN (tied AND cardinality(found.ids) = pool AND pool < widest AND pool / share < visits) IS NOT TRUE;
    END LOOP;
    PERFORM set_config(s.name, s.value, true) FROM unnest(settings, before) AS s (name, value);
    IF NOT tied AND cardinality(found.ids) = pool THEN
        ids := found.ids[:k];
        distances := found.distances[:k];
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._by_index(visrec._names, vector, anyarray, integer, jsonb, text, double precision, double precision, boolean) IS
    'The k nearest of the rows that a filter leaves, by the attachment''s index; NULL where it visited as many rows as it may '
    'before it had them. Where more are as near as the k-th, it is asked for more, until they have all come: the first by their keys '
    'are taken. NULL, too, where they are more than 1000 or so: a graph with so many equal rows hides others. '
    'share: of the rows that the condition leaves; tied: that there are more is known.';

CREATE FUNCTION visrec._by_row(n visrec._names, query vector, excluded anyarray, k integer, filter jsonb, condition text,
    most double precision, OUT ids anyarray, OUT distances double precision[], OUT more boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found record;
BEGIN
    -- The sum keeps the index out; OFFSET has what the filter leaves, and not every row, looked at further.
    EXECUTE format('WITH d AS MATERIALIZED (SELECT t.%1$s::%10$s AS id, (t.%2$s OPERATOR(%3$s.<=>) $1) + 0 AS d '
        'FROM (SELECT t.%1$s, t.%2$s FROM %4$s AS t WHERE %6$s OFFSET 0) AS t '
        'WHERE t.%2$s IS NOT NULL AND NOT t.%1$s %5$s ANY ($2)%8$s) '
        'SELECT array_agg(s.id ORDER BY s.d, s.id) AS ids, array_agg(s.d ORDER BY s.d, s.id) AS distances, '
        '%9$s AS more FROM (SELECT * FROM d ORDER BY d.d, d.id LIMIT %7$s) AS s',
        n.key, n.vector, n.vector_schema, n."table", n.equals, condition, k,
        CASE WHEN most IS NOT NULL THEN format(' LIMIT %s', most::bigint + 1) ELSE '' END,
        CASE WHEN most IS NOT NULL THEN format('(SELECT count(*) > %s FROM d)', most::bigint) ELSE 'false' END, n.key_type)
    INTO found USING query, excluded, filter;
    more := found.more;
    IF NOT more THEN
        ids := found.ids;
        distances := found.distances;
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._by_row(visrec._names, vector, anyarray, integer, jsonb, text, double precision) IS
    'The k nearest of the rows that a filter leaves, by comparing each; nothing, and more, where there are more of them than most.';

CREATE FUNCTION visrec._filtered(n visrec._names, query vector, excluded anyarray, k integer, filter jsonb,
    OUT ids anyarray, OUT distances double precision[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
-- Costs are far from what these plans cost: compiling one takes longer than running it.
SET jit = off AS $$
DECLARE
    condition CONSTANT text := visrec._condition(n.relation, filter);
    -- More than 1000 the index does not find in one go.
    indexed CONSTANT boolean := n.index_method <> 'none' AND k < 1000;
    expected record;
    costs record;
    most double precision;
    found record;
BEGIN
    IF indexed THEN
        expected := visrec._expected(n, condition, filter);
        costs := visrec._costs(n, k + 1, expected.rows, expected.share, expected.cost);
        IF costs.by_index < costs.by_row THEN
            -- When it has cost as much as the other way would, the filter was not what it was taken for.
            SELECT f.ids, f.distances INTO ids, distances
            FROM visrec._by_index(n, query, excluded, k, filter, condition, expected.share, costs.by_row / costs.per_visit) AS f;
        ELSE
            most := 1000 + 4 * expected.rows;
        END IF;
    END IF;
    IF ids IS NULL THEN
        found := visrec._by_row(n, query, excluded, k, filter, condition, most);
        IF found.more THEN      -- many more than the planner expected: its statistics are old, or columns depend on each other
            found := visrec._by_index(n, query, excluded, k, filter, condition, 1, 20000);
            IF found.ids IS NULL THEN
                found := visrec._by_row(n, query, excluded, k, filter, condition, NULL);
            END IF;
        END IF;
        ids := found.ids;
        distances := found.distances;
    END IF;
EXCEPTION WHEN data_exception THEN
    PERFORM visrec._raise_value(n.relation, filter);
    RAISE;
END
$$;
COMMENT ON FUNCTION visrec._filtered(visrec._names, vector, anyarray, integer, jsonb) IS
    'The keys and distances of the k nearest of the rows that a filter leaves: by the index or row by row, whichever should cost '
    'less, and then the other way where the guess was wrong.';
