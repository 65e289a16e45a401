-- Recommendation by taste: one vector from what somebody liked and disliked, or a score for each candidate.

CREATE FUNCTION visrec._blend(a vector, weight_a double precision, b vector, weight_b double precision) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT a * array_fill(weight_a::real, ARRAY[vector_dims(a)])::vector
         + b * array_fill(weight_b::real, ARRAY[vector_dims(b)])::vector;
END;
COMMENT ON FUNCTION visrec._blend(vector, double precision, vector, double precision) IS 'weight_a · a + weight_b · b.';

CREATE FUNCTION visrec._cosine(a vector, b vector) RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN 1 - (a <=> b);
COMMENT ON FUNCTION visrec._cosine(vector, vector) IS 'The cosine of two vectors.';

CREATE FUNCTION visrec._mean(vectors vector[], weights double precision[]) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT sum(u.v * array_fill((u.w / t.total)::real, ARRAY[vector_dims(u.v)])::vector)
    FROM unnest(vectors, weights) AS u (v, w), (SELECT sum(w) AS total FROM unnest(weights) AS w) AS t;
END;
COMMENT ON FUNCTION visrec._mean(vector[], double precision[]) IS 'The weighted mean; the weights are positive.';

CREATE FUNCTION visrec._session(vectors vector[]) RETURNS vector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    n integer;
    alpha double precision;
BEGIN
    FOR n IN 2..cardinality(vectors) LOOP
        alpha := (visrec._cosine(vectors[n], vectors[n - 1]) + 1) / 2;     -- the state is in the place before
        vectors[n] := visrec._blend(vectors[n - 1], alpha, vectors[n], 1 - alpha);
    END LOOP;
    RETURN vectors[cardinality(vectors)];
END
$$;
COMMENT ON FUNCTION visrec._session(vector[]) IS
    'The state of a session after vectors in order of time: s := f(v1), then for each v: α1 = (cos(f(v), s) + 1) / 2, '
    'α2 = 1 − α1, s := α1·s + α2·f(v). What fits moves it little, what is new moves it much.';

