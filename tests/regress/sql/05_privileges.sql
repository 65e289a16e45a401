-- Who may do what.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION visrec CASCADE;
SELECT visrec.set('model_directory', '/nonexistent');    -- whatever models this machine has
CREATE ROLE regress_visrec_owner;
CREATE ROLE regress_visrec_writer;
CREATE ROLE regress_visrec_stranger;
CREATE SCHEMA shop AUTHORIZATION regress_visrec_owner;
GRANT USAGE ON SCHEMA shop TO PUBLIC;
CREATE FUNCTION public.picture(colour text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT convert_to(E'P6\n16 16\n255\n', 'UTF8') || decode(repeat(colour, 256), 'hex')
$$;

-- Everything PUBLIC may call takes no file and no model in hand.
SELECT p.oid::regprocedure AS "PUBLIC may call" FROM pg_proc AS p
WHERE p.pronamespace = 'visrec'::regnamespace AND has_function_privilege('regress_visrec_stranger', p.oid, 'EXECUTE')
ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT p.oid::regprocedure AS "SECURITY DEFINER, or without a search_path" FROM pg_proc AS p
WHERE p.pronamespace = 'visrec'::regnamespace
  AND (p.prosecdef OR NOT coalesce(p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false))
ORDER BY p.oid::regprocedure::text COLLATE "C";

-- Nobody but the extension's owner calls what runs with its rights, or what is called by triggers alone.
SELECT p.oid::regprocedure AS "SECURITY DEFINER", (SELECT count(*) FROM aclexplode(p.proacl) AS a WHERE a.grantee <> p.proowner) AS others
FROM pg_proc AS p WHERE p.pronamespace = 'visrec'::regnamespace AND p.prosecdef ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT c.relname, a.privilege_type AS "PUBLIC may" FROM pg_class AS c, aclexplode(c.relacl) AS a
WHERE c.relnamespace = 'visrec'::regnamespace AND a.grantee = 0 ORDER BY 1, 2;

-- A role needs a grant to attach, and the owner's rights on the table.
SET ROLE regress_visrec_owner;
CREATE TABLE shop.posts (id integer PRIMARY KEY, image bytea);
SELECT visrec.attach('shop.posts', image_column => 'image', model => 'pixels');
SELECT visrec.grant_access('regress_visrec_owner');
RESET ROLE;
SELECT visrec.grant_access('regress_visrec_owner');
SET ROLE regress_visrec_owner;
SELECT visrec.attach('shop.posts', image_column => 'image', model => 'pixels');
SELECT visrec.attach('shop.posts', image_column => 'image', model => 'clip-ViT-B-32');
SELECT visrec.set('image_roots', '/');
SELECT visrec.register_model('mine', '/tmp');
INSERT INTO visrec.model (name, directory, dimension, fingerprint) VALUES ('mine', '/tmp', 512, 'x');
INSERT INTO visrec.setting_value VALUES ('image_roots', '/');
UPDATE visrec.attachment SET model = 'clip-ViT-B-32';
UPDATE visrec.own_attachment SET relation = 'pg_class';
UPDATE visrec.own_attachment SET columns = '{id,id,content_vector,content_vector_source}';
UPDATE visrec.own_attachment SET id = 4711, name = 'other';
CREATE TABLE shop.lists (id integer PRIMARY KEY, image bytea);
RESET ROLE;
CREATE TABLE public.others (id integer PRIMARY KEY, image bytea);
SET ROLE regress_visrec_owner;
SELECT visrec.attach('public.others', image_column => 'image', model => 'pixels');

-- Who may insert gets vectors, without any right on what is inside visrec, nor to update the table.
GRANT SELECT, INSERT ON shop.posts TO regress_visrec_writer;
SET ROLE regress_visrec_writer;
INSERT INTO shop.posts VALUES (1, public.picture('e01010')), (2, public.picture('c01818')), (3, '\x00');
SELECT state, rows FROM visrec.coverage('shop.posts') WHERE rows > 0;
SELECT id FROM shop.similar_posts(1);
SELECT id FROM shop.similar_posts(3);
SELECT row_id, code FROM visrec.failure;
UPDATE shop.posts SET image = NULL;
DELETE FROM visrec.failed_row;
UPDATE visrec.own_failed_row SET gone = true RETURNING row_id;
UPDATE visrec.own_attachment SET gone = true RETURNING id;
BEGIN;
LOCK TABLE visrec.own_attachment IN ACCESS EXCLUSIVE MODE;
ROLLBACK;
BEGIN;
LOCK TABLE visrec.own_failed_row IN ACCESS EXCLUSIVE MODE;
ROLLBACK;
SELECT visrec.retry('shop.posts');
CALL visrec.backfill('shop.posts');
SELECT visrec.detach('shop.posts');
SELECT visrec.embed_image('x.jpg', 'pixels');
SELECT visrec._python_embed_rows('', '{}', false, false);
SELECT visrec._table_1('coverage', '{}');

-- A stranger sees nothing of it.
SET ROLE regress_visrec_stranger;
SELECT count(*) FROM visrec.failure;
SELECT * FROM shop.similar_posts(1);
SELECT * FROM visrec.coverage('shop.posts');
SELECT * FROM visrec.failures('shop.posts');
INSERT INTO visrec.own_failed_row (attachment, row_id, code, message) VALUES (1, '1', 'missing', 'a lie');
INSERT INTO visrec.failed_row (attachment, row_id, code, message) VALUES (1, '1', 'missing', 'a lie');
INSERT INTO visrec.own_attachment SELECT * FROM visrec.attachment;
CREATE TEMP TABLE bait (id integer PRIMARY KEY, image bytea);
CREATE TRIGGER visrec_insert AFTER INSERT ON bait FOR EACH STATEMENT EXECUTE FUNCTION visrec._trigger_1();

-- Row-level security of the table holds in the search.
RESET ROLE;
ALTER TABLE shop.posts ENABLE ROW LEVEL SECURITY;
CREATE POLICY odd ON shop.posts FOR SELECT TO regress_visrec_writer USING (id % 2 = 1);
INSERT INTO shop.posts VALUES (5, public.picture('d01414')), (6, public.picture('d01414'));
SET ROLE regress_visrec_writer;
SELECT id FROM shop.similar_posts(1);
SELECT id FROM shop.similar_posts(2);

-- An administrator attaches somebody's table: its functions are the owner's, its rows are embedded as the owner.
RESET ROLE;
SELECT visrec.revoke_access('regress_visrec_owner');
SET client_min_messages = notice;
SELECT visrec.attach('shop.lists', image_column => 'image', model => 'pixels');
SET client_min_messages = warning;
SELECT p.proname, p.prosecdef, p.proacl FROM pg_proc AS p WHERE p.proowner = 'regress_visrec_owner'::regrole
AND p.proname ~ '_lists|_2$' ORDER BY p.oid::regprocedure::text COLLATE "C";
INSERT INTO shop.lists VALUES (1, public.picture('e01010'));
SELECT state, rows FROM visrec.coverage('shop.lists') WHERE rows > 0;

-- A trigger of the owner's runs as the owner when a superuser's INSERT is embedded.
SET ROLE regress_visrec_owner;
CREATE TABLE shop.seen (who name);
CREATE FUNCTION shop.spy() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO shop.seen VALUES (current_user); RETURN NULL; END $$;
CREATE TRIGGER spy AFTER UPDATE ON shop.lists FOR EACH ROW EXECUTE FUNCTION shop.spy();
RESET ROLE;
INSERT INTO shop.lists VALUES (2, public.picture('e01010'));
SELECT * FROM shop.seen;
-- A superuser does not have it run in the superuser's session: the owner backfills and retries. A function that the owner changed
-- is not called.
ALTER TABLE shop.lists DISABLE TRIGGER visrec_2_insert;
INSERT INTO shop.lists VALUES (3, public.picture('e01010')), (4, 'a');
ALTER TABLE shop.lists ENABLE TRIGGER visrec_2_insert;
CALL visrec.backfill('shop.lists');
SET ROLE regress_visrec_owner;
CALL visrec.backfill('shop.lists');
RESET ROLE;
ALTER TABLE shop.lists DISABLE TRIGGER "~visrec_2_image";
UPDATE shop.lists SET image = public.picture('e01010') WHERE id = 4;
TRUNCATE shop.seen;
SELECT visrec.retry('shop.lists');
SET ROLE regress_visrec_owner;
SELECT visrec.retry('shop.lists');
RESET ROLE;
SELECT * FROM shop.seen;
SELECT state, rows FROM visrec.coverage('shop.lists') WHERE rows > 0;
SET ROLE regress_visrec_owner;
DROP TRIGGER spy ON shop.lists;
ALTER FUNCTION visrec._table_2(text, jsonb) SECURITY INVOKER;
RESET ROLE;
CALL visrec.backfill('shop.lists');
SELECT visrec.retry('shop.lists');
SELECT * FROM visrec.coverage('shop.lists');
SELECT visrec.attach('shop.lists', image_column => 'image', model => 'pixels');
CALL visrec.backfill('shop.lists');

DROP SCHEMA shop CASCADE;
DROP TABLE bait;
DROP TABLE public.others;
DROP FUNCTION public.picture;
DROP EXTENSION visrec;
DROP ROLE regress_visrec_owner, regress_visrec_writer, regress_visrec_stranger;
