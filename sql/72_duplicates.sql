-- duplicates: which rows of a table show the same picture, or nearly so.

CREATE FUNCTION visrec._near_each(n visrec._names, rows anyarray, k integer, max_distance double precision)
RETURNS TABLE (place bigint, ids anyarray, distances double precision[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    total CONSTANT integer := cardinality(rows);
    started CONSTANT timestamptz := clock_timestamp();
    told timestamptz := started;
    seconds double precision;
BEGIN
    FOR i IN 1 .. total LOOP
        place := i;
        SELECT f.ids, f.distances INTO ids, distances FROM visrec._neighbours(n, rows[i], k, max_distance, true) AS f;
        RETURN NEXT;
        IF clock_timestamp() - told > interval '5 seconds' THEN
            told := clock_timestamp();
            seconds := extract(epoch FROM told - started);
            RAISE NOTICE '%: % of % different vectors compared, % left', visrec._label(n.relation), i, total,
                make_interval(secs => round(seconds * (total - i) / i));
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._near_each(visrec._names, anyarray, integer, double precision) IS
    'The k nearest of each of these rows, itself among them, no farther than max_distance; tells how far it is every five seconds.';

CREATE FUNCTION visrec._near_pairs(n visrec._names, k integer, max_distance double precision,
    OUT ids_a text[], OUT ids_b text[], OUT similarities double precision[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('SELECT visrec._other_model($1, %s) FROM %s AS t WHERE t.%s IS NOT NULL AND t.%4$s[1] <> 0 AND t.%4$s[1] >> 32 <> %5$s LIMIT 1',
        n.key_text, n."table", n.vector, n.source, n.weights) USING n.id;
    -- Rows of one vector have the same k + 1 nearest rows, if itself counts: one search for all of them. Whoever is not among
    -- those has the first k.
    EXECUTE format($query$
        WITH copies AS MATERIALIZED (
            SELECT c.members, row_number() OVER (ORDER BY c.members[1]) AS place
            FROM (SELECT array_agg(t.%4$s::%9$s ORDER BY t.%4$s) AS members FROM %5$s AS t
                  WHERE t.%6$s IS NOT NULL GROUP BY sha256(%7$s.vector_send(t.%6$s))) AS c)
        SELECT array_agg(%1$s ORDER BY p.a, p.b), array_agg(%2$s ORDER BY p.a, p.b), array_agg(p.similarity ORDER BY p.a, p.b)
        FROM (
            SELECT CASE WHEN s.id %3$s m.id THEN m.id ELSE s.id END AS a,
                   CASE WHEN s.id %3$s m.id THEN s.id ELSE m.id END AS b,
                   max(1 - s.distance) AS similarity
            FROM visrec._near_each($1, ARRAY(SELECT c.members[1] FROM copies AS c ORDER BY c.place), least($2, 2147483646) + 1, $3) AS f
            JOIN copies AS c ON c.place = f.place,
                 unnest(c.members) AS m (id),
                 unnest(f.ids, f.distances) WITH ORDINALITY AS s (id, distance, n)
            WHERE NOT s.id %8$s m.id AND (s.n <= $2 OR m.id %8$s ANY (f.ids))
            GROUP BY 1, 2
        ) AS p
        $query$, visrec._key_expression('p.a', n.key_oid), visrec._key_expression('p.b', n.key_oid), n.greater, n.key, n."table",
        n.vector, n.vector_schema, n.equals, n.key_type)
    INTO ids_a, ids_b, similarities USING n, k, max_distance;
END
$$;
COMMENT ON FUNCTION visrec._near_pairs(visrec._names, integer, double precision) IS
    'Each row with its k nearest, no farther than max_distance: unordered pairs, each once, in the order of their keys.';

CREATE FUNCTION visrec._random_similarities(n visrec._names, pairs integer DEFAULT 2000) RETURNS double precision[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sample double precision[];
BEGIN
    -- Rows in the order of a hash, each with those that come next: with the next one where there are many rows.
    EXECUTE format($query$
        WITH chosen AS MATERIALIZED (
            SELECT s.id, row_number() OVER (ORDER BY s.hash, s.id) AS n, count(*) OVER () AS total
            FROM (SELECT t.%1$s AS id, hashtextextended(%2$s, 0) AS hash FROM %3$s AS t
                  WHERE t.%4$s IS NOT NULL ORDER BY 2, 1 LIMIT $1 + 1) AS s),
        pairs AS MATERIALIZED (
            SELECT a.id AS a, b.id AS b FROM chosen AS a JOIN chosen AS b ON b.n > a.n AND b.n <= a.n + 2 * $1 / a.total
            ORDER BY b.n - a.n, a.n LIMIT $1)
        SELECT array_agg(s.similarity ORDER BY s.similarity)
        FROM (SELECT 1 - (a.%4$s OPERATOR(%5$s.<=>) b.%4$s) AS similarity FROM pairs AS p
              JOIN %3$s AS a ON a.%1$s %6$s p.a JOIN %3$s AS b ON b.%1$s %6$s p.b) AS s
        WHERE s.similarity <> 'NaN'
        $query$, n.key, n.key_text, n."table", n.vector, n.vector_schema, n.equals)
    INTO sample USING pairs;
    RETURN sample;
END
$$;
COMMENT ON FUNCTION visrec._random_similarities(visrec._names, integer) IS
    'The similarities of so many random pairs of rows, in ascending order; the same pairs each time.';

CREATE FUNCTION visrec._duplicate_pairs(n visrec._names, k integer, max_distance double precision)
RETURNS TABLE (id_a text, id_b text, kind text, similarity double precision, percentile double precision)
LANGUAGE plpgsql ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pairs record;
    answer jsonb;
    sample double precision[];
BEGIN
    PERFORM visrec._check_owner(n.relation);
    PERFORM visrec._check_search(k, max_distance);
    IF visrec._acts_for_owner(n.relation) THEN
        RETURN QUERY SELECT * FROM jsonb_to_recordset(visrec._call(n.id, 'duplicates',
            jsonb_build_object('k', k, 'max_distance', max_distance)))
            AS r (id_a text, id_b text, kind text, similarity float8, percentile float8);
        RETURN;
    END IF;
    pairs := visrec._near_pairs(n, k, max_distance);
    IF pairs.ids_a IS NULL THEN
        RETURN;
    END IF;
    answer := visrec._checked(visrec._duplicate_kinds(n::text, pairs.ids_a, pairs.ids_b),
        format('could not compare the images of table "%s"', visrec._label(n.relation)));
    sample := visrec._random_similarities(n);
    RETURN QUERY
        SELECT p.a, p.b, p.kind, p.similarity, 100.0::float8 * width_bucket(p.similarity, sample) / cardinality(sample)
        FROM unnest(pairs.ids_a, pairs.ids_b, pairs.similarities,
            ARRAY(SELECT jsonb_array_elements_text(answer -> 'kinds'))) WITH ORDINALITY AS p (a, b, similarity, kind, n)
        ORDER BY array_position('{exact,near,similar}', p.kind), p.similarity DESC, p.n;
END
$$;
COMMENT ON FUNCTION visrec._duplicate_pairs(visrec._names, integer, double precision) IS 'What visrec.duplicates returns.';

CREATE FUNCTION visrec.duplicates(relation regclass, k integer DEFAULT 5, max_distance double precision DEFAULT 0.1,
    name name DEFAULT NULL)
RETURNS TABLE (id_a text, id_b text, kind text, similarity double precision, percentile double precision)
LANGUAGE sql ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM visrec._duplicate_pairs(visrec._resolve(visrec._find($1, $4)), $2, $3)
$$;
COMMENT ON FUNCTION visrec.duplicates(regclass, integer, double precision, name) IS
    'Pairs of rows that show the same picture or similar ones, each once, the surest first: of each row''s k nearest '
    'those no farther than max_distance. kind: exact (the same bytes), near (one picture saved twice: its perceptual '
    'hash and its colours) or similar (by their vectors alone; also where a picture cannot be read). percentile: the '
    'share of random pairs of the table that are no more similar. For the table''s owner. duplicates_<name> returns keys of '
    'their own type.';
REVOKE ALL ON FUNCTION visrec.duplicates(regclass, integer, double precision, name) FROM PUBLIC;

CREATE FUNCTION visrec._duplicates(attachment integer, k integer, max_distance double precision) RETURNS SETOF record
LANGUAGE plpgsql ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
BEGIN
    RETURN QUERY EXECUTE format('SELECT d.id_a::%1$s, d.id_b::%1$s, d.kind, d.similarity, d.percentile '
        'FROM visrec.duplicates($1, $2, $3, $4) AS d', n.key_type) USING n.relation, k, max_distance, n.name;
END
$$;
COMMENT ON FUNCTION visrec._duplicates(integer, integer, double precision) IS 'What duplicates_<name> returns.';

CREATE FUNCTION visrec._failures(attachment integer) RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
BEGIN
    RETURN QUERY EXECUTE format('SELECT f.row_id::%s, f.image, f.code, f.message, f.attempts, f.first_try, f.last_try '
        'FROM visrec.failures($1, $2) AS f', n.key_type) USING n.relation, n.name;
END
$$;
COMMENT ON FUNCTION visrec._failures(integer) IS 'What failures_<name> returns.';
