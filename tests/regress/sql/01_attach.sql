-- The life of an attached table, and what cannot be attached.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION visrec CASCADE;
RESET client_min_messages;
SELECT visrec.set('model_directory', '/nonexistent');    -- whatever models this machine has
-- Each object has its comment.
SELECT pg_describe_object(classid, objid, 0) AS "without a comment" FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'visrec')
  AND deptype = 'e' AND classid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_namespace'::regclass)
  AND obj_description(objid, classid::regclass::name) IS NULL;

CREATE TABLE posts (id bigint PRIMARY KEY, image_path text, title text);
INSERT INTO posts VALUES (1, 'one.jpg', 'first'), (2, NULL, 'second');
SELECT visrec.attach('posts', model => 'pixels', show_columns => '{title}');
\d posts
\df *posts
SELECT * FROM visrec.attached;
SELECT * FROM visrec.coverage('posts');

-- Again: what is not named stays as it is.
SELECT visrec.attach('posts', model => 'pixels');
SELECT visrec.attach('posts', model => 'pixels', on_error => 'raise');
SELECT on_error, show_columns FROM visrec.attached;
SELECT visrec.attach('posts', show_columns => '{}');
\df similar_posts
SELECT on_error, show_columns FROM visrec.attached;
SELECT count(*) AS indexes FROM pg_index WHERE indrelid = 'posts'::regclass;

-- A rename: the attachment follows, and its functions keep their name. For another it is attached anew.
ALTER TABLE posts RENAME TO articles;
SET client_min_messages = warning;
SELECT * FROM similar_posts(1);
SELECT visrec.attach('articles');
SELECT relation, name, problem FROM visrec.attached;
CREATE VIEW made AS SELECT p.oid::regprocedure AS function FROM pg_proc AS p
WHERE p.proname ~ '_(posts|articles|plain)' ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT * FROM made;
SELECT visrec.detach('articles');
SELECT visrec.attach('articles', model => 'pixels');
SELECT relation, name, problem FROM visrec.attached;
SELECT * FROM made;

-- Two attachments of one table: another image column, or another model.
ALTER TABLE articles ADD back text;
SELECT visrec.attach('articles', image_column => 'back', model => 'pixels', name => 'backs');
SELECT visrec.attach('articles', image_column => 'back', vector_column => 'back_vector', model => 'pixels', name => 'backs');
SELECT relation, name, image_column, vector_column FROM visrec.attached ORDER BY name;
SELECT p.oid::regprocedure AS function FROM pg_proc AS p WHERE p.proname ~ '_backs' ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT state, rows FROM visrec.coverage('articles') WHERE rows > 0;
SELECT state, rows FROM visrec.coverage('articles', 'backs') WHERE rows > 0;
SELECT visrec.coverage('articles', 'fronts');
SELECT visrec.detach('articles', name => 'backs');
SELECT relation, name FROM visrec.attached;
DROP TABLE articles;
SELECT * FROM made;

-- What cannot be attached: an error with a hint, and nothing half-made.
CREATE TABLE plain (id bigint PRIMARY KEY, image_path text, size integer, small vector(3));
CREATE VIEW a_view AS SELECT * FROM plain;
CREATE TABLE no_key (id bigint, image_path text);
CREATE TABLE two_keys (a bigint, b bigint, image_path text, PRIMARY KEY (a, b));
CREATE TEMP TABLE temporary (id bigint PRIMARY KEY, image_path text);
SELECT visrec.attach('missing');
SELECT visrec.attach('a_view');
SELECT visrec.attach('no_key');
SELECT visrec.attach('two_keys');
SELECT visrec.attach('temporary');
SELECT visrec.attach('plain', model => 'nobody-knows-it');
SELECT visrec.attach('plain');
SELECT visrec.attach('plain', model => 'pixels', image_column => 'picture');
SELECT visrec.attach('plain', model => 'pixels', image_column => 'size');
SELECT visrec.attach('plain', model => 'pixels', vector_column => 'small');
SELECT visrec.attach('plain', model => 'pixels', vector_column => 'size');
SELECT visrec.attach('plain', model => 'pixels', vector_column => 'id');
SELECT visrec.attach('plain', model => 'pixels', show_columns => '{nothing}');
SELECT visrec.attach('plain', model => 'pixels', show_columns => '{id}');
SELECT visrec.attach('plain', model => 'pixels', show_columns => '{size,size}');
SELECT visrec.attach('plain', model => 'pixels', name => '');
SELECT visrec.attach('plain', model => 'pixels', mode => 'queue');
SELECT visrec.attach('plain', model => 'pixels', mode => 'never');
SELECT visrec.attach('plain', model => 'pixels', on_error => 'ignore');
CREATE FUNCTION similar_plain(id bigint, k integer, filter jsonb) RETURNS text LANGUAGE sql AS 'SELECT ''mine''';
SELECT visrec.attach('plain', model => 'pixels');
DROP FUNCTION similar_plain;
\d plain
SELECT * FROM made;
SELECT visrec.detach('plain');
SELECT * FROM visrec.coverage('plain');
CALL visrec.backfill('plain');

-- detach takes away what attach made; the vectors stay unless asked.
SELECT visrec.attach('plain', model => 'pixels');
SELECT visrec.detach('plain');
\d plain
SELECT visrec.attach('plain', model => 'pixels');
SELECT visrec.detach('plain', drop_vectors => true);
\d plain
SELECT * FROM made;

-- An index of one's own serves, and stays.
CREATE TABLE indexed (id bigint PRIMARY KEY, image_path text, content_vector vector(512));
CREATE INDEX mine ON indexed USING hnsw (content_vector vector_cosine_ops);
SELECT visrec.attach('indexed', model => 'pixels');
SELECT visrec.detach('indexed');
\d indexed

-- DROP EXTENSION leaves nothing but what is the user's.
SELECT visrec.attach('plain', model => 'pixels');
DROP EXTENSION visrec;
\d plain
SELECT * FROM made;
SELECT proname FROM pg_proc WHERE pronamespace = 'visrec'::regnamespace;        -- the schema, which PostgreSQL leaves, is empty
INSERT INTO plain VALUES (1, 'still.jpg');
DROP VIEW made;
DROP TABLE plain, no_key, two_keys, indexed CASCADE;
