-- The gate to the registry: what a line of visrec.attachment, or of visrec.failed_row, must be.

CREATE FUNCTION visrec._key_operators(relation regclass, key smallint) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(
        SELECT format('OPERATOR(%s.%s)', p.oprnamespace::regnamespace, p.oprname)
        FROM pg_index AS x
        JOIN pg_opclass AS c ON c.oid = x.indclass[0]
        JOIN pg_amop AS o ON o.amopfamily = c.opcfamily AND o.amopstrategy IN (3, 5)
            AND o.amoplefttype = c.opcintype AND o.amoprighttype = c.opcintype
        JOIN pg_operator AS p ON p.oid = o.amopopr
        WHERE x.indrelid = relation AND x.indisprimary AND x.indnkeyatts = 1 AND x.indkey[0] = key
        ORDER BY o.amopstrategy)
$$;
COMMENT ON FUNCTION visrec._key_operators(regclass, smallint) IS
    'The equality and the order (>) of the primary key''s index, so that every type of key compares as it does there.';

CREATE FUNCTION visrec._check_line(a visrec.attachment) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM visrec._check_owner(a.relation);
    PERFORM visrec._check_table(a.relation);
    PERFORM visrec._check_columns(a.relation, a.columns, a.model);
    PERFORM visrec._check_name(a.id, a.relation, a.name);
    -- Everybody reads the lines: none may be large.
    IF a.types <> ARRAY(SELECT f.atttypid::regtype FROM unnest(a.numbers) WITH ORDINALITY AS c (number, n)
                        JOIN pg_attribute AS f ON f.attrelid = a.relation AND f.attnum = c.number ORDER BY c.n)
        OR a.index_method NOT IN ('hnsw', 'hnsw_half', 'hnsw_binary', 'hnsw_reduced', 'ivfflat', 'none')
        OR a.index_metric NOT IN ('cosine', 'inner_product', 'l2')
        OR octet_length(a.fingerprint) > 1000 OR cardinality(a.path) > 1000
        OR a.events IS NOT NULL AND NOT coalesce(has_any_column_privilege(a.events, 'SELECT'), false)
        OR cardinality(a.event_columns) <> 4 OR (a.events IS NULL) <> (a.event_columns IS NULL)
        OR (a.recall > 0 AND a.recall <= 1) IS NOT TRUE OR a.width NOT BETWEEN 1 AND 32768
        OR a.tuned_recall NOT BETWEEN 0 AND 1 OR a.tuned_queries NOT BETWEEN 0 AND 1000000 OR a.tuned_rows NOT BETWEEN 0 AND 1000000000000000
        OR NOT isfinite(a.tuned_at)
        OR cardinality(a.components) > 2000 OR (a.index_method = 'hnsw_reduced') <> (a.components IS NOT NULL)
        OR EXISTS (SELECT FROM unnest(a.components) AS c (row)
                   WHERE pg_column_size(c.row) > 8 + 4 * (SELECT m.dimension FROM visrec.model AS m WHERE m.name = a.model))
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'cannot write to an attachment what visrec.attach would not';
    END IF;
END
$$;
COMMENT ON FUNCTION visrec._check_line(visrec.attachment) IS
    'Raises an error for a line that an owner could not have made with visrec''s functions.';

