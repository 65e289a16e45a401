-- Recommendation by taste: what is nearest to its vector, or has the best score; varied, where that is asked for.

CREATE FUNCTION visrec._recommend(candidates_statement text, strategy text, taste vector, likes vector[],
    dislikes vector[], excluded text[], k integer, filter jsonb, max_distance double precision, diversity double precision)
RETURNS TABLE (id text, similarity double precision, place bigint)
LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    pool integer := CASE WHEN diversity > 0 THEN least(greatest(5 * k, 100), greatest(1000, k)) ELSE k END;
    candidates record;
BEGIN
    PERFORM visrec._check_search(k, max_distance);
    IF strategy = 'best_score' THEN
        candidates := visrec._best_scores(candidates_statement, likes, dislikes, excluded, pool, filter, max_distance);
    ELSE
        candidates := visrec._candidates(candidates_statement, taste, excluded, pool, filter, max_distance);
    END IF;
    IF diversity = 0 THEN
        RETURN QUERY SELECT c.key, c.score, c.n
            FROM unnest(candidates.keys, candidates.scores) WITH ORDINALITY AS c (key, score, n) ORDER BY n LIMIT k;
    ELSE
        RETURN QUERY SELECT candidates.keys[m.n], candidates.scores[m.n], m.place
            FROM visrec._diversify(candidates.vectors, candidates.scores, k, diversity)
                WITH ORDINALITY AS m (n, place);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._recommend(text, text, vector, vector[], vector[], text[], integer, jsonb, double precision,
    double precision) IS
    'What recommend_<table> returns where that is not simply what is nearest to a taste: keys and scores, best first.';

