-- A smaller index, of vectors with fewer numbers: projected on their principal components, which are fitted to the table.

CREATE FUNCTION visrec._make_projection(a visrec.attachment) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    schema text := (SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
                    WHERE e.extname = 'vector');
    name text := format('visrec._project_%s_%s(%s.vector)', a.id, a.reduction, schema);
BEGIN
    IF to_regprocedure(name) IS NOT NULL THEN       -- an index is made of what it gave when that was built
        RETURN;
    END IF;
    -- One expression, which PL/pgSQL evaluates by itself, on a copy: the vector in the table would be fetched for
    -- each component. <#> is minus the inner product.
    EXECUTE format('CREATE FUNCTION %s RETURNS %s.vector LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS %L', name, schema,
        format($body$
BEGIN
    IF pg_catalog.to_regtype(%3$L)::pg_catalog.oid OPERATOR(pg_catalog.<>) pg_catalog.pg_typeof($1)::pg_catalog.oid THEN
        PERFORM visrec._vector_moved();
    END IF;
    DECLARE     -- a domain of this name would run its CHECKs here
        v CONSTANT %1$s.vector := %1$s.subvector($1, 1, 16000);
    BEGIN
        RETURN ARRAY[
%2$s
        ]::%1$s.vector;
    END;
END
$body$,
            schema, (SELECT string_agg(format('        %L::%s.vector OPERATOR(%s.<#>) v', c.row, schema, schema), E',\n' ORDER BY c.n)
                     FROM unnest(a.components) WITH ORDINALITY AS c (row, n)), schema || '.vector'));
    EXECUTE format('ALTER FUNCTION %s DEPENDS ON EXTENSION visrec', name);
    EXECUTE format('COMMENT ON FUNCTION %s IS %L', name, format('A vector of %s on %s principal components.',
        visrec._label(a.relation), cardinality(a.components)));
END
$$;
COMMENT ON FUNCTION visrec._make_projection(visrec.attachment) IS
    'Makes visrec._project_<id>_<reduction>, which projects a vector on the attachment''s components.';
REVOKE ALL ON FUNCTION visrec._make_projection(visrec.attachment) FROM PUBLIC;

CREATE FUNCTION visrec._vector_moved() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE object_not_in_prerequisite_state USING
        MESSAGE = 'extension "vector" is in another schema than when a reduced index was made',
        HINT = 'Move it back, or reduce the table anew: SELECT visrec.reduce(…);';
END
$$;
COMMENT ON FUNCTION visrec._vector_moved() IS 'Raises an error: a projection''s names no longer mean pgvector''s.';

CREATE FUNCTION visrec._drop_projections(attachment integer, kept integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN
        SELECT p.oid::regprocedure FROM pg_proc AS p
        WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname ~ ('^_project_' || attachment || '_[0-9]+$')
          AND p.proname IS DISTINCT FROM '_project_' || attachment || '_' || kept
          AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid)
    LOOP
        EXECUTE format('DROP FUNCTION %s', function);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_projections(integer, integer) IS
    'Drops an attachment''s projections that no index is made of, except the one in use.';
REVOKE ALL ON FUNCTION visrec._drop_projections(integer, integer) FROM PUBLIC;

CREATE FUNCTION visrec._sample(n visrec._names) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sample record;
BEGIN
    EXECUTE format($query$
        SELECT string_agg(substr(%1$s.vector_send(s.vector), 5), '') AS vectors, count(*) AS size     -- without its head
        FROM (SELECT t.%2$s AS vector FROM %3$s AS t
              WHERE t.%2$s IS NOT NULL AND (t.%4$s[1] >> 32 = $2) IS NOT FALSE ORDER BY %5$s LIMIT $1) AS s
        $query$, n.vector_schema, n.vector, n."table", n.source, visrec._draw(n.key_text))
    INTO sample USING least(10000, 20000000 / (SELECT m.dimension FROM visrec.model AS m WHERE m.name = n.model)), n.weights;
    RETURN jsonb_build_object('vectors', encode(sample.vectors, 'base64'), 'size', sample.size);
END
$$;
COMMENT ON FUNCTION visrec._sample(visrec._names) IS
    'At most 10,000 vectors of a table, the same each time, as float4 on end, in base64.';

CREATE FUNCTION visrec.reduce(relation regclass, dims integer, OUT variance double precision,
    OUT neighbours double precision, OUT recall double precision, name name DEFAULT NULL)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(visrec._find(relation, name));
    dimension integer := (SELECT m.dimension FROM visrec.model AS m WHERE m.name = n.model);
    a visrec.attachment;
    sample jsonb;
    fitted jsonb;
BEGIN
    PERFORM visrec._check_owner(relation);
    n.index_method := 'none';
    PERFORM visrec._check_index(n);
    IF dims IS NULL OR dims < 1 OR dims >= dimension OR dims > 2000 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('dims must be between 1 and %s, not %s', least(dimension - 1, 2000), coalesce(dims::text, 'NULL')),
            DETAIL = format('The vectors have %s dimensions.', dimension);
    END IF;
    sample := visrec._call(n.id, 'sample');
    IF (sample ->> 'size')::bigint <= dims THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('cannot fit %s components to the %s vectors of table "%s"', dims, sample ->> 'size', visrec._label(n.relation)),
            HINT = 'Insert more rows first, or reduce to fewer dimensions.';
    END IF;
    fitted := visrec._checked(visrec._principal_components(decode(sample ->> 'vectors', 'base64'), dimension, dims),
        format('could not reduce the vectors of table "%s"', visrec._label(n.relation)));
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = n.id;
    a := visrec._as_now(a);
    a.index_method := 'hnsw_reduced';
    a.index_metric := 'l2';
    a.reduction := coalesce(a.reduction, 0) + 1;
    a := visrec._untuned(a);
    a.components := ARRAY(SELECT c.row FROM jsonb_array_elements_text(fitted -> 'components') WITH ORDINALITY AS c (row, n) ORDER BY c.n);
    PERFORM visrec._replace_index(a);
    SELECT f.variance, f.neighbours, f.recall INTO variance, neighbours, recall
    FROM jsonb_to_record(fitted) AS f (variance float8, neighbours float8, recall float8);
END
$$;
COMMENT ON FUNCTION visrec.reduce(regclass, integer, name) IS
    'Builds the index of a table''s vectors on dims numbers instead of all: their first principal components, fitted to '
    'at most 10,000 of them. The index shrinks; it finds candidates, 10 for each row wanted, which are compared by '
    'the vectors themselves, and those stay as they are. What is lost, for 100 rows of the sample: variance, the share of '
    'the variance that is kept; neighbours, of the ten nearest rows those that are also among the ten nearest by the '
    'components alone; recall, those among the 100 candidates. visrec.recall measures the whole table; visrec.reindex '
    'goes back. For the table''s owner. Source: Jolliffe, Principal Component Analysis, 2002.';
REVOKE ALL ON FUNCTION visrec.reduce(regclass, integer, name) FROM PUBLIC;

SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
