-- Tastes: one vector from what somebody liked and disliked.

CREATE FUNCTION visrec._blend(a vector, weight_a double precision, b vector, weight_b double precision) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT a * pg_catalog.array_fill(weight_a::real, ARRAY[vector_dims(a)])::vector
         + b * pg_catalog.array_fill(weight_b::real, ARRAY[vector_dims(b)])::vector;
END;
COMMENT ON FUNCTION visrec._blend(vector, double precision, vector, double precision) IS 'weight_a · a + weight_b · b.';

CREATE FUNCTION visrec._cosine(a vector, b vector) RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN 1::double precision - (a <=> b);
COMMENT ON FUNCTION visrec._cosine(vector, vector) IS 'The cosine of two vectors.';

CREATE FUNCTION visrec._average(vectors vector[]) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT avg(v) FROM pg_catalog.unnest(vectors) AS v;
END;
COMMENT ON FUNCTION visrec._average(vector[]) IS 'The mean.';

CREATE FUNCTION visrec._weighted_mean(vectors vector[], weights double precision[]) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT sum(u.v * pg_catalog.array_fill((u.w / t.total)::real, ARRAY[vector_dims(u.v)])::vector)
    FROM unnest(vectors, weights) AS u (v, w), (SELECT sum(w) AS total FROM pg_catalog.unnest(weights) AS w) AS t;
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

CREATE FUNCTION visrec._unit(v vector) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN l2_normalize(v);
COMMENT ON FUNCTION visrec._unit(vector) IS 'The vector of length 1 in the same direction.';

