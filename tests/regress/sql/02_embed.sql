-- Rows and their vectors: insert, update, upsert, COPY, failures. The pictures are drawn here,
-- as PPM files in a bytea column.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION visrec CASCADE;
RESET client_min_messages;

CREATE FUNCTION picture(colour text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT convert_to(E'P6\n16 16\n255\n', 'UTF8') || decode(repeat(colour, 256), 'hex')
$$;
CREATE TABLE swatch (id integer PRIMARY KEY, image bytea, name text);
SELECT visrec.attach('swatch', image_column => 'image', model => 'pixels', show_columns => '{name}');

INSERT INTO swatch VALUES (1, picture('e01010'), 'red'), (2, picture('c01818'), 'dark red'),
    (3, picture('1010e0'), 'blue'), (4, picture('1818c0'), 'dark blue'), (5, NULL, 'none');
SELECT id, vector_dims(content_vector), round(vector_norm(content_vector)::numeric, 5) AS norm FROM swatch ORDER BY id;
SELECT count(*), (array_agg(name))[1] AS nearest FROM similar_swatch(1, 2);
SELECT id, name FROM similar_swatch(3, 1);
SELECT name, similarity > 0.9 AS close, similarity < 1.000001 AS at_most_1 FROM similar_swatch(2);
SELECT * FROM similar_swatch(5);

-- The same picture gives the same vector, and embed_image gives it too.
SELECT content_vector = visrec.embed_image(image, 'pixels') AS same FROM swatch WHERE id = 1;

-- A bad picture harms its own row alone.
INSERT INTO swatch VALUES (6, '\x00', 'broken'), (7, picture('10e010'), 'green'), (8, '', 'empty');
SELECT * FROM visrec.coverage('swatch');
SELECT relation, row_id, image, code, message, attempts FROM visrec.failure ORDER BY row_id;
SELECT * FROM similar_swatch(6);

-- A new image, a new vector; another column, no work.
UPDATE swatch SET image = picture('e0e010'), name = 'yellow' WHERE id IN (6, 7);
SELECT count(*) AS failures FROM visrec.failure;
SELECT name, round(similarity::numeric, 4) AS similarity FROM similar_swatch(6, 1);
SELECT content_vector AS before FROM swatch WHERE id = 1 \gset
UPDATE swatch SET name = 'crimson', image = image WHERE id = 1;
SELECT content_vector = :'before' AS unchanged FROM swatch WHERE id = 1;
UPDATE swatch SET image = '\x00' WHERE id = 7;
SELECT content_vector IS NULL AS "no vector of the image before" FROM swatch WHERE id = 7;
UPDATE swatch SET image = NULL WHERE id IN (7, 8);
SELECT * FROM visrec.coverage('swatch');
SELECT count(*) AS marked FROM swatch WHERE content_vector IS NULL AND content_vector_source IS NOT NULL AND image IS NOT NULL;

-- ON CONFLICT DO UPDATE, and a vector that comes with the row.
INSERT INTO swatch VALUES (7, picture('10e010'), 'green'), (9, picture('108010'), 'dark green')
ON CONFLICT (id) DO UPDATE SET image = excluded.image, name = excluded.name;
SELECT id, name FROM similar_swatch(7, 1);
INSERT INTO swatch (id, name, image, content_vector)
SELECT 10, 'given', picture('ffffff'), content_vector FROM swatch WHERE id = 3;
SELECT a.content_vector = b.content_vector AS kept FROM swatch AS a, swatch AS b WHERE a.id = 10 AND b.id = 3;

-- COPY
COPY swatch (id, image, name) FROM stdin;
101	\\x50360a3220310a3235350ae01010e01010	red
102	\\x50360a3220310a3235350a1010e01010e0	blue
103	\\x50360a3220310a3235350ac01818c01818	dark red
\.
SELECT id, name FROM similar_swatch(101, 1);

-- What is rolled back leaves nothing.
BEGIN;
SAVEPOINT s;
INSERT INTO swatch VALUES (20, '\x00', 'broken');
UPDATE swatch SET image = '\x01' WHERE id = 1;
ROLLBACK TO s;
COMMIT;
SELECT count(*) AS failures FROM visrec.failure;
SELECT count(*) AS marked FROM swatch WHERE content_vector IS NULL AND content_vector_source IS NOT NULL AND image IS NOT NULL;
SELECT content_vector IS NOT NULL AS kept FROM swatch WHERE id = 1;

-- retry, when what failed can be embedded meanwhile.
INSERT INTO swatch VALUES (20, picture('808080'), 'grey');
ALTER TABLE swatch DISABLE TRIGGER USER;
UPDATE swatch SET content_vector = NULL WHERE id = 20;
ALTER TABLE swatch ENABLE TRIGGER USER;
INSERT INTO visrec.own_failed_row (attachment, row_id, code, message) SELECT id, '20', 'unreadable', 'for a while' FROM visrec.attachment;
SELECT visrec.retry('swatch');
SELECT state, rows FROM visrec.coverage('swatch') WHERE rows > 0;

-- on_error => 'raise'
SELECT visrec.attach('swatch', image_column => 'image', model => 'pixels', on_error => 'raise');
INSERT INTO swatch VALUES (30, picture('ffffff'), 'fine'), (31, '\x00', 'broken');
SELECT count(*) AS rows FROM swatch WHERE id IN (30, 31);
UPDATE swatch SET image = '\x00' WHERE id = 1;
SELECT content_vector IS NOT NULL AS kept FROM swatch WHERE id = 1;

-- backfill: what was there before, and what can still not be embedded.
SELECT visrec.detach('swatch', drop_vectors => true);
INSERT INTO swatch VALUES (40, '\x00', 'broken');
SELECT visrec.attach('swatch', image_column => 'image', model => 'pixels');
SELECT state, rows FROM visrec.coverage('swatch') WHERE rows > 0;
SET client_min_messages = warning;
CALL visrec.backfill('swatch', max_rows => 2);
SELECT state, rows FROM visrec.coverage('swatch') WHERE rows > 0;
CALL visrec.backfill('swatch', batch_size => 3);
SELECT state, rows FROM visrec.coverage('swatch') WHERE rows > 0;
CALL visrec.backfill('swatch');
SELECT row_id, attempts FROM visrec.failure;
RESET client_min_messages;
CALL visrec.backfill('swatch', batch_size => 0);
BEGIN;
CALL visrec.backfill('swatch');
ROLLBACK;

-- Embedding what is in no table.
SELECT vector_dims(visrec.embed_image(picture('ff0000'), 'pixels'));
SELECT visrec.embed_image('\x00'::bytea, 'pixels');
SELECT visrec.embed_image('no/such.jpg', 'pixels');
SELECT visrec.embed_image('/etc/passwd', 'pixels');
SELECT visrec.embed_image('../../../etc/passwd', 'pixels');
SELECT visrec.embed_image(NULL::text, 'pixels') IS NULL AS null_for_null;
SELECT visrec.embed_image(picture('ff0000'));
SELECT visrec.embed_text('a red shoe', 'pixels');

-- Settings
SELECT name, value FROM visrec.setting ORDER BY name;
SELECT visrec.set('max_image_bytes', '100');
INSERT INTO swatch VALUES (50, picture('123456'), 'too large');
SELECT visrec.set('max_image_bytes', NULL);
SELECT visrec.set('max_image_pixels', '255');
INSERT INTO swatch VALUES (51, picture('123456'), 'too many pixels');
SELECT visrec.set('max_image_pixels', NULL);
SELECT row_id, code FROM visrec.failure ORDER BY row_id;
SELECT visrec.set('max_image_bytes', 'many');
SELECT visrec.set('max_image_bytes', '0');
SELECT visrec.set('image_roots', 'here');
SELECT visrec.set('image_roots', '/srv/../etc');
SELECT visrec.set('encoder', 'elsewhere');
SELECT visrec.set('colour', 'blue');
SELECT visrec.register_model('nothing', '/nonexistent');
SELECT visrec.register_model('nothing', 'relative');

DROP TABLE swatch;
DROP FUNCTION picture;
DROP EXTENSION visrec;
