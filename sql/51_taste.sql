-- Tastes: one vector from what somebody liked and disliked.

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

CREATE FUNCTION visrec._average(vectors vector[]) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT avg(v) FROM unnest(vectors) AS v;
END;
COMMENT ON FUNCTION visrec._average(vector[]) IS 'The mean.';

CREATE FUNCTION visrec._weighted_mean(vectors vector[], weights double precision[]) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT sum(u.v * array_fill((u.w / t.total)::real, ARRAY[vector_dims(u.v)])::vector)
    FROM unnest(vectors, weights) AS u (v, w), (SELECT sum(w) AS total FROM unnest(weights) AS w) AS t;
END;
COMMENT ON FUNCTION visrec._weighted_mean(vector[], double precision[]) IS 'The weighted mean; the weights are positive.';

CREATE FUNCTION visrec._mean(vectors vector[], weights double precision[]) RETURNS vector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF weights[1] = ALL (weights) THEN
        RETURN visrec._average(vectors);    -- in a third of the time
    END IF;
    RETURN visrec._weighted_mean(vectors, weights);
END
$$;
COMMENT ON FUNCTION visrec._mean(vector[], double precision[]) IS 'The weighted mean; the weights are positive.';

CREATE FUNCTION visrec._apart(a vector, b vector) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN a + a - b;
COMMENT ON FUNCTION visrec._apart(vector, vector) IS '2a − b, which has the direction of a − b/2.';

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

