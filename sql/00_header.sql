-- visrec: visual recommendation for a table's images.
-- Assembled by make from the parts in sql/ and plpython/; edit those.

\echo Use "CREATE EXTENSION visrec CASCADE" to load this file. \quit

GRANT USAGE ON SCHEMA visrec TO PUBLIC;
COMMENT ON SCHEMA visrec IS 'visual recommendation: attach a table, and its images have vectors';
