-- Pairs of rows that show the same picture. The pictures are drawn here, as PPM files in a bytea column.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION visrec CASCADE;
CREATE ROLE regress_visrec_owner;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- A ring on a background, in a red and a blue from 0 to 15; scale enlarges it, the comment changes no pixel.
CREATE FUNCTION ring(red integer, blue integer, radius integer DEFAULT 9, scale integer DEFAULT 1, comment text DEFAULT '')
RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT convert_to(format(E'P6\n%s%s %s\n255\n', '#' || nullif(comment, '') || E'\n', 32 * scale, 32 * scale), 'UTF8')
        || decode(string_agg(CASE WHEN abs(sqrt((x / scale - 16) ^ 2 + (y / scale - 13) ^ 2) - radius) < 3
            THEN to_hex(red) || '830' || to_hex(blue) || '0' ELSE 'f0e8' || to_hex(x / scale / 4) || '0' END, '' ORDER BY y, x), 'hex')
    FROM generate_series(0, 32 * scale - 1) AS x, generate_series(0, 32 * scale - 1) AS y
$$;
CREATE TABLE swatch (id integer PRIMARY KEY, image bytea, name text);
SELECT visrec.attach('swatch', image_column => 'image', model => 'pixels');
SELECT * FROM visrec.duplicates('swatch');

INSERT INTO swatch VALUES (2, ring(12, 3), 'ring'), (10, ring(12, 3), 'copied'), (3, ring(12, 3, comment => 'again'), 'saved again'),
    (4, ring(12, 3, scale => 3), 'enlarged'), (5, ring(3, 12), 'blue'), (6, ring(12, 3, 5), 'small ring'), (7, NULL, 'none');
SELECT id_a, id_b, kind, round(similarity::numeric, 4) AS similarity, percentile FROM visrec.duplicates('swatch', max_distance => 0.5);
SELECT id_a, id_b, kind FROM visrec.duplicates('swatch');
SELECT id_a, id_b, kind FROM visrec.duplicates('swatch', k => 1, max_distance => 0.5) WHERE '6' IN (id_a, id_b);
SELECT count(*) FROM visrec.duplicates('swatch', max_distance => NULL);

-- A picture that cannot be read: its pairs are judged by their vectors, and no other pair is.
INSERT INTO swatch (id, image, content_vector) SELECT 8, '\x00', content_vector FROM swatch WHERE id = 2;
SELECT id_a, id_b, kind FROM visrec.duplicates('swatch') WHERE '8' IN (id_a, id_b);
SELECT id_a, id_b, kind FROM visrec.duplicates('swatch') WHERE '8' NOT IN (id_a, id_b);

-- The same pairs of rows are drawn each time.
SELECT visrec._random_similarities(visrec._resolve(visrec._find('swatch'))) =
       visrec._random_similarities(visrec._resolve(visrec._find('swatch'))) AS same,
       cardinality(visrec._random_similarities(visrec._resolve(visrec._find('swatch')))) AS all_pairs,
       cardinality(visrec._random_similarities(visrec._resolve(visrec._find('swatch')), 5)) AS some_pairs;

-- Other types of key, and names that need quotes
CREATE TABLE "Odd ""Table""" ("the @key@" timestamptz PRIMARY KEY, "Image" bytea);
SELECT visrec.attach('"Odd ""Table"""', image_column => 'Image', model => 'pixels');
INSERT INTO "Odd ""Table""" VALUES ('2026-01-02 12:00Z', ring(12, 3)), ('2026-01-01 12:00Z', ring(12, 3));
SELECT id_a, id_b, kind, percentile FROM visrec.duplicates('"Odd ""Table"""');

SELECT id_a, id_b, kind FROM "duplicates_Odd ""Table"""();       -- with keys of their own type

-- Bad input
SELECT visrec.duplicates('swatch', k => 0);
SELECT visrec.duplicates('swatch', max_distance => -1);
SELECT visrec.duplicates('pg_class');
UPDATE swatch SET content_vector_source = '{1,NULL}' WHERE id = 5;
SELECT visrec.duplicates('swatch');

-- For the table's owner, with access
GRANT SELECT ON swatch TO regress_visrec_owner;
SET ROLE regress_visrec_owner;
SELECT visrec.duplicates('swatch');
RESET ROLE;
SELECT visrec.grant_access('regress_visrec_owner');
SET ROLE regress_visrec_owner;
SELECT visrec.duplicates('swatch');
RESET ROLE;
UPDATE swatch SET content_vector_source = NULL WHERE id = 5;
ALTER TABLE swatch OWNER TO regress_visrec_owner;
SET ROLE regress_visrec_owner;
SELECT count(*) FROM visrec.duplicates('swatch');
RESET ROLE;

-- In the session itself
SELECT visrec.set('encoder', 'in_process');
SELECT id_a, id_b, kind FROM visrec.duplicates('swatch') WHERE kind <> 'similar';

DROP TABLE swatch, "Odd ""Table""";
DROP FUNCTION ring;
DROP EXTENSION visrec;
DROP ROLE regress_visrec_owner;
