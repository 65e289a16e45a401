-- duplicates: which rows of a table show the same picture, or nearly so.

CREATE FUNCTION visrec._near_pairs(relation regclass, config jsonb, k integer, max_distance double precision,
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

CREATE FUNCTION visrec._random_similarities(relation regclass, config jsonb, pairs integer DEFAULT 2000)
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

CREATE FUNCTION visrec.duplicates(relation regclass, k integer DEFAULT 5, max_distance double precision DEFAULT 0.1)
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
