-- DROP TABLE takes the triggers along by itself. What else attach made for the table goes here.

CREATE FUNCTION visrec._forget_dropped() RETURNS event_trigger
-- As the extension's owner: who drops a table may own neither its functions nor what visrec keeps of it.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dropped oid[] := ARRAY(SELECT d.objid FROM pg_event_trigger_dropped_objects() AS d WHERE d.object_type = 'table');
    ownerless regprocedure;
BEGIN
    IF cardinality(dropped) = 0 OR NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() AS d
        WHERE d.object_type = 'trigger' AND d.address_names[3] = 'visrec_insert')
    THEN
        RETURN;
    END IF;
    DELETE FROM visrec.failure AS f WHERE f.relation = ANY (dropped);
    DELETE FROM visrec.queue AS q WHERE q.relation = ANY (dropped);
    FOR ownerless IN
        SELECT d.objid::regprocedure FROM pg_depend AS d
        JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'visrec'
        WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x'
        EXCEPT
        SELECT f FROM visrec.attached AS a, visrec._table_functions(a.functions_schema, a.functions_name) AS f
    LOOP
        EXECUTE format('DROP FUNCTION %s', ownerless);
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._forget_dropped() IS
    'After DROP TABLE of an attached table: removes its functions and its lines in visrec.failure.';
REVOKE ALL ON FUNCTION visrec._forget_dropped() FROM PUBLIC;

CREATE EVENT TRIGGER visrec_forget_dropped ON sql_drop EXECUTE FUNCTION visrec._forget_dropped();
COMMENT ON EVENT TRIGGER visrec_forget_dropped IS 'visrec: what attach made goes with its table';