CREATE FUNCTION visrec._check_weights(weights double precision[], keys anyarray, what text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF array_ndims(keys) > 1 OR array_ndims(weights) > 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('the %s rows and their weights must be arrays of one dimension', what);
    ELSIF array_position(keys, NULL) IS NOT NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = format('the %s rows must not contain null', what);
    ELSIF weights IS NOT NULL AND cardinality(weights) <> cardinality(keys) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('the number of weights (%s) is not the number of %s rows (%s)', cardinality(weights), what, cardinality(keys)),
            HINT = 'Give one weight for each row.';
    ELSIF weights IS NOT NULL AND EXISTS (SELECT FROM unnest(weights) AS w WHERE (w BETWEEN 1e-9 AND 1e9) IS NOT TRUE) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('the weights of the %s rows must be between 1e-9 and 1e9', what);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_weights(double precision[], anyarray, text) IS
    'Raises an error unless there is one valid weight for each key.';

CREATE FUNCTION visrec._check_strategy(strategy text, diversity double precision DEFAULT 0, k integer DEFAULT 1) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF strategy IS NULL OR strategy NOT IN ('mean', 'session', 'best_score') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('unknown strategy "%s"', coalesce(strategy, 'NULL')),
            HINT = 'Strategies: mean, session (liked rows in order of time), best_score.';
    ELSIF diversity IS NULL OR NOT diversity BETWEEN 0 AND 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('diversity must be between 0 and 1, not %s', coalesce(diversity::text, 'NULL'));
    ELSIF k > 1000 AND (diversity > 0 OR strategy = 'best_score') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('k must be at most 1000 with diversity or best_score, not %s', k);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_strategy(text, double precision, integer) IS
    'Raises an error unless strategy, diversity and k are valid.';

CREATE FUNCTION visrec._inputs(n visrec._names, liked anyarray, liked_weights double precision[], disliked anyarray,
    disliked_weights double precision[], strict boolean, OUT likes vector[], OUT like_weights double precision[],
    OUT dislikes vector[], OUT dislike_weights double precision[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing text[];
    bare text[];
    other text;
BEGIN
    PERFORM visrec._check_weights(liked_weights, liked, 'liked');
    PERFORM visrec._check_weights(disliked_weights, disliked, 'disliked');
    EXECUTE format('SELECT * FROM visrec.%I($1, $2, $3, $4)', '_inputs_' || n.id)
    INTO missing, bare, other, likes, like_weights, dislikes, dislike_weights USING liked, liked_weights, disliked, disliked_weights;
    IF other IS NOT NULL THEN
        PERFORM visrec._other_model(n.id, other);
    ELSIF likes IS NULL THEN
        PERFORM visrec._nothing(strict, CASE WHEN cardinality(liked) > 0 THEN 'none of the liked rows has a vector'
            ELSE 'there are no liked rows' END, hint => format('SELECT * FROM visrec.coverage(%L%s);', n.relation::regclass, visrec._name_argument(n.id)));
    ELSIF missing IS NOT NULL OR bare IS NOT NULL THEN
        RAISE NOTICE USING
            MESSAGE = format('%s of the %s liked and disliked rows are left out', cardinality(missing || bare),
                cardinality(liked) + cardinality(disliked)),
            DETAIL = concat_ws(' ', 'Not in the table: ' || array_to_string(missing[1:10], ', ') || '.',
                'Without a vector: ' || array_to_string(bare[1:10], ', ') || '.');
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._inputs(visrec._names, anyarray, double precision[], anyarray, double precision[], boolean) IS
    'The vectors of liked and disliked rows, and their weights. Says which rows are left out; where none is left, likes '
    'is NULL (strict: an error).';

CREATE FUNCTION visrec._taste(n visrec._names, likes vector[], like_weights double precision[],
    dislikes vector[], dislike_weights double precision[], strategy text, toward text, OUT taste vector)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- E = w_p · mean of liked − w_n · mean of disliked, with w_p = 1 and w_n = 1/2: what was liked decides.
    weight_toward CONSTANT double precision := 0.5;
BEGIN
    taste := CASE strategy WHEN 'session' THEN visrec._session(likes) ELSE visrec._mean(likes, like_weights) END;
    IF dislikes IS NOT NULL THEN
        taste := visrec._apart(taste, visrec._mean(dislikes, dislike_weights));
    END IF;
    taste := visrec._unit(taste);
    IF toward IS NOT NULL THEN
        likes[1] := visrec._query_vector(n, NULL, NULL, toward);
        taste := visrec._unit(visrec._blend(taste, 1 - weight_toward, likes[1], weight_toward));
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._taste(visrec._names, vector[], double precision[], vector[], double precision[], text, text) IS
    'The unit vector that stands for a taste, by strategy mean or session, moved half-way toward a text.';

CREATE FUNCTION visrec._taste_of(n visrec._names, liked text[], disliked text[], strategy text, toward text,
    liked_weights double precision[], disliked_weights double precision[], strict boolean) RETURNS vector
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    i record;
BEGIN
    EXECUTE format('SELECT * FROM visrec._inputs($1, %2$L::%1$s[], $2, %3$L::%1$s[], $3, $4)', n.key_type, liked, disliked)
    INTO i USING n, liked_weights, disliked_weights, strict;
    RETURN CASE WHEN i.likes IS NOT NULL THEN
        visrec._taste(n, i.likes, i.like_weights, i.dislikes, i.dislike_weights, strategy, toward) END;
END
$$;
COMMENT ON FUNCTION visrec._taste_of(visrec._names, text[], text[], text, text, double precision[], double precision[], boolean) IS
    'What visrec.taste returns.';

CREATE FUNCTION visrec.taste(relation regclass, liked anyarray, disliked anyarray,
    strategy text DEFAULT 'mean', toward text DEFAULT NULL, liked_weights double precision[] DEFAULT NULL,
    disliked_weights double precision[] DEFAULT NULL, name name DEFAULT NULL, strict boolean DEFAULT false) RETURNS vector
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(visrec._find(relation, name));
BEGIN
    PERFORM visrec._check_strategy(strategy);
    IF strategy = 'best_score' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'strategy "best_score" has no taste vector',
            DETAIL = 'It compares with each liked row.',
            HINT = 'Strategies with one: mean, session.';
    ELSIF visrec._acts_for_owner(relation) THEN
        RETURN visrec._call(n.id, 'taste', jsonb_build_object('liked', visrec._key_texts(liked), 'disliked',
            visrec._key_texts(disliked), 'strategy', strategy, 'toward', toward, 'liked_weights', liked_weights,
            'disliked_weights', disliked_weights, 'strict', strict)) #>> '{}';
    END IF;
    RETURN visrec._taste_of(n, visrec._key_texts(liked), visrec._key_texts(disliked), strategy, toward, liked_weights,
        disliked_weights, strict);
END
$$;
COMMENT ON FUNCTION visrec.taste(regclass, anyarray, anyarray, text, text, double precision[], double precision[], name, boolean) IS
    'The unit vector that stands for what somebody liked and disliked. mean: the weighted mean of the liked minus half '
    'the weighted mean of the disliked; session: the liked in order of time, s := α·s + (1 − α)·f(v) with '
    'α = (cos(f(v), s) + 1) / 2, minus the same. toward: moved half-way to a text. NULL, with a NOTICE, where no liked row '
    'has a vector; strict: an error.';

CREATE FUNCTION visrec.taste(relation regclass, liked anyarray, strategy text DEFAULT 'mean',
    toward text DEFAULT NULL, liked_weights double precision[] DEFAULT NULL, name name DEFAULT NULL, strict boolean DEFAULT false)
RETURNS vector
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT visrec.taste(relation, liked, liked[1:0], strategy, toward, liked_weights, NULL, name, strict)
$$;
COMMENT ON FUNCTION visrec.taste(regclass, anyarray, text, text, double precision[], name, boolean) IS
    'The unit vector that stands for what somebody liked; see the form with disliked.';