CREATE FUNCTION visrec._inputs(relation regclass, config jsonb, ids text[], weights double precision[], what text,
    OUT keys text[], OUT vectors vector[], OUT weights_used double precision[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
    missing text[];
    bare text[];
    other text[];
BEGIN
    IF weights IS NOT NULL AND cardinality(weights) <> cardinality(ids) OR EXISTS (
        SELECT FROM unnest(weights) AS w WHERE w IS NULL OR NOT w > 0 OR w = 'infinity')
    THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('there must be one weight greater than 0 for each of the %s rows', what);
    ELSIF array_position(ids, NULL) IS NOT NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = format('one of the %s rows is NULL', what);
    END IF;
    SELECT * INTO names FROM visrec._names(relation, config);
    EXECUTE format($query$
        SELECT array_agg(u.id ORDER BY u.n) FILTER (WHERE t.%1$s IS NULL),
               array_agg(u.id ORDER BY u.n) FILTER (WHERE t.%1$s IS NOT NULL AND t.%2$s IS NULL),
               array_agg(u.id ORDER BY u.n) FILTER (WHERE t.%6$s >> 32 <> $3),
               coalesce(array_agg(u.id ORDER BY u.n) FILTER (WHERE t.%2$s IS NOT NULL), '{}'),
               array_agg(t.%2$s ORDER BY u.n) FILTER (WHERE t.%2$s IS NOT NULL),
               array_agg(u.w ORDER BY u.n) FILTER (WHERE t.%2$s IS NOT NULL)
        FROM (SELECT i.id, coalesce(min(i.w), 1) AS w, min(i.n) AS n       -- an id that comes twice counts once
              FROM unnest($1, $2) WITH ORDINALITY AS i (id, w, n) GROUP BY i.id) AS u
        LEFT JOIN %3$s AS t ON t.%1$s %4$s u.id::%5$s
        $query$, names.key, names.vector, names."table", names.equals, names.key_type, names.source)
    INTO missing, bare, other, keys, vectors, weights_used
    USING ids, coalesce(weights, array_fill(1::double precision, ARRAY[cardinality(ids)])),
        visrec._weights(config ->> 'fingerprint');
    IF other IS NOT NULL THEN
        PERFORM visrec._other_model(relation, other[1]);
    ELSIF missing IS NOT NULL OR bare IS NOT NULL THEN
        RAISE NOTICE USING
            MESSAGE = format('%s of %s %s rows are left out', coalesce(cardinality(missing), 0)
                + coalesce(cardinality(bare), 0), cardinality(ids), what),
            DETAIL = concat_ws(' ', 'Not in the table: ' || array_to_string(missing[1:10], ', ') || '.',
                'Without a vector: ' || array_to_string(bare[1:10], ', ') || '.');
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._inputs(regclass, jsonb, text[], double precision[], text) IS
    'The vectors of posts by their keys, each once, in order; a NOTICE names those that have none.';

CREATE FUNCTION visrec._taste(relation regclass, config jsonb, liked vector[], liked_weights double precision[],
    disliked vector[], disliked_weights double precision[], strategy text, toward text) RETURNS vector
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    -- E = w_p · mean of liked − w_n · mean of disliked, with w_p = 1 and w_n = 1/2: what was liked decides.
    weight_disliked CONSTANT double precision := 0.5;
    weight_toward CONSTANT double precision := 0.5;
BEGIN
    liked[1] := CASE strategy WHEN 'session' THEN visrec._session(liked) ELSE visrec._mean(liked, liked_weights) END;
    IF disliked IS NOT NULL THEN
        liked[1] := visrec._blend(liked[1], 1, visrec._mean(disliked, disliked_weights), -weight_disliked);
    END IF;
    IF toward IS NOT NULL THEN
        liked[2] := visrec._query_vector(relation, NULL, NULL, toward);
        liked[1] := visrec._blend(visrec._unit(liked[1]), 1 - weight_toward, liked[2], weight_toward);
    END IF;
    RETURN visrec._unit(liked[1]);
END
$$;
COMMENT ON FUNCTION visrec._taste(regclass, jsonb, vector[], double precision[], vector[], double precision[], text, text) IS
    'The unit vector that stands for a taste, by strategy mean or session, moved half-way toward a text.';

CREATE FUNCTION visrec._unit(v vector) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN l2_normalize(v);
COMMENT ON FUNCTION visrec._unit(vector) IS 'The vector of length 1 in the same direction.';

CREATE FUNCTION visrec._check_recommend(liked anyarray, strategy text, diversity double precision) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(cardinality(liked), 0) = 0 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'a taste needs at least one liked row',
            HINT = 'To start from words, call search_<table>.';
    ELSIF strategy IS NULL OR strategy NOT IN ('mean', 'session', 'best_score') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('there is no strategy "%s"', strategy),
            HINT = 'Strategies: mean, session (liked posts in order of time), best_score.';
    ELSIF diversity IS NULL OR NOT diversity BETWEEN 0 AND 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('diversity is between 0 and 1, not %s', coalesce(diversity::text, 'NULL'));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_recommend(anyarray, text, double precision) IS 'An error for arguments that make no taste.';

CREATE FUNCTION visrec._no_taste(relation regclass, liked integer) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE no_data_found USING
        MESSAGE = format('none of the %s liked rows has a vector', liked),
        HINT = format('SELECT * FROM visrec.coverage(%L);', relation);
END
$$;
COMMENT ON FUNCTION visrec._no_taste(regclass, integer) IS 'An error: there is nothing to make a taste of.';

CREATE FUNCTION visrec._recommend(relation regclass, liked text[], liked_weights double precision[], disliked text[],
    disliked_weights double precision[], seen text[], k integer, strategy text, filter jsonb,
    max_distance double precision, diversity double precision, toward text)
RETURNS TABLE (id text, similarity double precision, place bigint)
LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    config jsonb := visrec._attachment(relation);
    likes record;
    dislikes record;
    target record;
    pool integer := CASE WHEN diversity > 0 THEN least(greatest(5 * k, 100), greatest(1000, k)) ELSE k END;
    candidates record;
    excluded text[];
BEGIN
    PERFORM visrec._check_search(k, max_distance);
    PERFORM visrec._check_recommend(liked, strategy, diversity);
    SELECT * INTO likes FROM visrec._inputs(relation, config, liked, liked_weights, 'liked');
    SELECT * INTO dislikes FROM visrec._inputs(relation, config, disliked, disliked_weights, 'disliked');
    IF likes.vectors IS NULL THEN
        PERFORM visrec._no_taste(relation, cardinality(liked));
    END IF;
    excluded := liked || disliked || seen;
    IF strategy = 'best_score' THEN
        SELECT * INTO candidates FROM visrec._best_scores(relation, config, likes.vectors, dislikes.vectors, excluded,
            pool, filter, max_distance);
    ELSE
        SELECT visrec._taste(relation, config, likes.vectors, likes.weights_used, dislikes.vectors,
            dislikes.weights_used, strategy, toward) AS vector INTO target;
        SELECT * INTO candidates FROM visrec._candidates(relation, config, target.vector, excluded, pool, filter,
            max_distance);
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
COMMENT ON FUNCTION visrec._recommend(regclass, text[], double precision[], text[], double precision[], text[], integer,
    text, jsonb, double precision, double precision, text) IS
    'What recommend_<table> returns: keys and scores, best first.';

CREATE FUNCTION visrec._candidates(relation regclass, config jsonb, query vector, excluded text[], k integer,
    filter jsonb, max_distance double precision, OUT keys text[], OUT scores double precision[], OUT vectors vector[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names jsonb := visrec._search_names(relation, config);
BEGIN
    EXECUTE visrec._fill($query$
        SELECT array_agg(@key_text@ ORDER BY s.n), array_agg(s.similarity ORDER BY s.n), array_agg(t.@vector@ ORDER BY s.n)
        FROM (SELECT r.id, r.similarity, row_number() OVER () AS n
              FROM @nearest@($1, $2, $3, $4, ($5)::@key_type@[]) AS r) AS s
        JOIN @table@ AS t ON t.@key@ @equals@ s.id
        $query$, names)
    INTO keys, scores, vectors USING query, k, filter, max_distance, excluded;
END
$$;
COMMENT ON FUNCTION visrec._candidates(regclass, jsonb, vector, text[], integer, jsonb, double precision) IS
    'The k rows nearest to a vector: keys, similarities and vectors, best first.';

CREATE FUNCTION visrec._best_scores(relation regclass, config jsonb, liked vector[], disliked vector[], excluded text[],
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
                     visrec._candidates(relation, config, l, excluded, pool, filter, max_distance) AS c,
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
COMMENT ON FUNCTION visrec._best_scores(regclass, jsonb, vector[], vector[], text[], integer, jsonb, double precision) IS
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

CREATE FUNCTION visrec.taste(relation regclass, liked anyarray, disliked anyarray,
    strategy text DEFAULT 'mean', toward text DEFAULT NULL, liked_weights double precision[] DEFAULT NULL,
    disliked_weights double precision[] DEFAULT NULL) RETURNS vector
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb := visrec._attachment(relation);
    likes record;
    dislikes record;
BEGIN
    PERFORM visrec._check_recommend(liked, strategy, 0);
    IF strategy = 'best_score' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'best_score compares with each liked post: there is no one vector for it',
            HINT = 'Strategies with one: mean, session.';
    END IF;
    SELECT * INTO likes FROM visrec._inputs(relation, config, liked::text[], liked_weights, 'liked');
    SELECT * INTO dislikes
    FROM visrec._inputs(relation, config, coalesce(disliked::text[], '{}'), disliked_weights, 'disliked');
    IF likes.vectors IS NULL THEN
        PERFORM visrec._no_taste(relation, cardinality(liked));
    END IF;
    RETURN visrec._taste(relation, config, likes.vectors, likes.weights_used, dislikes.vectors, dislikes.weights_used,
        strategy, toward);
END
$$;
COMMENT ON FUNCTION visrec.taste(regclass, anyarray, anyarray, text, text, double precision[], double precision[]) IS
    'The unit vector that stands for what somebody liked and disliked. mean: the weighted mean of the liked minus half '
    'the weighted mean of the disliked; session: the liked in order of time, s := α·s + (1 − α)·f(v) with '
    'α = (cos(f(v), s) + 1) / 2, minus the same. toward: moved half-way to a text.';

CREATE FUNCTION visrec.taste(relation regclass, liked anyarray, strategy text DEFAULT 'mean',
    toward text DEFAULT NULL, liked_weights double precision[] DEFAULT NULL) RETURNS vector
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT visrec.taste(relation, liked, liked[1:0], strategy, toward, liked_weights)
$$;
COMMENT ON FUNCTION visrec.taste(regclass, anyarray, text, text, double precision[]) IS
    'The unit vector that stands for what somebody liked; see the form with disliked.';

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
    SELECT * INTO w FROM visrec._weighted($1);
    RETURN QUERY
        SELECT t.@key@, r.similarity, t.@image@@selected@
        FROM visrec._recommend(@relation@, w.liked, w.liked_weights, w.disliked, w.disliked_weights,
            coalesce($8, '{}')::text[], $2, $3, $4, $5, $6, $7) AS r
        JOIN @table@ AS t ON t.@key@ @equals@ r.id::@key_type@
        ORDER BY r.place;
END
$body$, names));
    RETURN NEXT visrec._make_function(relation, config, 'recommend_', '',
        arguments => visrec._fill('@key_type@[], @key_type@[], integer, text, jsonb, double precision, '
            'double precision, text, @key_type@[], double precision[], double precision[]', names),
        declaration => visrec._fill(
            'liked @key_type@[], disliked @key_type@[] DEFAULT ''{}'', k integer DEFAULT 10, strategy text DEFAULT ''mean'', '
            'filter jsonb DEFAULT NULL, max_distance double precision DEFAULT NULL, diversity double precision DEFAULT 0, '
            'toward text DEFAULT NULL, seen @key_type@[] DEFAULT ''{}'', liked_weights double precision[] DEFAULT NULL, '
            'disliked_weights double precision[] DEFAULT NULL, '
            'OUT id @key_type@, OUT similarity double precision, OUT @image@ @image_type@@shown@) '
            'RETURNS SETOF record LANGUAGE plpgsql ROWS 10 SET search_path = pg_catalog, pg_temp', names),
        comment => format('k rows of %s for the taste that liked and disliked rows show, best first, without those and '
            'the seen ones. strategy: mean, session (liked in order of time) or best_score; diversity: 0 to 1; toward: a '
            'text to steer by.', relation),
        body => visrec._fill($body$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT t.@key@, r.similarity, t.@image@@selected@
        FROM visrec._recommend(@relation@, $1::text[], $10, coalesce($2, '{}')::text[], $11, coalesce($9, '{}')::text[],
            $3, $4, $5, $6, $7, $8) AS r
        JOIN @table@ AS t ON t.@key@ @equals@ r.id::@key_type@
        ORDER BY r.place;
END
$body$, names));
END
$$;
COMMENT ON FUNCTION visrec._make_recommend(regclass, jsonb) IS 'Writes recommend_<table> and recommend_<table>_weighted.';
