-- Who may do what. PUBLIC may read settings and attachments, and search attached tables with the rights it has on them. A
-- role that attaches tables or embeds images of its own needs a grant, and so does one that monitors.

CREATE FUNCTION visrec._granted_functions(access text) RETURNS SETOF regprocedure
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF access = 'embed' THEN
        RETURN QUERY SELECT unnest(ARRAY[
            'visrec.attach(regclass, name, name, text, text, text, name[], name, double precision)',
            'visrec._attach(regclass, name, name, text, text, text, name[], name, double precision, name[])',
            'visrec.backfill(regclass, integer, bigint, name)',
            'visrec.retry(regclass, name)',
            'visrec.recheck(regclass, name)',
            'visrec.duplicates(regclass, integer, double precision, name)',
            'visrec.reduce(regclass, integer, name)',
            'visrec.embed_image(text, text)',
            'visrec.embed_image(bytea, text)',
            'visrec.embed_text(text, text)',
            'visrec._use_model(text)',
            'visrec._next_id()',
            'visrec._commit(boolean)',
            'visrec._hold_schemas(integer)',
            'visrec._embed(text, text, bytea, text)',
            'visrec._python_embed_rows(text, text[], boolean, boolean)',
            'visrec._python_backfill_batch(text, text, integer, integer)',
            'visrec._duplicate_kinds(text, text[], text[])',
            'visrec._file_stamps(text[])',
            'visrec._principal_components(bytea, integer, integer)'
        ]::regprocedure[]);
    ELSIF access = 'monitor' THEN
        RETURN QUERY SELECT unnest(ARRAY[
            'visrec.encoder_status()',
            'visrec._encoder_status()',
            'visrec.selftest()',
            'visrec._monitor_coverage(integer)'
        ]::regprocedure[]);
    ELSE
        RAISE invalid_parameter_value USING
            MESSAGE = format('unknown access "%s"', coalesce(access, 'NULL')),
            HINT = 'Valid values are "embed" and "monitor".';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._granted_functions(text) IS 'What visrec.grant_access grants.';

CREATE FUNCTION visrec.grant_access(role regrole, access text DEFAULT 'embed') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    function regprocedure;
BEGIN
    IF role IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'the role must not be null';
    END IF;
    FOR function IN SELECT visrec._granted_functions(access) LOOP
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s', function, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec.grant_access(regrole, text) IS
    'Gives a role a right. embed: to attach its tables and embed images and texts; it can then read, as vectors, any image '
    'inside image_roots. monitor: encoder_status, selftest, and coverage and failures of all tables. Roles that only use '
    'attached tables need neither. For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.grant_access(regrole, text) FROM PUBLIC;

CREATE FUNCTION visrec.revoke_access(role regrole, access text DEFAULT 'embed') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    function regprocedure;
BEGIN
    IF role IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'the role must not be null';
    END IF;
    FOR function IN SELECT visrec._granted_functions(access) LOOP
        EXECUTE format('REVOKE EXECUTE ON ROUTINE %s FROM %s', function, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec.revoke_access(regrole, text) IS
    'Takes back what visrec.grant_access gave. Rows of tables of a role without embed are kept without a vector.';
REVOKE ALL ON FUNCTION visrec.revoke_access(regrole, text) FROM PUBLIC;

CREATE FUNCTION visrec._may_embed(role oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT has_function_privilege(role, 'visrec._python_embed_rows(text, text[], boolean, boolean)', 'EXECUTE')
$$;
COMMENT ON FUNCTION visrec._may_embed(oid) IS 'Whether a role has been given access.';

CREATE FUNCTION visrec._check_access(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner regrole := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = relation);
BEGIN
    IF visrec._may_embed(owner) THEN
        RETURN;
    ELSIF has_function_privilege('visrec.grant_access(regrole, text)', 'EXECUTE') THEN
        PERFORM visrec.grant_access(owner);
        RAISE NOTICE USING
            MESSAGE = format('granted the right to embed images to role "%s"', pg_get_userbyid(owner)),
            DETAIL = format('It owns table "%s", whose rows are embedded with its rights.', visrec._label(relation));
    ELSE
        RAISE insufficient_privilege USING
            MESSAGE = format('permission denied to embed images for role "%s"', pg_get_userbyid(owner)),
            DETAIL = format('It owns table "%s", whose rows are embedded with its rights.', visrec._label(relation)),
            HINT = format('An administrator can allow it: SELECT visrec.grant_access(%L);', owner);
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_access(regclass) IS
    'Makes sure that a table''s owner, with whose rights its rows are embedded, may embed.';

-- Default privileges of the role that creates the extension may have given all this to others than PUBLIC; and what an
-- event trigger or a trigger calls, nobody else does.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT p.oid::pg_catalog.regprocedure AS function, a.grantee
        FROM pg_catalog.pg_proc AS p, pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS a
        WHERE p.pronamespace = 'visrec'::pg_catalog.regnamespace AND a.grantee <> p.proowner
          AND (a.grantee <> 0 OR p.prorettype IN ('trigger'::pg_catalog.regtype, 'event_trigger'::pg_catalog.regtype))
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM %s', given.function,
            CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(given.grantee)) END);
    END LOOP;
    FOR given IN
        SELECT c.oid::pg_catalog.regclass AS relation, c.relkind, a.grantee, a.privilege_type
        FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS a
        WHERE c.relnamespace = 'visrec'::pg_catalog.regnamespace AND a.grantee <> c.relowner
          AND (a.grantee <> 0 OR a.privilege_type NOT IN ('SELECT', 'USAGE') AND c.relname NOT IN ('own_attachment', 'own_failed_row'))
          AND pg_catalog.pg_get_userbyid(a.grantee) <> 'pg_database_owner'
    LOOP
        EXECUTE pg_catalog.format('REVOKE %s ON %s %s FROM %s', given.privilege_type, CASE given.relkind WHEN 'S' THEN 'SEQUENCE'
            ELSE 'TABLE' END, given.relation, CASE given.grantee WHEN 0 THEN 'PUBLIC'
            ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(given.grantee)) END);
    END LOOP;
END
$$;