CREATE FUNCTION visrec._inputs_statement(names jsonb, arguments text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    -- A key that comes twice counts once.
    SELECT visrec._fill($query$
        SELECT array_agg(u.id ORDER BY u.n) FILTER (WHERE t.@key@ IS NULL) AS missing,
               array_agg(u.id ORDER BY u.n) FILTER (WHERE t.@key@ IS NOT NULL AND t.@vector@ IS NULL) AS bare,
               min(u.id) FILTER (WHERE t.@source@ >> 32 <> @weights@) AS other,
               array_agg(t.@vector@ ORDER BY u.n) FILTER (WHERE u.liked AND t.@vector@ IS NOT NULL) AS likes,
               array_agg(u.w ORDER BY u.n) FILTER (WHERE u.liked AND t.@vector@ IS NOT NULL) AS like_weights,
               array_agg(t.@vector@ ORDER BY u.n) FILTER (WHERE NOT u.liked AND t.@vector@ IS NOT NULL) AS dislikes,
               array_agg(u.w ORDER BY u.n) FILTER (WHERE NOT u.liked AND t.@vector@ IS NOT NULL) AS dislike_weights
        FROM (SELECT i.id, i.liked, coalesce(min(i.w), 1) AS w, min(i.n) AS n
              FROM (SELECT l.id, l.w, true, l.n FROM unnest(@liked@, @liked_weights@) WITH ORDINALITY AS l (id, w, n)
                    UNION ALL
                    SELECT d.id, d.w, false, d.n FROM unnest(@disliked@, @disliked_weights@) WITH ORDINALITY AS d (id, w, n)
                   ) AS i (id, w, liked, n) GROUP BY i.id, i.liked) AS u
        LEFT JOIN @table@ AS t ON t.@key@ @equals@ u.id::@key_type@
        $query$, names || jsonb_build_object('liked', arguments[1], 'liked_weights', arguments[2],
            'disliked', arguments[3], 'disliked_weights', arguments[4]))
$$;
COMMENT ON FUNCTION visrec._inputs_statement(jsonb, text[]) IS
    'The statement for the vectors of liked and disliked rows, by keys (text[]) and their weights: see visrec._check_inputs.';

CREATE FUNCTION visrec._check_weights(weights double precision[], ids text[], what text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF weights IS NOT NULL AND (cardinality(weights) <> cardinality(ids) OR EXISTS (
        SELECT FROM unnest(weights) AS w WHERE w IS NULL OR NOT w > 0 OR w = 'infinity'))
    THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('there must be one weight greater than 0 for each of the %s rows', what);
    ELSIF array_position(ids, NULL) IS NOT NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = format('one of the %s rows is NULL', what);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_weights(double precision[], text[], text) IS 'An error for keys and weights that do not go together.';

CREATE FUNCTION visrec._check_inputs(relation regclass, asked integer, missing text[], bare text[], other text,
    nothing boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF other IS NOT NULL THEN
        PERFORM visrec._other_model(relation, other);
    ELSIF missing IS NOT NULL OR bare IS NOT NULL THEN
        RAISE NOTICE USING
            MESSAGE = format('%s of the %s liked and disliked rows are left out', cardinality(missing || bare), asked),
            DETAIL = concat_ws(' ', 'Not in the table: ' || array_to_string(missing[1:10], ', ') || '.',
                'Without a vector: ' || array_to_string(bare[1:10], ', ') || '.');
    END IF;
    IF nothing THEN
        RAISE no_data_found USING
            MESSAGE = 'none of the liked rows has a vector',
            HINT = format('SELECT * FROM visrec.coverage(%L);', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_inputs(regclass, integer, text[], text[], text, boolean) IS
    'A NOTICE for rows that are missing or have no vector; an error where no liked one has any, or one of another model.';

CREATE FUNCTION visrec._taste(relation regclass, liked vector[], liked_weights double precision[],
    disliked vector[], disliked_weights double precision[], strategy text, toward text, OUT taste vector)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    -- E = w_p · mean of liked − w_n · mean of disliked, with w_p = 1 and w_n = 1/2: what was liked decides.
    weight_toward CONSTANT double precision := 0.5;
BEGIN
    taste := CASE strategy WHEN 'session' THEN visrec._session(liked) ELSE visrec._mean(liked, liked_weights) END;
    IF disliked IS NOT NULL THEN
        taste := visrec._apart(taste, visrec._mean(disliked, disliked_weights));
    END IF;
    taste := visrec._unit(taste);
    IF toward IS NOT NULL THEN
        liked[1] := visrec._query_vector(relation, NULL, NULL, toward);
        taste := visrec._unit(visrec._blend(taste, 1 - weight_toward, liked[1], weight_toward));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._taste(regclass, vector[], double precision[], vector[], double precision[], text, text) IS
    'The unit vector that stands for a taste, by strategy mean or session, moved half-way toward a text.';

CREATE FUNCTION visrec._unit(v vector) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN l2_normalize(v);
COMMENT ON FUNCTION visrec._unit(vector) IS 'The vector of length 1 in the same direction.';

CREATE FUNCTION visrec._check_recommend(liked text[], strategy text, diversity double precision,
    liked_weights double precision[] DEFAULT NULL, disliked text[] DEFAULT '{}', disliked_weights double precision[] DEFAULT NULL)
RETURNS void
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
    ELSIF num_nonnulls(liked_weights, disliked_weights, array_position(liked, NULL), array_position(disliked, NULL)) > 0 THEN
        PERFORM visrec._check_weights(liked_weights, liked, 'liked');
        PERFORM visrec._check_weights(disliked_weights, disliked, 'disliked');
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_recommend(text[], text, double precision, double precision[], text[], double precision[]) IS 'An error for arguments that make no taste.';

CREATE FUNCTION visrec.taste(relation regclass, liked anyarray, disliked anyarray,
    strategy text DEFAULT 'mean', toward text DEFAULT NULL, liked_weights double precision[] DEFAULT NULL,
    disliked_weights double precision[] DEFAULT NULL) RETURNS vector
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    config jsonb := visrec._attachment(relation);
    i record;
BEGIN
    PERFORM visrec._made_function(relation, config, 'visrec_nearest_');     -- not in tables attached before 0.2.0
    disliked := coalesce(disliked, liked[1:0]);
    PERFORM visrec._check_recommend(liked::text[], strategy, 0, liked_weights, disliked::text[], disliked_weights);
    IF strategy = 'best_score' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'best_score compares with each liked row: there is no one vector for it',
            HINT = 'Strategies with one: mean, session.';
    END IF;
    EXECUTE visrec._inputs_statement(visrec._search_names(relation, config), '{$1,$2,$3,$4}')
        INTO i USING liked::text[], liked_weights, disliked::text[], disliked_weights;
    PERFORM visrec._check_inputs(relation, cardinality(liked || disliked), i.missing, i.bare, i.other, i.likes IS NULL);
    RETURN visrec._taste(relation, i.likes, i.like_weights, i.dislikes, i.dislike_weights, strategy, toward);
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
