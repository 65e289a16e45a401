-- Who may do what. PUBLIC may read settings and models, and search attached tables with the rights
-- it has on them. A role that attaches tables or embeds images of its own needs one grant.

CREATE FUNCTION visrec._granted_functions() RETURNS SETOF regprocedure
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT unnest(ARRAY[
        'visrec.attach(regclass, name, name, text, text, text, name[])',
        'visrec.backfill(regclass, integer, bigint)',
        'visrec.retry(regclass)',
        'visrec.duplicates(regclass, integer, double precision)',
        'visrec.reduce(regclass, integer)',
        'visrec.embed_image(text, text)',
        'visrec.embed_image(bytea, text)',
        'visrec.embed_text(text, text)',
        'visrec._use_model(text)',
        'visrec._embed(text, text, bytea, text)',
        'visrec._embed_rows(oid, jsonb, text[])',
        'visrec._embed_queued(oid, jsonb)',
        'visrec._write_vectors(oid, jsonb, text[])',
        'visrec._backfill_batch(oid, jsonb, text, integer, integer)',
        'visrec._duplicate_kinds(oid, jsonb, text[], text[])',
        'visrec._principal_components(bytea, integer, integer)'
    ]::regprocedure[])
$$;
COMMENT ON FUNCTION visrec._granted_functions() IS 'What visrec.grant_access grants.';

CREATE FUNCTION visrec.grant_access(role regrole) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN SELECT visrec._granted_functions() LOOP
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s', function, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec.grant_access(regrole) IS
    'Let a role attach its tables and embed images and texts: it can then read, as vectors, any image inside '
    'image_roots. Roles that only use attached tables need no grant. For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.grant_access(regrole) FROM PUBLIC;

CREATE FUNCTION visrec.revoke_access(role regrole) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN SELECT visrec._granted_functions() LOOP
        EXECUTE format('REVOKE EXECUTE ON ROUTINE %s FROM %s', function, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec.revoke_access(regrole) IS
    'Take back what visrec.grant_access gave. Rows of tables the role owns are then no longer embedded.';
REVOKE ALL ON FUNCTION visrec.revoke_access(regrole) FROM PUBLIC;

CREATE FUNCTION visrec._check_access(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner regrole := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = relation);
BEGIN
    IF has_function_privilege(owner, 'visrec._write_vectors(oid, jsonb, text[])', 'EXECUTE') THEN
        RETURN;
    ELSIF has_function_privilege('visrec.grant_access(regrole)', 'EXECUTE') THEN
        PERFORM visrec.grant_access(owner);
        RAISE NOTICE USING
            MESSAGE = format('role %s, which owns table "%s", may now embed images', owner, relation),
            DETAIL = 'Its rows are embedded with its rights.';
    ELSE
        RAISE insufficient_privilege USING
            MESSAGE = format('role %s, which owns table "%s", may not embed images', owner, relation),
            HINT = format('An administrator can allow it: SELECT visrec.grant_access(%L);', owner);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_access(regclass) IS
    'Makes sure that a table''s owner, as whom its rows are embedded, may do that.';
