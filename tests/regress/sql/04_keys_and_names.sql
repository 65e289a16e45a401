-- Any key type, any name, any schema, partitions.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET DateStyle = ISO;
SET TimeZone = 'UTC';
CREATE EXTENSION visrec CASCADE;
CREATE FUNCTION picture(colour text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT convert_to(E'P6\n16 16\n255\n', 'UTF8') || decode(repeat(colour, 256), 'hex')
$$;

-- Key types
CREATE DOMAIN article_number AS text CHECK (value ~ '^[A-Z]');
DO $$
DECLARE
    key_type text;
    keys text[];
BEGIN
    FOR key_type, keys IN VALUES
        ('smallint', '{1,2,3}'::text[]), ('integer', '{1,2,3}'), ('bigint', '{1,2,9000000000}'),
        ('numeric(12,2)', '{1.00,2.50,3.00}'), ('text', ARRAY['a', 'B b', 'c''"\c']), ('varchar(10)', '{a,b,c}'),
        ('char(4)', '{a,b,c}'), ('date', '{2026-01-01,2026-01-02,2026-01-03}'),
        ('timestamptz', '{2026-01-01 00:00:00.000001+00,2026-01-02 00:00+00,2026-01-03 00:00+00}'),
        ('uuid', '{00000000-0000-0000-0000-000000000001,00000000-0000-0000-0000-000000000002,00000000-0000-0000-0000-000000000003}'),
        ('article_number', '{A1,B2,C3}')
    LOOP
        EXECUTE format('CREATE TABLE things (code %s PRIMARY KEY, image bytea)', key_type);
        PERFORM visrec.attach('things', image_column => 'image', model => 'pixels');
        EXECUTE format('INSERT INTO things VALUES ($1[1]::%1$s, picture(''e01010'')), ($1[2]::%1$s, picture(''1010e0'')), '
                       '($1[3]::%1$s, picture(''c01818''))', key_type) USING keys;
        EXECUTE format('UPDATE things SET image = picture(''d01010'') WHERE code = $1[1]::%s', key_type) USING keys;
        EXECUTE format('SELECT array_agg(id) FROM similar_things($1[1]::%s)', key_type) INTO keys USING keys;
        RAISE WARNING '%: %', key_type, keys;
        DROP TABLE things;
    END LOOP;
END
$$;
CREATE TABLE numbered (n integer PRIMARY KEY, image bytea);
INSERT INTO numbered SELECT i, picture(lpad(to_hex(i * 4000), 6, '0')) FROM generate_series(1, 20) AS i;
SELECT visrec.attach('numbered', image_column => 'image', model => 'pixels');
CALL visrec.backfill('numbered', 7);
SELECT state, rows FROM visrec.coverage('numbered') WHERE rows > 0;
DROP TABLE numbered;

-- Names that need quoting, in a schema that does, under a search_path that leads elsewhere
CREATE SCHEMA "Söme ""schema""; DROP";
CREATE TABLE "Söme ""schema""; DROP"."Ta'ble $visrec$ %s ""x""; DROP" (
    "Key %I" integer PRIMARY KEY, "im""age $1" bytea, "Ti'tle" text);
SELECT visrec.attach('"Söme ""schema""; DROP"."Ta''ble $visrec$ %s ""x""; DROP"', image_column => 'im"age $1',
    vector_column => 've"ctor''', model => 'pixels', show_columns => ARRAY['Ti''tle']::name[]);
SET search_path = pg_catalog;
INSERT INTO "Söme ""schema""; DROP"."Ta'ble $visrec$ %s ""x""; DROP"
VALUES (1, public.picture('e01010'), 'red'), (2, public.picture('1010e0'), 'blue'), (3, '\x00', 'broken');
UPDATE "Söme ""schema""; DROP"."Ta'ble $visrec$ %s ""x""; DROP" SET "im""age $1" = public.picture('c01818') WHERE "Key %I" = 3;
SELECT id, "Ti'tle" FROM "Söme ""schema""; DROP"."similar_Ta'ble $visrec$ %s ""x""; DROP"(1);
SELECT id FROM "Söme ""schema""; DROP"."similar_Ta'ble $visrec$ %s ""x""; DROP"(4);
CALL visrec.backfill('"Söme ""schema""; DROP"."Ta''ble $visrec$ %s ""x""; DROP"');
SELECT state, rows FROM visrec.coverage('"Söme ""schema""; DROP"."Ta''ble $visrec$ %s ""x""; DROP"') WHERE rows > 0;
SELECT visrec.detach('"Söme ""schema""; DROP"."Ta''ble $visrec$ %s ""x""; DROP"', drop_vectors => true);
RESET search_path;
\d "Söme ""schema""; DROP".*
DROP SCHEMA "Söme ""schema""; DROP" CASCADE;

-- The longest names, of several bytes a letter
CREATE TABLE "ääääääääääääääääääääääääääääääx" (id integer PRIMARY KEY, image bytea);
SELECT visrec.attach('ääääääääääääääääääääääääääääääx', image_column => 'image', model => 'pixels');
\df similar_ä*
SELECT visrec.detach('ääääääääääääääääääääääääääääääx');
\df similar_ä*
DROP TABLE "ääääääääääääääääääääääääääääääx";

-- The same name in two schemas
CREATE SCHEMA shop;
CREATE TABLE shop.posts (id integer PRIMARY KEY, image bytea);
CREATE TABLE posts (id integer PRIMARY KEY, image bytea);
SELECT visrec.attach('shop.posts', image_column => 'image', model => 'pixels');
SELECT visrec.attach('posts', image_column => 'image', model => 'pixels');
INSERT INTO shop.posts VALUES (1, picture('e01010')), (2, picture('c01818'));
SELECT id FROM shop.similar_posts(1);
SELECT id FROM similar_posts(1);
SELECT visrec.detach('posts');
SELECT id FROM shop.similar_posts(1);

-- A new table takes over an old one's name: neither loses its vectors nor its functions.
ALTER TABLE shop.posts RENAME TO old_posts;
CREATE TABLE shop.posts (id integer PRIMARY KEY, photo bytea);
SELECT visrec.attach('shop.posts', image_column => 'photo', model => 'pixels');
SELECT visrec.attach('shop.posts', image_column => 'photo', model => 'pixels', name => 'new_posts');
INSERT INTO shop.posts VALUES (1, picture('e01010'));
INSERT INTO shop.old_posts VALUES (3, picture('e01010'));
SELECT id FROM shop.similar_posts(3);
SELECT count(content_vector) FROM shop.posts;
SELECT relation, name FROM visrec.attached ORDER BY name;
DROP SCHEMA shop CASCADE;
DROP TABLE posts;

-- A rename of the table, of its schema, of a column: searches follow, also where another table takes the name over.
CREATE SCHEMA shop;
CREATE TABLE shop.moved (id integer PRIMARY KEY, image bytea);
SELECT visrec.attach('shop.moved', image_column => 'image', model => 'pixels');
INSERT INTO shop.moved VALUES (1, picture('e01010')), (2, picture('c01818'));
ALTER TABLE shop.moved RENAME TO renamed;
SELECT id FROM shop.similar_moved(1);
CREATE TABLE shop.moved AS SELECT id + 10 AS id, image, content_vector, content_vector_source FROM shop.renamed;
SELECT id FROM shop.similar_moved(1);
SELECT id FROM shop.similar_moved(11);
ALTER SCHEMA shop RENAME TO store;
CREATE SCHEMA shop;
CREATE TABLE shop.renamed AS SELECT id + 10 AS id, image, content_vector, content_vector_source FROM store.renamed;
SELECT id FROM store.similar_moved(1);
SELECT id FROM store.similar_moved(11);
ALTER TABLE store.renamed RENAME content_vector TO vector;
ALTER TABLE store.renamed RENAME image TO picture;
ALTER TABLE store.renamed RENAME id TO number;
SELECT id FROM store.similar_moved(1);
INSERT INTO store.renamed VALUES (3, picture('c81818'));
SELECT id FROM store.similar_moved(1);
SELECT relation, name, key_column, image_column, vector_column, problem FROM visrec.attached WHERE name = 'moved';
DROP SCHEMA shop, store CASCADE;

-- Partitions
CREATE TABLE parts (id integer PRIMARY KEY, image bytea) PARTITION BY RANGE (id);
CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
SELECT visrec.attach('parts', image_column => 'image', model => 'pixels');
CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (200);
INSERT INTO parts VALUES (1, picture('e01010')), (2, picture('1010e0')), (101, picture('c01818')), (102, '\x00');
SELECT id FROM similar_parts(1);
UPDATE parts SET image = picture('d01414') WHERE id = 102;
SELECT id, round(similarity::numeric, 2) > 0.9 AS close FROM similar_parts(1);
-- A statement on a partition itself: no trigger of the table sees its end, so the row is honestly pending.
UPDATE parts_high SET image = picture('1010d0') WHERE id = 102;
INSERT INTO parts_low VALUES (3, picture('1010d8'));
SELECT state, rows FROM visrec.coverage('parts') WHERE rows > 0;
CALL visrec.backfill('parts');
SELECT state, rows FROM visrec.coverage('parts') WHERE rows > 0;
SELECT id FROM similar_parts(2, 2) ORDER BY id;
SELECT visrec.detach('parts', drop_vectors => true);
DROP TABLE parts;

DROP FUNCTION picture;
DROP DOMAIN article_number;
DROP EXTENSION visrec;
