-- What attach makes for a table: its functions, and the triggers that keep its vectors current.

CREATE FUNCTION visrec._grant(function regprocedure, acl aclitem[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    grantee oid;
BEGIN
    IF acl IS NULL THEN     -- as functions are from the start: PUBLIC may call it
        RETURN;
    END IF;
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);
    FOR grantee IN SELECT a.grantee FROM aclexplode(acl) AS a LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', function,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._grant(regprocedure, aclitem[]) IS 'Gives a function the grants of the one it replaces.';

CREATE FUNCTION visrec._drop_replaced(config jsonb, made regprocedure[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    replaced record;
BEGIN
    FOR replaced IN
        SELECT f AS function, p.proname, p.proacl
        FROM visrec._table_functions(config ->> 'functions_schema', config ->> 'functions_name') AS f
        JOIN pg_proc AS p ON p.oid = f WHERE f <> ALL (made)
    LOOP
        EXECUTE format('DROP FUNCTION %s', replaced.function);
        PERFORM visrec._grant(p.oid, replaced.proacl) FROM pg_proc AS p
        WHERE p.oid = ANY (made) AND p.proname = replaced.proname;
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_replaced(jsonb, regprocedure[]) IS
    'Drops a table''s functions of an earlier version or attachment; those of the same name have their grants.';

CREATE FUNCTION visrec._make_function(relation regclass, config jsonb, prefix text, suffix text, arguments text,
    declaration text, body text, comment text) RETURNS regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner regrole := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = relation);
    name text := format('%I.%I', config ->> 'functions_schema',
        visrec._function_name(prefix, config ->> 'functions_name', suffix));
    made regprocedure := to_regprocedure(format('%s(%s)', name, arguments));
    statement text := format('CREATE OR REPLACE FUNCTION %s(%s AS %L', name, declaration, body);
    acl aclitem[] := (SELECT p.proacl FROM pg_proc AS p WHERE p.oid = made);
    others regprocedure := (
        SELECT min(p.oid)::regprocedure FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE p.proname = visrec._function_name(prefix, config ->> 'functions_name', suffix)
          AND n.nspname = config ->> 'functions_schema' AND NOT visrec._depends_on_extension('pg_proc', p.oid));
BEGIN
    IF others IS NOT NULL THEN      -- with other arguments, too: a call could mean either
        RAISE duplicate_function USING
            MESSAGE = format('function %s exists and is not visrec''s', others),
            HINT = 'Rename or drop it, then attach again.';
    END IF;
    BEGIN
        EXECUTE statement;
    EXCEPTION WHEN invalid_function_definition THEN     -- other columns than before
        IF made IS NULL THEN
            RAISE;
        END IF;
        EXECUTE format('DROP FUNCTION %s', made);
        EXECUTE statement;
        PERFORM visrec._grant(to_regprocedure(format('%s(%s)', name, arguments)), acl);
    END;
    made := to_regprocedure(format('%s(%s)', name, arguments));
    IF owner <> (SELECT p.proowner FROM pg_proc AS p WHERE p.oid = made) THEN
        EXECUTE format('ALTER FUNCTION %s OWNER TO %s', made, owner);
    END IF;
    EXECUTE format('ALTER FUNCTION %s DEPENDS ON EXTENSION visrec', made);
    EXECUTE format('COMMENT ON FUNCTION %s IS %L', made, comment);
    RETURN made;
END
$$;
COMMENT ON FUNCTION visrec._make_function(regclass, jsonb, text, text, text, text, text, text) IS
    'Writes one of a table''s functions: owned by the table''s owner, dropped with the extension.';

CREATE FUNCTION visrec._trigger_names() RETURNS name[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY['visrec_insert', 'visrec_update_row', 'visrec_update', 'visrec_delete', 'visrec_key',
        'visrec_truncate']::name[]
$$;
COMMENT ON FUNCTION visrec._trigger_names() IS 'The triggers of an attached table.';

CREATE FUNCTION visrec._forget_failure(relation oid, row_id text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM visrec.failure AS f
    WHERE f.row_id = $2 AND (f.relation = $1 OR f.relation IN (SELECT p.relid FROM pg_partition_ancestors($1) AS p))
$$;
COMMENT ON FUNCTION visrec._forget_failure(oid, text) IS
    'Removes a row''s failure, recorded for its table or, of a partition, for the partitioned one.';

CREATE FUNCTION visrec._make_triggers(relation regclass, config jsonb) RETURNS regprocedure
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names record;
    function regprocedure;
    other regclass;
    trigger name;
    key_type oid;
BEGIN
    SELECT * INTO names FROM visrec._names(relation, config);
    SELECT visrec._base_type(a.atttypid) INTO key_type FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attname = config ->> 'key_column';
    SELECT t.tgrelid INTO other FROM pg_trigger AS t
    WHERE t.tgrelid <> relation AND t.tgname = 'visrec_insert' AND t.tgfoid = to_regprocedure(format('%I.%I()',
        config ->> 'functions_schema', visrec._function_name('visrec_embed_', config ->> 'functions_name')));
    IF other IS NOT NULL THEN
        RAISE duplicate_function USING
            MESSAGE = format('the functions for the name "%s" are in use by table "%s"',
                config ->> 'functions_name', other),
            HINT = format('It was renamed. SELECT visrec.attach(%L, …) gives it functions of its own.', other);
    END IF;

    function := visrec._make_function(relation, config, 'visrec_embed_', '',
        arguments => '',
        -- SECURITY DEFINER, for the table's owner: who may insert into the table needs no right to
        -- update it, and none on what is inside visrec.
        declaration => ') RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp',
        comment => format('Gives the rows of %s their vectors.', relation),
        body => format($body$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM visrec._embed_rows(TG_RELID, TG_ARGV[0]::jsonb, ARRAY(
            SELECT %1$s FROM new_rows AS t WHERE t.%3$s IS NULL AND t.%2$s IS NOT NULL));
    ELSIF TG_NAME = 'visrec_update_row' THEN
        NEW.%3$s := NULL;   -- the vector of the image before
        NEW.%4$s := NULL;
        INSERT INTO visrec.queue (relation, row_id) VALUES (TG_RELID, %5$s);
        RETURN NEW;
    ELSIF TG_NAME = 'visrec_update' THEN
        PERFORM visrec._embed_queued(TG_RELID, TG_ARGV[0]::jsonb);
    ELSIF TG_OP = 'TRUNCATE' THEN
        DELETE FROM visrec.failure AS f WHERE f.relation = TG_RELID;
    ELSE                    -- a row without a vector went, or its key changed
        PERFORM visrec._forget_failure(TG_RELID, %6$s);
    END IF;
    RETURN NULL;
END
$body$, names.key_text, names.image, names.vector, names.source,
            visrec._key_text('NEW.' || names.key, key_type), visrec._key_text('OLD.' || names.key, key_type)));
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);

    PERFORM visrec._drop_triggers(relation);
    EXECUTE format('CREATE TRIGGER visrec_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows '
        'FOR EACH STATEMENT EXECUTE FUNCTION %s(%L)', names."table", function::regproc, config);
    EXECUTE format('CREATE TRIGGER visrec_update_row BEFORE UPDATE OF %2$s ON %1$s FOR EACH ROW '
        'WHEN (OLD.%2$s IS DISTINCT FROM NEW.%2$s) EXECUTE FUNCTION %3$s()',
        names."table", names.image, function::regproc);
    EXECUTE format('CREATE TRIGGER visrec_update AFTER UPDATE OF %s ON %s FOR EACH STATEMENT '
        'EXECUTE FUNCTION %s(%L)', names.image, names."table", function::regproc, config);
    -- Rows that may have a line in visrec.failure are those without a vector: others cost a look at the condition.
    EXECUTE format('CREATE TRIGGER visrec_delete AFTER DELETE ON %1$s FOR EACH ROW '
        'WHEN (OLD.%2$s IS NULL AND OLD.%3$s IS NOT NULL) EXECUTE FUNCTION %4$s()',
        names."table", names.vector, names.image, function::regproc);
    EXECUTE format('CREATE TRIGGER visrec_key AFTER UPDATE OF %5$s ON %1$s FOR EACH ROW '
        'WHEN (OLD.%5$s IS DISTINCT FROM NEW.%5$s AND OLD.%2$s IS NULL AND OLD.%3$s IS NOT NULL) '
        'EXECUTE FUNCTION %4$s()',
        names."table", names.vector, names.image, function::regproc, names.key);
    EXECUTE format('CREATE TRIGGER visrec_truncate AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s()',
        names."table", function::regproc);
    FOREACH trigger IN ARRAY visrec._trigger_names() LOOP
        EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION visrec', trigger, names."table");
    END LOOP;
    RETURN function;
END
$$;
COMMENT ON FUNCTION visrec._make_triggers(regclass, jsonb) IS
    'Writes the triggers that keep a table''s vectors current. One BEFORE UPDATE trigger takes away the vector of a '
    'changed image, so that no row ever shows the vector of another picture; the statement''s end brings the new ones.';

CREATE FUNCTION visrec._drop_triggers(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trigger name;
BEGIN
    FOR trigger IN
        SELECT t.tgname FROM pg_trigger AS t
        WHERE t.tgrelid = relation AND visrec._depends_on_extension('pg_trigger', t.oid)
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', trigger, relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_triggers(regclass) IS 'Drops the triggers that attach made.';

CREATE FUNCTION visrec._drop_functions(config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made regprocedure;
BEGIN
    FOR made IN SELECT visrec._table_functions(config ->> 'functions_schema', config ->> 'functions_name') LOOP
        EXECUTE format('DROP FUNCTION %s', made);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._drop_functions(jsonb) IS 'Drops the functions that attach made for a table.';
