-- Pictures that are in a table more than once: the same file, the same picture saved anew, or merely alike.

CREATE FUNCTION visrec._pairs(relation regclass, config jsonb, k integer, max_distance double precision)
RETURNS TABLE (id_a text, id_b text, similarity double precision)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY EXECUTE visrec._fill($query$
        SELECT @key_text@, @other_text@, p.similarity
        FROM (
            SELECT CASE WHEN s.id @greater@ q.@key@ THEN q.@key@ ELSE s.id END AS a,
                   CASE WHEN s.id @greater@ q.@key@ THEN s.id ELSE q.@key@ END AS b, max(s.similarity) AS similarity
            FROM @table@ AS q,
                 LATERAL @nearest@(q.@vector@, $1, NULL, $2, ARRAY[q.@key@]) AS s
            WHERE q.@vector@ IS NOT NULL
            GROUP BY 1, 2
        ) AS p
        JOIN @table@ AS t ON t.@key@ @equals@ p.a
        JOIN @table@ AS o ON o.@key@ @equals@ p.b
        $query$, visrec._search_names(relation, config))
    USING k, max_distance;
END
$$;
COMMENT ON FUNCTION visrec._pairs(regclass, jsonb, integer, double precision) IS
    'Each pair of rows of which one is among the k nearest of the other, once, with its similarity.';

CREATE FUNCTION visrec._similarities(relation regclass, config jsonb) RETURNS double precision[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sampled double precision[];
BEGIN
    EXECUTE visrec._fill($query$
        WITH some AS MATERIALIZED (
            SELECT @key_text@ AS id, t.@vector@ AS v FROM @table@ AS t WHERE t.@vector@ IS NOT NULL
            ORDER BY sha256(convert_to(@key_text@, 'UTF8')) LIMIT 64
        )
        SELECT array_agg(1 - (a.v @distance@ b.v)) FROM some AS a JOIN some AS b ON a.id < b.id
        $query$, visrec._search_names(relation, config))
    INTO sampled;
    RETURN sampled;
END
$$;
COMMENT ON FUNCTION visrec._similarities(regclass, jsonb) IS
    'The similarities of the 2,016 pairs of 64 rows, which are the same rows each time.';

CREATE FUNCTION visrec.duplicates(relation regclass, k integer DEFAULT 5, max_distance double precision DEFAULT 0.1,
    OUT id_a text, OUT id_b text, OUT kind text, OUT similarity double precision, OUT percentile double precision)
RETURNS SETOF record
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    -- Bits of 64 in which the hashes of one picture saved twice differ at most.
    near CONSTANT integer := 8;
    config jsonb := visrec._attachment(relation);
    pairs jsonb;
    hashes jsonb;
BEGIN
    PERFORM visrec._check_owner(relation);
    PERFORM visrec._check_search(k, max_distance);
    SELECT jsonb_agg(p) INTO pairs FROM visrec._pairs(relation, config, k, max_distance) AS p;
    hashes := visrec._hash_images(relation, config, ARRAY(
        SELECT p ->> 'id_a' FROM jsonb_array_elements(pairs) AS p
        UNION SELECT p ->> 'id_b' FROM jsonb_array_elements(pairs) AS p));
    RETURN QUERY
        SELECT p.id_a, p.id_b,
               CASE WHEN a.bytes = b.bytes THEN 'exact'
                    WHEN bit_count((a.looks # b.looks)::bit(64)) <= near THEN 'near'
                    ELSE 'similar' END,
               p.similarity,
               (SELECT round((100.0 * avg((s < p.similarity)::integer))::numeric, 2)::double precision
                FROM unnest(visrec._similarities(relation, config)) AS s)
        FROM jsonb_to_recordset(pairs) AS p (id_a text, id_b text, similarity double precision)
        LEFT JOIN LATERAL (SELECT hashes -> p.id_a ->> 0, (hashes -> p.id_a ->> 1)::bigint) AS a (bytes, looks) ON true
        LEFT JOIN LATERAL (SELECT hashes -> p.id_b ->> 0, (hashes -> p.id_b ->> 1)::bigint) AS b (bytes, looks) ON true
        ORDER BY p.similarity DESC, p.id_a, p.id_b;
END
$$;
COMMENT ON FUNCTION visrec.duplicates(regclass, integer, double precision) IS
    'Pairs of rows whose pictures are alike, each once, best first: of each row its k nearest within max_distance. kind: '
    'exact (the same bytes), near (perceptual hashes at most 8 of 64 bits apart: the same picture saved anew) or similar '
    '(by their vectors alone). percentile: how many in a hundred pairs of rows are less alike. Reads the pictures of the '
    'pairs. For the table''s owner.';
REVOKE ALL ON FUNCTION visrec.duplicates(regclass, integer, double precision) FROM PUBLIC;
