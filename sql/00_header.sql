-- visrec: visual recommendation for a table's images.
-- Assembled by make from the parts in sql/ and plpython/; edit those.

\echo Use "CREATE EXTENSION visrec CASCADE" to load this file. \quit

-- What this script itself runs or binds, views and defaults among it, is found in pg_catalog: in the schema of pgvector others
-- may have made an operator that fits better than PostgreSQL's own. Only what has a vector among its arguments needs that schema.
SELECT pg_catalog.set_config('visrec.path_with_vector', pg_catalog.current_setting('search_path'), true);
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Whoever can create in this schema could put a function of theirs in the place of one of ours.
DO $$
DECLARE
    schema pg_catalog.pg_namespace := (SELECT n FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'visrec');
BEGIN
    IF pg_catalog.pg_get_userbyid(schema.nspowner) <> current_user
        OR EXISTS (SELECT FROM pg_catalog.aclexplode(schema.nspacl) AS a
                   WHERE a.privilege_type = 'CREATE' AND a.grantee <> schema.nspowner)
        OR EXISTS (SELECT FROM pg_catalog.pg_proc AS p WHERE p.pronamespace = schema.oid)
        OR EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.relnamespace = schema.oid)
        OR EXISTS (SELECT FROM pg_catalog.pg_type AS t WHERE t.typnamespace = schema.oid)
        OR EXISTS (SELECT FROM pg_catalog.pg_operator AS o WHERE o.oprnamespace = schema.oid)
    THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'schema "visrec" already exists and is not safe to use',
            DETAIL = format('It belongs to %s. It must be empty and belong to the role that creates the extension, and nobody else '
                'may have CREATE on it.', schema.nspowner::pg_catalog.regrole),
            HINT = 'Drop or rename it; CREATE EXTENSION creates its own.';
    END IF;
END
$$;
GRANT USAGE ON SCHEMA visrec TO PUBLIC;
COMMENT ON SCHEMA visrec IS 'visual recommendation: vectors for the images of attached tables, and searches by them';
