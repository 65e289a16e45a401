-- What attach makes of an attachment in schema visrec, where nobody else can create or rename: two functions that run as
-- the table's owner. Which table they are for stands in the attachment, not in a trigger's name or argument, which anybody can forge.

CREATE FUNCTION visrec._function_bodies(attachment integer, OUT table_function text, OUT trigger_function text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    -- No search_path: that of the statement is handed on. So each name and operator is qualified.
    SELECT format($body$
BEGIN
    RETURN visrec._as_owner(%1$s, task, arguments);
END
$body$, $1), format($body$
DECLARE
    n visrec._names := visrec._resolve(%1$s, true);
    keys pg_catalog.text[];
    new_keys pg_catalog.text[];
    copied boolean;
    bare record;
BEGIN
    IF n.id IS NULL OR TG_RELID OPERATOR(pg_catalog.<>) n.relation AND NOT visrec._is_within(TG_RELID, n.relation) THEN
        PERFORM pg_catalog.set_config('visrec.marked_%1$s',
            CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'UPDATE' AND TG_LEVEL OPERATOR(pg_catalog.=) 'ROW' THEN 'yes' ELSE '' END, true);
        IF TG_NAME OPERATOR(pg_catalog.<>) 'visrec_%1$s_later' THEN
            PERFORM visrec._cannot_embed(%1$s, TG_RELID, TG_LEVEL, TG_OP);
        END IF;
        IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' AND TG_LEVEL OPERATOR(pg_catalog.=) 'ROW' THEN
            PERFORM visrec._check_snapshot(TG_RELID, TG_NAME);
            bare := pg_catalog.jsonb_populate_record(NEW, visrec._orphaned_vectors(%1$s, TG_RELID));
            IF TG_WHEN OPERATOR(pg_catalog.=) 'BEFORE' THEN
                RETURN bare;
            ELSIF TG_NAME OPERATOR(pg_catalog.=) 'visrec_%1$s_late' AND pg_catalog.record_image_ne(NEW, bare) THEN
                RAISE triggered_data_change_violation USING
                    MESSAGE = pg_catalog.format('a trigger changed an image of table "%%s", which has visrec''s triggers and is not attached',
                        visrec._label(TG_RELID)),
                    HINT = pg_catalog.format('SELECT visrec.attach(%%L, …);', TG_RELID::pg_catalog.regclass);
            END IF;
        END IF;
        RETURN NEW;
    END IF;
    IF TG_NAME OPERATOR(pg_catalog.=) 'visrec_%1$s_moved' THEN
        EXECUTE visrec._moved_row(n) INTO keys USING NEW;
        IF keys IS NOT NULL THEN
            PERFORM visrec._mark_late(n, keys, pg_catalog.current_schemas(false));
        END IF;
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
        PERFORM visrec._check_current(%1$s);
        EXECUTE visrec._inserted_keys(n) INTO keys, copied;
        IF copied THEN
            EXECUTE visrec._copied_keys(n) INTO keys, new_keys;
        END IF;
        IF new_keys IS NOT NULL THEN
            PERFORM visrec._take_copied(n, new_keys, pg_catalog.current_schemas(false));
        END IF;
        PERFORM visrec._embed_rows(n, keys, pg_catalog.current_schemas(false));
    ELSIF TG_WHEN OPERATOR(pg_catalog.=) 'BEFORE' THEN
        RETURN pg_catalog.jsonb_populate_record(NEW, visrec._mark(n));
    ELSIF TG_NAME OPERATOR(pg_catalog.=) 'visrec_%1$s_late' THEN
        EXECUTE visrec._row_image(n) INTO keys USING NEW;
        PERFORM visrec._mark_late(n, keys, pg_catalog.current_schemas(false));
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' AND TG_LEVEL OPERATOR(pg_catalog.=) 'STATEMENT' THEN
        IF TG_NAME OPERATOR(pg_catalog.=) 'visrec_%1$s_later'
            AND pg_catalog.current_setting('visrec.giving', true) OPERATOR(pg_catalog.=) pg_catalog.format('%%s', n.relation)
        THEN        -- visrec writes, and a trigger changed the image meanwhile: each time, perhaps
            RETURN NULL;
        END IF;
        PERFORM visrec._check_current(%1$s);
        PERFORM visrec._embed_rows(n, visrec._marked_keys(n), pg_catalog.current_schemas(false));
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
        PERFORM visrec._forget_failures(%1$s);
    ELSE                    -- a row without a vector went, or its key was set
        EXECUTE visrec._row_key(n) INTO keys USING OLD;
        IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
            EXECUTE visrec._row_key(n) INTO new_keys USING NEW;
        END IF;
        IF new_keys IS NULL OR keys OPERATOR(pg_catalog.<>) new_keys THEN
            PERFORM visrec._forget_failures(%1$s, keys);
        END IF;
    END IF;
    RETURN NULL;
END
$body$, $1)
$$;
COMMENT ON FUNCTION visrec._function_bodies(integer) IS
    'The text of an attachment''s functions visrec._table_<id> and visrec._trigger_<id>.';

CREATE FUNCTION visrec._make_functions() RETURNS trigger
-- As the extension's owner, who alone creates in schema visrec. What is made follows from the line alone.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
DECLARE
    bodies record := visrec._function_bodies(NEW.id);
    owner name := (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = NEW.relation);
    made record;
    grantee oid;
BEGIN
    IF owner IS NULL THEN       -- no line of a dump keeps those of other tables out
        RETURN NULL;
    ELSIF EXISTS (
        SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname = '_trigger_' || NEW.id AND t.tgparentid = 0
            AND t.tgrelid <> NEW.relation AND pg_get_userbyid(p.proowner) <> owner AND pg_get_userbyid(c.relowner) <> owner)
    THEN        -- whose code it is would change under a table of somebody else's
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('function visrec._trigger_%s belongs to triggers of another table', NEW.id),
            DETAIL = 'Its attachment is not there: the data of visrec.attachment were not restored.';
    END IF;
    FOR made IN SELECT * FROM (VALUES
        ('_table_' || NEW.id, 'text, jsonb', 'task text, arguments jsonb', 'jsonb', bodies.table_function,
         'Reads and writes the rows of %s for visrec''s functions, as its owner.'),
        ('_trigger_' || NEW.id, '', '', 'trigger', bodies.trigger_function, 'Gives the rows of %s their vectors, as its owner.')
    ) AS f (name, types, arguments, result, body, comment)
    -- Those that are as they should be stay: to mark them anew would lock the extension until the transaction ends.
    WHERE NOT EXISTS (
        SELECT FROM pg_proc AS p WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname = f.name AND p.prosrc = f.body
            AND pg_get_userbyid(p.proowner) = owner AND p.prosecdef AND p.provolatile = 'v' AND p.proconfig IS NULL
            AND NOT EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS x WHERE x.grantee <> p.proowner)
            AND visrec._depends_on_extension('pg_proc', p.oid))
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION visrec.%I(%s) RETURNS %s LANGUAGE plpgsql SECURITY DEFINER AS %L',
            made.name, made.arguments, made.result, made.body);
        EXECUTE format('ALTER FUNCTION visrec.%I(%s) OWNER TO %I', made.name, made.types, owner);
        EXECUTE format('ALTER FUNCTION visrec.%I(%s) SECURITY DEFINER VOLATILE RESET ALL', made.name, made.types);
        EXECUTE format('ALTER FUNCTION visrec.%I(%s) DEPENDS ON EXTENSION visrec', made.name, made.types);
        EXECUTE format('COMMENT ON FUNCTION visrec.%I(%s) IS %L', made.name, made.types,
            format(made.comment, visrec._label(NEW.relation)));
        -- Default privileges, or the owner before, may have given it to others.
        EXECUTE format('REVOKE ALL ON FUNCTION visrec.%I(%s) FROM PUBLIC', made.name, made.types);
        FOR grantee IN
            SELECT DISTINCT a.grantee FROM pg_proc AS p, aclexplode(p.proacl) AS a
            WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname = made.name AND a.grantee NOT IN (0, p.proowner)
        LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION visrec.%I(%s) FROM %I CASCADE', made.name, made.types, pg_get_userbyid(grantee));
        END LOOP;
    END LOOP;
    IF NEW.components IS NOT NULL THEN
        PERFORM visrec._make_projection(NEW);
    END IF;
    IF visrec._problem(NEW, false) IS NULL THEN     -- in a restore the primary key comes after this, and these functions before it
        PERFORM visrec._make_searches(NEW.id);
    END IF;
    PERFORM visrec._drop_projections(NEW.id, CASE WHEN NEW.components IS NOT NULL THEN NEW.reduction END);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION visrec._make_functions() IS
    'Makes an attachment''s functions in schema visrec: owned by the table''s owner, who alone may call them.';

CREATE TRIGGER b_make AFTER INSERT OR UPDATE OF relation ON visrec.attachment
FOR EACH ROW WHEN (NEW.gone IS NOT TRUE) EXECUTE FUNCTION visrec._make_functions();

CREATE FUNCTION visrec._drop_made() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made record;
BEGIN
    DELETE FROM visrec.failed_row AS f WHERE f.attachment = OLD.id;
    FOR made IN
        SELECT p.oid::regprocedure AS function FROM pg_proc AS p
        WHERE p.pronamespace = 'visrec'::regnamespace
          AND (p.proname IN ('_table_' || OLD.id, '_trigger_' || OLD.id) OR p.oid IN (SELECT visrec._searches(OLD.id)) OR starts_with(p.proname, '_project_' || OLD.id || '_'))
    LOOP
        -- A trigger that its owner made with it, or an index: never a reason why a table cannot be dropped.
        BEGIN
            EXECUTE format('DROP FUNCTION %s', made.function);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            NULL;
        END;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION visrec._drop_made() IS 'Removes the failures of an attachment that is gone, and its functions in schema visrec.';

CREATE TRIGGER b_drop AFTER DELETE ON visrec.attachment FOR EACH ROW EXECUTE FUNCTION visrec._drop_made();
