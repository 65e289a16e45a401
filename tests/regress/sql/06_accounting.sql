-- Every row accounted for: where a vector comes from, and what becomes of failures.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION visrec CASCADE;
SELECT visrec.set('model_directory', '/nonexistent');    -- whatever models this machine has
CREATE FUNCTION picture(colour text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT convert_to(E'P6\n16 16\n255\n', 'UTF8') || decode(repeat(colour, 256), 'hex')
$$;
CREATE FUNCTION states(relation regclass) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(state || ' ' || rows, ', ') FROM visrec.coverage(relation) WHERE rows > 0
$$;
CREATE FUNCTION failed() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(relation || ' ' || row_id || ' ' || code, ', ' ORDER BY relation::text, row_id) FROM visrec.failure
$$;

-- A vector says what it was made of. What changed behind the triggers is stale, and backfill mends it.
CREATE TABLE items (id integer PRIMARY KEY, image bytea);
SELECT visrec.attach('items', image_column => 'image', model => 'pixels');
INSERT INTO items SELECT n, picture(to_hex(n) || '1010') FROM generate_series(32, 37) AS n;
SELECT id, content_vector_source[1] >> 32 = visrec._weights('pixels-1') AS of_these_weights,
       content_vector_source = ARRAY[visrec._source(image, visrec._weights('pixels-1')), visrec._stamp(image)] AS of_this_image
FROM items ORDER BY id;
SET session_replication_role = replica;
UPDATE items SET image = picture('ffffff') WHERE id = 32;                           -- another picture
UPDATE items SET image = 'x' WHERE id = 33;                                         -- no picture
UPDATE items SET content_vector_source[1] = content_vector_source[1] + (1::bigint << 32) WHERE id = 34; -- another model
UPDATE items SET image = NULL WHERE id = 35;                                        -- none any more
INSERT INTO items VALUES (38, picture('202020'));
RESET session_replication_role;
SELECT states('items');
CREATE TEMP TABLE kept AS SELECT id, content_vector FROM items;
\set VERBOSITY terse
SELECT id FROM similar_items(34);
SELECT id FROM similar_items(36);
\set VERBOSITY default
CALL visrec.backfill('items');
SELECT states('items'), failed();
SELECT i.id, i.content_vector IS NULL AS none, i.content_vector = k.content_vector AS as_before
FROM items AS i JOIN kept AS k USING (id) ORDER BY id;
SELECT count(*) FROM similar_items(34);
-- A vector that its owner wrote is the owner's word.
INSERT INTO items (id, image, content_vector) SELECT 40, picture('111111'), content_vector FROM items WHERE id = 36;
SELECT states('items'), (SELECT content_vector_source FROM items WHERE id = 40);

-- A failure goes with its row: deleted, truncated, under another key, healed, dropped.
INSERT INTO items VALUES (50, 'a'), (51, 'b'), (52, 'c'), (53, 'd'), (54, 'e');
SELECT failed();
DELETE FROM items WHERE id = 33;
UPDATE items SET id = 150 WHERE id = 50;
UPDATE items SET image = picture('404040') WHERE id = 51;
UPDATE items SET image = NULL WHERE id = 52;
SELECT states('items'), failed();
SET session_replication_role = replica;
DELETE FROM items WHERE id = 53;
UPDATE items SET image = picture('505050') WHERE id = 54;
RESET session_replication_role;
SELECT states('items'), failed();
SELECT visrec.retry('items');
SELECT states('items'), failed();
CALL visrec.backfill('items');
SELECT states('items'), failed();
TRUNCATE items;
SELECT failed();

-- A partitioned table's failures are its own, whatever partition the row is in.
CREATE TABLE parts (id integer PRIMARY KEY, image bytea) PARTITION BY RANGE (id);
CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (200);
SELECT visrec.attach('parts', image_column => 'image', model => 'pixels');
INSERT INTO parts VALUES (1, 'a'), (2, 'b'), (3, picture('303030')), (101, 'c');
SELECT failed();
DELETE FROM parts_low WHERE id = 1;
UPDATE parts SET id = id + 100 WHERE id = 2;
SELECT states('parts'), failed();
CALL visrec.backfill('parts');
SELECT states('parts'), failed();

-- DROP TABLE takes along what attach made, and nothing of any other table's.
INSERT INTO items VALUES (1, 'a');
SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname ~ 'items|parts' OR pronamespace = 'visrec'::regnamespace AND proname ~ '_[0-9]+$' ORDER BY oid::regprocedure::text COLLATE "C";
BEGIN;
DROP TABLE items;
SELECT failed();
ROLLBACK;
SELECT failed();
DROP TABLE items;
SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname ~ 'items|parts' OR pronamespace = 'visrec'::regnamespace AND proname ~ '_[0-9]+$' ORDER BY oid::regprocedure::text COLLATE "C";
SELECT failed();
SELECT visrec.attach('parts', image_column => 'image', model => 'pixels');
SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname ~ 'items|parts' OR pronamespace = 'visrec'::regnamespace AND proname ~ '_[0-9]+$' ORDER BY oid::regprocedure::text COLLATE "C";
DROP TABLE parts;
SELECT count(*) FROM pg_depend WHERE deptype = 'x';
SELECT failed();

-- Vectors of two models never meet in one column.
INSERT INTO visrec.model (name, directory, dimension, fingerprint) VALUES ('other', '/nonexistent', 512, 'other-1');
CREATE TABLE items (id integer PRIMARY KEY, image bytea);
SELECT visrec.attach('items', image_column => 'image', model => 'pixels');
INSERT INTO items VALUES (1, picture('202020'));
SELECT visrec.attach('items', image_column => 'image', model => 'other');
SELECT visrec.detach('items');
SELECT visrec.attach('items', image_column => 'image', model => 'other');
SELECT visrec.attach('items', image_column => 'image', model => 'pixels');
UPDATE visrec.model SET fingerprint = 'pixels-2' WHERE name = 'pixels';     -- as if registered anew
INSERT INTO items VALUES (2, picture('303030'));
SELECT states('items'), failed();
SELECT message FROM visrec.failure;
\set VERBOSITY terse
CALL visrec.backfill('items');
\set VERBOSITY default
UPDATE visrec.model SET fingerprint = 'pixels-1' WHERE name = 'pixels';
SELECT visrec.retry('items');
SELECT states('items'), failed();
ALTER TABLE items ADD other_source text;
SELECT visrec.attach('items', image_column => 'image', vector_column => 'other', model => 'pixels');

-- Keys that read otherwise under other settings.
CREATE TABLE days (day date PRIMARY KEY, image bytea);
CREATE TABLE moments (at timestamptz PRIMARY KEY, image bytea);
SELECT visrec.attach('days', image_column => 'image', model => 'pixels');
SELECT visrec.attach('moments', image_column => 'image', model => 'pixels');
SET datestyle = 'German';
SET timezone = 'Asia/Kathmandu';
INSERT INTO days VALUES ('2026-02-03', 'a'), ('infinity', 'b'), ('2026-02-04', picture('202020'));
INSERT INTO moments VALUES ('2026-02-03 12:00', 'a'), ('-infinity', 'b'), ('2026-02-03 12:01', picture('202020')),
    ('0044-03-15 12:00 BC', 'c');
SET datestyle = 'ISO, MDY';
SET timezone = 'America/New_York';
SELECT states('days'), states('moments'), failed();
UPDATE days SET image = picture('202020') WHERE image = 'a';
UPDATE moments SET image = picture('202020') WHERE image = 'a' OR at < '0001-01-01';
SELECT states('days'), states('moments'), failed();
DELETE FROM moments WHERE at = '-infinity';
SELECT visrec.retry('days'), failed();

-- A key of fixed length, which a cast to its type's name would cut.
CREATE TABLE codes (code char(5) PRIMARY KEY, image bytea);
SELECT visrec.attach('codes', image_column => 'image', model => 'pixels');
INSERT INTO codes VALUES ('ab1', picture('202020')), ('ab2', picture('303030')), ('ab3', 'a');
SELECT states('codes'), failed();
SELECT id FROM similar_codes('ab1');

-- Row-level security hides rows, and their failures; what a role sees of a table is accounted for in the same way.
CREATE ROLE regress_visrec_tenant;
CREATE TABLE tenants (id integer PRIMARY KEY, image bytea);
SELECT visrec.attach('tenants', image_column => 'image', model => 'pixels');
INSERT INTO tenants VALUES (1, 'a'), (2, 'b'), (3, picture('202020')), (4, picture('303030'));
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY odd ON tenants TO regress_visrec_tenant USING (id % 2 = 1);
GRANT SELECT ON tenants TO regress_visrec_tenant;
SET ROLE regress_visrec_tenant;
SELECT states('tenants'), failed();
SELECT row_id, code FROM visrec.failures('tenants');
SELECT id, code FROM failures_tenants();
RESET ROLE;
SELECT states('tenants');
-- An owner whom the policies bind, too: what it cannot see it cannot embed, and INSERT says so. It is not counted, either,
-- whoever asks: visrec.coverage and visrec.backfill read the table as its owner.
ALTER TABLE tenants OWNER TO regress_visrec_tenant;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
SELECT visrec.attach('tenants', image_column => 'image', model => 'pixels');
SET client_min_messages = warning;
INSERT INTO tenants VALUES (5, picture('202020')), (6, picture('202020'));
CALL visrec.backfill('tenants');
SET client_min_messages = error;
SELECT states('tenants');
CREATE POLICY owner ON tenants TO regress_visrec_tenant USING (true);
CALL visrec.backfill('tenants');
SELECT states('tenants');

DROP EXTENSION visrec;
DROP TABLE items, days, moments, codes, tenants;
DROP ROLE regress_visrec_tenant;
