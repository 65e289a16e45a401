-- Recommendation by taste: what is nearest to its vector, or has the best score; varied, where that is asked for.

CREATE FUNCTION visrec._vectors_of(n visrec._names, ids anyarray) RETURNS vector[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found record;
BEGIN
    EXECUTE format('SELECT array_agg(t.%s ORDER BY f.n) AS vectors FROM unnest($1) WITH ORDINALITY AS f (id, n) JOIN %s AS t ON t.%s %s f.id',
        n.vector, n."table", n.key, n.equals) INTO found USING ids;
    RETURN found.vectors;
END
$$;
COMMENT ON FUNCTION visrec._vectors_of(visrec._names, anyarray) IS 'The vectors of rows, in the order of these keys.';

CREATE FUNCTION visrec._best_scores(n visrec._names, likes vector[], dislikes vector[], excluded anyarray, k integer,
    filter jsonb, max_distance double precision, OUT ids anyarray, OUT distances double precision[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- The best k by their nearest liked post are among the k nearest of each. More, since disliked ones push some down.
    pool integer := k + CASE WHEN dislikes IS NULL THEN 0 ELSE greatest(k, 20) END;
    found record;
BEGIN
    LOOP
        EXECUTE format($query$
            WITH near AS (
                SELECT u.id, max(1 - u.distance) AS score
                FROM unnest($2) AS l, visrec._nearest($1, l, $4, $5, $6, $7) AS c, unnest(c.ids, c.distances) AS u (id, distance)
                GROUP BY u.id
            ), scored AS (
                SELECT s.id, CASE WHEN s.score > coalesce(s.far, -1) THEN s.score ELSE -(s.far * s.far) END AS score
                FROM (SELECT m.id, m.score, (SELECT max(visrec._cosine(t.%1$s, d)) FROM unnest($3) AS d) AS far
                      FROM near AS m JOIN %2$s AS t ON t.%3$s %4$s m.id) AS s
            )
            SELECT array_agg(s.id ORDER BY s.score DESC, s.id) AS ids, array_agg(1 - s.score ORDER BY s.score DESC, s.id) AS distances
            FROM scored AS s
            $query$, n.vector, n."table", n.key, n.equals)
        INTO found USING n, likes, dislikes, excluded, pool, filter, max_distance;
        EXIT WHEN pool >= 1000 OR (SELECT count(*) FROM unnest(found.distances) AS d WHERE d < 1) >= k
            OR coalesce(cardinality(found.ids), 0) < pool;
        pool := pool * 4;
    END LOOP;
    ids := found.ids[:k];
    distances := found.distances[:k];
END
$$;
COMMENT ON FUNCTION visrec._best_scores(visrec._names, vector[], vector[], anyarray, integer, jsonb, double precision) IS
    'Candidates by the best of their cosines with the liked posts; where a disliked one is nearer, by minus the square '
    'of that cosine, so that they come last (as Qdrant''s best_score). distances: 1 - these scores.';

CREATE FUNCTION visrec._diversify(vectors vector[], scores double precision[], k integer, diversity double precision)
RETURNS SETOF integer
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    chosen integer;
    likeness double precision[] := array_fill(0::double precision, ARRAY[cardinality(scores)]);
    left_over boolean[] := array_fill(true, ARRAY[cardinality(scores)]);
BEGIN
    FOR i IN 1..least(k, cardinality(scores)) LOOP
        SELECT c.n INTO chosen
        FROM unnest(scores, likeness, left_over) WITH ORDINALITY AS c (score, likeness, left_over, n)
        WHERE c.left_over
        ORDER BY (1 - diversity) * c.score - diversity * c.likeness DESC, c.n LIMIT 1;
        RETURN NEXT chosen;
        left_over[chosen] := false;
        likeness := ARRAY(
            SELECT CASE WHEN i = 1 THEN visrec._cosine(c.vector, vectors[chosen])
                        ELSE greatest(c.likeness, visrec._cosine(c.vector, vectors[chosen])) END
            FROM unnest(vectors, likeness) WITH ORDINALITY AS c (vector, likeness, n) ORDER BY c.n);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._diversify(vector[], double precision[], integer, double precision) IS
    'Places of k of the candidates by maximal marginal relevance (Carbonell and Goldstein 1998): next is always the one '
    'with the greatest (1 − diversity) · score − diversity · greatest cosine with those already taken.';

CREATE FUNCTION visrec._weighted(pairs jsonb, OUT liked text[], OUT liked_weights double precision[], OUT disliked text[],
    OUT disliked_weights double precision[])
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF jsonb_typeof(pairs) IS DISTINCT FROM 'array' OR EXISTS (
        SELECT FROM jsonb_array_elements(pairs) AS p
        WHERE jsonb_typeof(p) <> 'array' OR jsonb_typeof(p -> 1) IS DISTINCT FROM 'number' OR (p ->> 0) IS NULL)
    THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'weighted must be a list of keys with their weights',
            HINT = 'For example [[42, 2], [7, 0.5], [9, -1]]; below 0 is disliked.';
    END IF;
    SELECT coalesce(array_agg(p ->> 0 ORDER BY n) FILTER (WHERE w > 0), '{}'),
           coalesce(array_agg(w ORDER BY n) FILTER (WHERE w > 0), '{}'),
           coalesce(array_agg(p ->> 0 ORDER BY n) FILTER (WHERE w < 0), '{}'),
           coalesce(array_agg(-w ORDER BY n) FILTER (WHERE w < 0), '{}')
    INTO liked, liked_weights, disliked, disliked_weights
    FROM jsonb_array_elements(pairs) WITH ORDINALITY AS e (p, n),
        -- A number of JSON may be no float8: then it is none of the weights that visrec._check_weights allows, either.
        LATERAL (SELECT (p ->> 1)::numeric AS exact) AS x,
        LATERAL (SELECT CASE WHEN abs(exact) BETWEEN 1e-300 AND 1e300 OR exact = 0 THEN exact::float8
            ELSE sign(exact)::float8 * 'Infinity' END AS w) AS y;
END
$$;
COMMENT ON FUNCTION visrec._weighted(jsonb) IS 'Keys and weights out of [[key, weight], …].';

CREATE FUNCTION visrec._recommended(n visrec._names, liked anyarray, disliked anyarray, k integer, strategy text, filter jsonb,
    max_distance double precision, diversity double precision, toward text, seen anyarray, liked_weights double precision[],
    disliked_weights double precision[], strict boolean, OUT ids anyarray, OUT distances double precision[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pool integer := k;
    i record;
    found record;
    chosen integer[];
BEGIN
    PERFORM visrec._check_search(k, max_distance);
    PERFORM visrec._check_strategy(strategy, diversity, k);
    liked := coalesce(liked, '{}');
    disliked := coalesce(disliked, '{}');
    i := visrec._inputs(n, liked, liked_weights, disliked, disliked_weights, strict);
    IF i.likes IS NULL THEN
        RETURN;
    END IF;
    seen := array_remove(liked || disliked || coalesce(seen, '{}'), NULL);
    IF diversity > 0 THEN
        pool := least(greatest(5 * k, 100), 1000);
    END IF;
    IF strategy = 'best_score' THEN
        found := visrec._best_scores(n, i.likes, i.dislikes, seen, pool, filter, max_distance);
    ELSE
        found := visrec._nearest(n, visrec._taste(n, i.likes, i.like_weights, i.dislikes, i.dislike_weights, strategy, toward),
            seen, pool, filter, max_distance);
    END IF;
    ids := found.ids;
    distances := found.distances;
    IF diversity > 0 THEN
        chosen := ARRAY(SELECT visrec._diversify(visrec._vectors_of(n, ids), ARRAY(SELECT 1 - d FROM unnest(distances) AS d), k, diversity));
        SELECT array_agg(found.ids[c.place] ORDER BY c.n), array_agg(found.distances[c.place] ORDER BY c.n) INTO ids, distances
        FROM unnest(chosen) WITH ORDINALITY AS c (place, n);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._recommended(visrec._names, anyarray, anyarray, integer, text, jsonb, double precision, double precision,
    text, anyarray, double precision[], double precision[], boolean) IS
    'The keys that recommend_<name> returns, best first, and 1 - their scores.';

CREATE FUNCTION visrec._recommend(attachment integer, liked anyarray, disliked anyarray, k integer, strategy text, filter jsonb,
    max_distance double precision, diversity double precision, toward text, seen anyarray, liked_weights double precision[],
    disliked_weights double precision[], strict boolean) RETURNS SETOF record
LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
    found record;
BEGIN
    found := visrec._recommended(n, liked, disliked, k, strategy, filter, max_distance, diversity, toward, seen, liked_weights,
        disliked_weights, strict);
    RETURN QUERY EXECUTE format('SELECT * FROM visrec.%I($1, $2)', '_result_' || n.id) USING found.ids, found.distances;
END
$$;
COMMENT ON FUNCTION visrec._recommend(integer, anyarray, anyarray, integer, text, jsonb, double precision, double precision, text,
    anyarray, double precision[], double precision[], boolean) IS 'What recommend_<name> returns.';

CREATE FUNCTION visrec._typed_call(n visrec._names, liked text[], disliked text[], seen text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('visrec._recommended($1, %2$L::%1$s[], %3$L::%1$s[], $2, $3, $4, $5, $6, $7, %4$L::%1$s[], $8, $9, $10)', (n).key_type,
        liked, disliked, seen)
$$;
COMMENT ON FUNCTION visrec._typed_call(visrec._names, text[], text[], text[]) IS
    'The call of visrec._recommended with keys given as text: as literals, since a cast may be anybody''s.';

CREATE FUNCTION visrec._recommend_weighted(attachment integer, weighted jsonb, k integer, strategy text, filter jsonb,
    max_distance double precision, diversity double precision, toward text, seen anyarray, strict boolean) RETURNS SETOF record
LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(attachment);
    w record := visrec._weighted(weighted);
BEGIN
    RETURN QUERY EXECUTE visrec._result_statement(n, visrec._typed_call(n, w.liked, w.disliked, visrec._key_texts(seen)))
    USING n, k, strategy, filter, max_distance, diversity, toward, w.liked_weights, w.disliked_weights, strict;
END
$$;
COMMENT ON FUNCTION visrec._recommend_weighted(integer, jsonb, integer, text, jsonb, double precision, double precision, text, anyarray,
    boolean) IS 'What recommend_<name>_weighted returns.';