CREATE FUNCTION visrec._drew_id(id integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN id = currval('visrec.attachment_id');
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION visrec._drew_id(integer) IS 'Whether the id is the last that visrec._next_id gave in this session.';

CREATE FUNCTION visrec._check_attachment() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Who restores a dump.
    super CONSTANT boolean := (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user);
BEGIN
    IF TG_OP = 'UPDATE' THEN    -- of the line before: ON CONFLICT asks no view's condition of it
        PERFORM visrec._check_owner(OLD.relation);
        IF NEW.gone THEN        -- and nothing else
            NEW := OLD;
            NEW.gone := true;
            RETURN NEW;
        END IF;
    -- ON CONFLICT would lock the line that has it.
    ELSIF NOT super AND (NOT visrec._drew_id(NEW.id) OR EXISTS (SELECT FROM visrec.attachment AS a WHERE a.id = NEW.id)) THEN
        RAISE insufficient_privilege USING MESSAGE = 'cannot choose the id of an attachment';
    END IF;
    IF TG_OP = 'UPDATE' AND (NEW.relation, NEW.columns, NEW.numbers, NEW.events, NEW.event_columns)
        IS NOT DISTINCT FROM (OLD.relation, OLD.columns, OLD.numbers, OLD.events, OLD.event_columns)
    THEN        -- Something else is written: a name that is another column's now changes nothing.
        NEW.columns := (visrec._as_now(OLD)).columns;
        NEW.event_columns := (visrec._as_now(OLD)).event_columns;
    ELSE        -- By their names: in a restored dump the numbers are those of another table.
        NEW.numbers := visrec._numbers(NEW.relation, NEW.columns);
        NEW.event_numbers := CASE WHEN NEW.events IS NOT NULL THEN visrec._numbers(NEW.events, NEW.event_columns) END;
    END IF;
    -- In a restore the primary key comes after the data.
    NEW.operators := coalesce(nullif(visrec._key_operators(NEW.relation, NEW.numbers[1]), '{}'),
        CASE WHEN super THEN NEW.operators WHEN TG_OP = 'UPDATE' THEN OLD.operators END);
    NEW.weights := visrec._weights(NEW.fingerprint);
    IF NOT super THEN
        IF TG_OP = 'INSERT' THEN
            NEW.shells := '{}';
        ELSIF NEW.id <> OLD.id THEN
            RAISE insufficient_privilege USING MESSAGE = 'cannot change the id of an attachment';
        ELSIF NEW.shells <> OLD.shells THEN     -- what is known by them may be dropped, and change its owner
            NEW.shells := ARRAY(SELECT visrec._shell_digest(s.name, s.body) FROM visrec._shells(NEW) AS s);
        END IF;
        IF TG_OP = 'INSERT' OR NEW.types <> OLD.types OR NEW.types IS NULL THEN
            PERFORM visrec._check_line(NEW);
        ELSE        -- a change that visrec.attach is still to be told of
            NEW.types := (SELECT array_agg(f.atttypid::regtype ORDER BY c.n) FROM unnest(NEW.numbers) WITH ORDINALITY AS c (number, n)
                          LEFT JOIN pg_attribute AS f ON f.attrelid = NEW.relation AND f.attnum = c.number);
            PERFORM visrec._check_line(NEW);
            NEW.types := OLD.types;
        END IF;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION visrec._check_attachment() IS
    'Checks a line for visrec.attachment with the rights of the role that writes it, and finds its columns'' numbers.';

CREATE TRIGGER a_check BEFORE INSERT OR UPDATE ON visrec.attachment
FOR EACH ROW EXECUTE FUNCTION visrec._check_attachment();

CREATE FUNCTION visrec._check_failed_row() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- A dump that is being restored may bring failures before their attachments.
        IF visrec._owns_attachment(NEW.attachment) OR (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
            RETURN NEW;
        END IF;
    ELSIF NEW.attachment = OLD.attachment AND visrec._owns_attachment(OLD.attachment) THEN
        RETURN NEW;
    END IF;
    RAISE insufficient_privilege USING MESSAGE = 'cannot change a failure of another table';
END
$$;
COMMENT ON FUNCTION visrec._check_failed_row() IS
    'Checks a line for visrec.failed_row before ON CONFLICT locks the one that it has the key of, which asks no view''s condition.';

CREATE TRIGGER a_check BEFORE INSERT OR UPDATE ON visrec.failed_row FOR EACH ROW EXECUTE FUNCTION visrec._check_failed_row();