CREATE FUNCTION visrec._candidates_statement(names jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    -- $1 vector, $2 k, $3 filter, $4 max_distance, $5 excluded keys
    SELECT visrec._fill($query$
        SELECT array_agg(@key_text@ ORDER BY s.n), array_agg(s.similarity ORDER BY s.n), array_agg(t.@vector@ ORDER BY s.n)
        FROM (SELECT r.id, r.similarity, row_number() OVER () AS n
              FROM @nearest@($1, $2, $3, $4, ($5)::@key_type@[]) AS r) AS s
        JOIN @table@ AS t ON t.@key@ @equals@ s.id
        $query$, names)
$$;
COMMENT ON FUNCTION visrec._candidates_statement(jsonb) IS 'The statement that visrec._candidates runs.';

CREATE FUNCTION visrec._candidates(statement text, query vector, excluded text[], k integer, filter jsonb,
    max_distance double precision, OUT keys text[], OUT scores double precision[], OUT vectors vector[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE statement INTO keys, scores, vectors USING query, k, filter, max_distance, excluded;
END
$$;
COMMENT ON FUNCTION visrec._candidates(text, vector, text[], integer, jsonb, double precision) IS
    'The k rows nearest to a vector: keys, similarities and vectors, best first.';

CREATE FUNCTION visrec._best_scores(candidates_statement text, liked vector[], disliked vector[], excluded text[],
    k integer, filter jsonb, max_distance double precision,
    OUT keys text[], OUT scores double precision[], OUT vectors vector[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    -- The best k by their nearest liked post are among the k nearest of each. More, since disliked ones push some down.
    pool integer := k + CASE WHEN disliked IS NULL THEN 0 ELSE greatest(k, 20) END;
BEGIN
    LOOP
        SELECT array_agg(s.key ORDER BY s.score DESC, s.key), array_agg(s.score ORDER BY s.score DESC, s.key),
               array_agg(s.vector ORDER BY s.score DESC, s.key)
        INTO keys, scores, vectors
        FROM (
            SELECT c.key, c.vector,
                   CASE WHEN c.near > coalesce(c.far, -1) THEN c.near ELSE -abs(c.far * c.far) END AS score
            FROM (
                SELECT u.key, (array_agg(u.vector))[1] AS vector, max(u.score) AS near,
                       (SELECT max(visrec._cosine((array_agg(u.vector))[1], d)) FROM unnest(disliked) AS d) AS far
                FROM unnest(liked) AS l,
                     visrec._candidates(candidates_statement, l, excluded, pool, filter, max_distance) AS c,
                     unnest(c.keys, c.scores, c.vectors) AS u (key, score, vector)
                GROUP BY u.key
            ) AS c
        ) AS s;
        EXIT WHEN pool >= 1000 OR (SELECT count(*) FROM unnest(scores) AS s WHERE s > 0) >= k
            OR coalesce(cardinality(keys), 0) < pool;
        pool := pool * 4;
    END LOOP;
    keys := keys[:k];
    scores := scores[:k];
    vectors := vectors[:k];
END
$$;
COMMENT ON FUNCTION visrec._best_scores(text, vector[], vector[], text[], integer, jsonb, double precision) IS
    'Candidates by the best of their cosines with the liked posts; where a disliked one is nearer, by minus the square '
    'of that cosine, so that they come last (as Qdrant''s best_score).';

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
            MESSAGE = 'what was liked is not a list of keys with their weights',
            HINT = 'For example [[42, 2], [7, 0.5], [9, -1]]; below 0 is disliked.';
    END IF;
    SELECT coalesce(array_agg(p ->> 0 ORDER BY n) FILTER (WHERE (p ->> 1)::float8 > 0), '{}'),
           coalesce(array_agg((p ->> 1)::float8 ORDER BY n) FILTER (WHERE (p ->> 1)::float8 > 0), '{}'),
           coalesce(array_agg(p ->> 0 ORDER BY n) FILTER (WHERE (p ->> 1)::float8 < 0), '{}'),
           coalesce(array_agg(-(p ->> 1)::float8 ORDER BY n) FILTER (WHERE (p ->> 1)::float8 < 0), '{}')
    INTO liked, liked_weights, disliked, disliked_weights
    FROM jsonb_array_elements(pairs) WITH ORDINALITY AS e (p, n);
END
$$;
COMMENT ON FUNCTION visrec._weighted(jsonb) IS 'Keys and weights out of [[key, weight], …].';

CREATE FUNCTION visrec._make_recommend(relation regclass, config jsonb) RETURNS SETOF regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := visrec._search_names(relation, config);
BEGIN
    RETURN NEXT visrec._make_function(relation, config, 'recommend_', '',
        arguments => visrec._fill('@key_type@[], @key_type@[], integer, text, jsonb, double precision, '
            'double precision, text, @key_type@[], double precision[], double precision[]', names),
        declaration => visrec._fill(
            'liked @key_type@[], disliked @key_type@[] DEFAULT ''{}'', k integer DEFAULT 10, strategy text DEFAULT ''mean'', '
            'filter jsonb DEFAULT NULL, max_distance double precision DEFAULT NULL, diversity double precision DEFAULT 0, '
            'toward text DEFAULT NULL, seen @key_type@[] DEFAULT ''{}'', liked_weights double precision[] DEFAULT NULL, '
            'disliked_weights double precision[] DEFAULT NULL, '
            'OUT id @key_type@, OUT similarity double precision, OUT @image@ @image_type@@shown@) '
            -- planned once a session
            'RETURNS SETOF record LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp '
            'SET plan_cache_mode = force_generic_plan', names),
        comment => format('k rows of %s for the taste that liked and disliked rows show, best first, without those and '
            'the seen ones. strategy: mean, session (liked in order of time) or best_score; diversity: 0 to 1; toward: a '
            'text to steer by.', relation),
        body => visrec._fill($body$
#variable_conflict use_column
DECLARE
    liked_keys text[] := $1::text[];
    disliked_keys text[] := coalesce($2, '{}')::text[];
    i record;
    taste @vector_schema@.vector;
    excluded @key_type@[] := $1 || coalesce($2, '{}') || coalesce($9, '{}');
BEGIN
    PERFORM visrec._check_recommend(liked_keys, $4, $7, $10, disliked_keys, $11);
    @inputs@ INTO i;
    PERFORM visrec._check_inputs(@relation@, cardinality(liked_keys || disliked_keys), i.missing, i.bare, i.other, i.likes IS NULL);
    IF $4 <> 'best_score' THEN
        taste := visrec._taste(@relation@, i.likes, i.like_weights, i.dislikes, i.dislike_weights, $4, $8);
        IF $7 = 0 THEN
            RETURN QUERY SELECT * FROM @nearest@(taste, $3, $5, $6, excluded);
            RETURN;
        END IF;
    END IF;
    RETURN QUERY
        SELECT t.@key@, r.similarity, t.@image@@selected@
        FROM visrec._recommend(@candidates@, $4, taste, i.likes, i.dislikes, excluded::text[], $3, $5, $6, $7) AS r
        JOIN @table@ AS t ON t.@key@ @equals@ r.id::@key_type@
        ORDER BY r.place;
END
$body$, names || jsonb_build_object('candidates', quote_literal(visrec._candidates_statement(names)),
            'inputs', visrec._inputs_statement(names, '{liked_keys,$10,disliked_keys,$11}'))));
    RETURN NEXT visrec._make_function(relation, config, 'recommend_', '_weighted',
        arguments => 'jsonb, integer, text, jsonb, double precision, double precision, text, ' || (names ->> 'key_type') || '[]',
        declaration => visrec._fill(
            'weighted jsonb, k integer DEFAULT 10, strategy text DEFAULT ''mean'', filter jsonb DEFAULT NULL, '
            'max_distance double precision DEFAULT NULL, diversity double precision DEFAULT 0, toward text DEFAULT NULL, '
            'seen @key_type@[] DEFAULT ''{}'', OUT id @key_type@, OUT similarity double precision, '
            'OUT @image@ @image_type@@shown@) RETURNS SETOF record LANGUAGE plpgsql ROWS 10 '
            'SET search_path = pg_catalog, pg_temp', names),
        comment => format('As recommend_%s, with a weight for each row: [[key, weight], …], below 0 for a disliked one.',
            config ->> 'functions_name'),
        body => visrec._fill($body$
#variable_conflict use_column
DECLARE
    w record;
BEGIN
    w := visrec._weighted($1);
    RETURN QUERY SELECT * FROM @recommend@(w.liked::@key_type@[], w.disliked::@key_type@[], $2, $3, $4, $5, $6, $7, $8,
        w.liked_weights, w.disliked_weights);
END
$body$, names));
END
$$;
COMMENT ON FUNCTION visrec._make_recommend(regclass, jsonb) IS 'Writes recommend_<table> and recommend_<table>_weighted.';
