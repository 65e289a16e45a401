-- Everything that attach makes: the functions in the table's schema, as \sf prints them, and what is in schema visrec.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION visrec CASCADE;
CREATE ROLE regress_visrec_owner;
SELECT visrec.grant_access('regress_visrec_owner');
CREATE SCHEMA shop AUTHORIZATION regress_visrec_owner;
-- Who may call a function beside its owner.
CREATE FUNCTION others(function pg_proc) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, ', ' ORDER BY a.grantee)
    FROM aclexplode(coalesce((function).proacl, acldefault('f', (function).proowner))) AS a WHERE a.grantee <> (function).proowner
$$;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO pg_monitor;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_visrec_owner GRANT EXECUTE ON FUNCTIONS TO pg_monitor;
SET ROLE regress_visrec_owner;
CREATE TABLE shop.posts (id bigint PRIMARY KEY, image_path text, title text, "The price" numeric(10, 2));
CREATE TABLE shop.events (reader uuid, post bigint, stars real, seen_at timestamptz);
SELECT visrec.attach('shop.posts', model => 'pixels', show_columns => '{title,The price}');
SELECT visrec.attach_events('shop.posts', 'shop.events', 'reader', 'post', 'stars', 'seen_at');
RESET ROLE;

SELECT p.oid::regprocedure AS function, p.proowner::regrole AS owner, others(p), p.prosecdef AS definer,
       p.provolatile AS volatile, p.proparallel AS parallel, p.proconfig AS settings
FROM pg_proc AS p WHERE p.pronamespace = 'shop'::regnamespace ORDER BY p.oid::regprocedure::text COLLATE "C";
\sf shop.similar_posts
\sf shop.search_posts
\sf shop.search_posts_by_image(text, integer, jsonb, double precision)
\sf shop.search_posts_by_image(bytea, integer, jsonb, double precision)
\sf shop.recommend_posts
\sf shop.recommend_posts_weighted
\sf shop.recommend_posts_for
\sf shop.duplicates_posts
\sf shop.failures_posts
SELECT p.proname, obj_description(p.oid) AS comment
FROM pg_proc AS p WHERE p.pronamespace = 'shop'::regnamespace ORDER BY p.proname, p.oid::regprocedure::text COLLATE "C";

-- What runs as the table's owner: nobody else may call it, whatever the default privileges.
SELECT p.oid::regprocedure AS function, p.proowner::regrole AS owner, others(p), p.prosecdef AS definer,
       p.provolatile AS volatile, p.proconfig AS settings, obj_description(p.oid) AS comment
FROM pg_proc AS p WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname ~ '^_(table|trigger)_[0-9]+$' ORDER BY p.proname;
\sf visrec._table_1
\sf visrec._trigger_1
-- The planned searches run as their caller.
SELECT p.oid::regprocedure AS function, p.prosecdef AS definer, p.provolatile AS volatile, p.proconfig AS settings, obj_description(p.oid) AS comment
FROM pg_proc AS p WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname ~ '_[0-9]+$' AND p.proname !~ '^_(table|trigger)_' ORDER BY p.proname;

-- Each goes with the extension, and none is a member of it.
SELECT pg_describe_object(classid, objid, objsubid) AS object, deptype FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'visrec')
  AND deptype <> 'e' ORDER BY pg_describe_object(classid, objid, objsubid) COLLATE "C";

ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM pg_monitor;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_visrec_owner REVOKE EXECUTE ON FUNCTIONS FROM pg_monitor;
DROP TABLE shop.posts;
SELECT p.oid::regprocedure FROM pg_proc AS p WHERE p.pronamespace = 'shop'::regnamespace OR p.proname ~ '^_[a-z]+_1$';
DROP SCHEMA shop CASCADE;
DROP FUNCTION others;
DROP EXTENSION visrec;
DROP ROLE regress_visrec_owner;
