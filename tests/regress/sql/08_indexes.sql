-- visrec.reindex: the plan inside similar_<table> with each method, the rows found, what cannot be.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION visrec CASCADE;
CREATE TABLE items (id bigint PRIMARY KEY, image_path text, kind integer, content_vector vector(512));
SELECT setseed(0.5);
INSERT INTO items (id, kind, content_vector)
SELECT n / 512 + 1, n / 512 % 3, array_agg(CASE WHEN n % 512 < 40 THEN random() - 0.5 ELSE 0 END ORDER BY n)::vector
FROM generate_series(0, 500 * 512 - 1) AS n GROUP BY n / 512;
SELECT visrec.attach('items', model => 'pixels');
ANALYZE items;
RESET client_min_messages;

-- The indexes that a search scans.
CREATE FUNCTION scanned() RETURNS SETOF name LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := (SELECT jsonb_object_agg(x.indexrelid, pg_stat_get_xact_numscans(x.indexrelid)) FROM pg_index AS x
                     WHERE x.indrelid = 'items'::regclass);
BEGIN
    PERFORM FROM similar_items(1, 10);
    RETURN QUERY SELECT c.relname FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid
        WHERE x.indrelid = 'items'::regclass AND NOT x.indisprimary
          AND pg_stat_get_xact_numscans(x.indexrelid) > (before ->> x.indexrelid::text)::bigint;
END
$$;

-- Whether the 10 nearest of 20 rows are found (of bits, nearly all), and those that a filter leaves; whether the similarity is the cosine.
CREATE TABLE exact AS
SELECT q.id AS q, o.id, 1 - (o.content_vector <=> q.content_vector) AS cosine,
       row_number() OVER (PARTITION BY q.id ORDER BY o.content_vector <=> q.content_vector) AS place,
       row_number() OVER (PARTITION BY q.id, o.kind ORDER BY o.content_vector <=> q.content_vector) AS of_kind
FROM (SELECT * FROM items WHERE id <= 20 OFFSET 0) AS q JOIN items AS o ON o.id <> q.id;
CREATE FUNCTION found(share numeric DEFAULT 0.95) RETURNS TABLE (recall boolean, filtered boolean, cosine boolean) LANGUAGE sql AS $$
    SELECT avg((e.place <= 10)::integer) FILTER (WHERE f.kind IS NULL) >= share,
           avg((e.of_kind <= 10)::integer) FILTER (WHERE f.kind = 1) = 1,
           bool_and(abs(e.cosine - s.similarity) < 1e-6)
    FROM generate_series(1, 20) AS n CROSS JOIN (VALUES (NULL), (1)) AS f (kind)
    CROSS JOIN LATERAL similar_items(n, 10, CASE WHEN f.kind = 1 THEN '{"kind": 1}'::jsonb END) AS s
    JOIN exact AS e ON e.q = n AND e.id = s.id
$$;
CREATE VIEW indexes AS SELECT pg_get_indexdef(indexrelid) FROM pg_index
    WHERE indrelid = 'items'::regclass AND NOT indisprimary AND pg_get_indexdef(indexrelid) !~ 'source' ORDER BY 1;

SELECT scanned();
SELECT * FROM found();

CALL visrec.reindex('items', 'hnsw_half');
SELECT * FROM indexes;
SELECT scanned();
SELECT * FROM found();

CALL visrec.reindex('items', 'hnsw_binary');
SELECT * FROM indexes;
SELECT scanned();
SELECT * FROM found(0.8);

CALL visrec.reindex('items', 'ivfflat');
SELECT * FROM indexes;
SELECT scanned();
SELECT * FROM found();

CALL visrec.reindex('items', 'none');
SELECT * FROM indexes;
SELECT * FROM found();

-- Metrics: the same rows. They are the same for vectors of length 1 only.
UPDATE items SET content_vector = l2_normalize(content_vector);
CALL visrec.reindex('items', 'hnsw', 'inner_product');
SELECT scanned();
SELECT * FROM found();
CALL visrec.reindex('items', 'hnsw_half', 'l2');
SELECT scanned();
SELECT * FROM found();
CALL visrec.reindex('items', metric => 'l2');
SELECT scanned();
SELECT * FROM found();

-- Of the 512 numbers, 40 vary: these lose nothing, fewer lose something.
SELECT round(variance::numeric, 3) AS variance, round(neighbours::numeric, 2) AS neighbours, recall FROM visrec.reduce('items', 40);
SELECT * FROM indexes;
SELECT scanned();
SELECT * FROM found();
SELECT variance BETWEEN 0.5 AND 0.9 AS some_variance, neighbours BETWEEN 0.1 AND 0.9 AS some_neighbours, recall > neighbours AS by_candidates
FROM visrec.reduce('items', 20);
SELECT * FROM indexes;
SELECT * FROM found(0.8);
SELECT p.oid::regprocedure, obj_description(p.oid) FROM pg_proc AS p WHERE p.proname LIKE '\_project\_%';
SELECT index_method, index_metric FROM visrec.attached;
SELECT visrec.attach('items', model => 'pixels');
INSERT INTO items (id, content_vector) SELECT 1001, content_vector FROM items WHERE id = 7;
SELECT id FROM similar_items(7, 1);
DELETE FROM items WHERE id = 1001;
CALL visrec.reindex('items', metric => 'l2');
SELECT p.proname FROM pg_proc AS p WHERE p.proname LIKE '\_project\_%';

-- Attached again, it is as it was; an index of one's own is used, and left alone.
SELECT visrec.attach('items', model => 'pixels');
SELECT index_method, index_metric FROM visrec.attached;
SELECT * FROM indexes;
CREATE INDEX mine ON items USING hnsw (content_vector vector_cosine_ops);
CALL visrec.reindex('items');
SELECT * FROM indexes;
SELECT index_method, index_metric FROM visrec.attached;
CALL visrec.reindex('items', 'hnsw_binary');
CALL visrec.reindex('items', 'none');
SELECT * FROM indexes;

-- However many
CALL visrec.reindex('items', 'hnsw_binary');
SELECT count(*), count(DISTINCT id) FROM similar_items(7, 60);
SELECT count(*), count(DISTINCT id) FROM similar_items(7, 5000);
SHOW hnsw.ef_search;

-- Row-level security: as many of the rows that one may see as were asked for
CREATE ROLE regress_reader;
GRANT SELECT ON items TO regress_reader;
CREATE POLICY few ON items USING (id <= 15);
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
SET ROLE regress_reader;
SELECT count(*), max(id) FROM similar_items(7);
CALL visrec.reindex('items');
RESET ROLE;

-- What cannot be
CALL visrec.reindex('items', 'annoy');
CALL visrec.reindex('items', 'hnsw', 'hamming');
CALL visrec.reindex('items', NULL);
CALL visrec.reindex('items', 'hnsw_reduced');
SELECT visrec.reduce('items', 512);
SELECT visrec.reduce('items', 0);
CREATE TABLE plain (id bigint PRIMARY KEY, image_path text);
CALL visrec.reindex('plain');
SELECT visrec.reduce('plain', 8);
INSERT INTO visrec.model VALUES ('wide', '/nowhere', 3000, 'wide-1'), ('wider', '/nowhere', 5000, 'wider-1');
SELECT visrec.attach('plain', model => 'wide');
CALL visrec.reindex('plain');
CALL visrec.reindex('plain', 'ivfflat');
SELECT visrec.reduce('plain', 8);
CALL visrec.reindex('plain', 'hnsw_half');
SELECT visrec.detach('plain', true);
SELECT visrec.attach('plain', model => 'wider');
CALL visrec.reindex('plain', 'hnsw_half');
CALL visrec.reindex('plain', 'hnsw_binary');

-- Other weights: what was fitted to those before is not used. What is left goes with detach.
SELECT recall FROM visrec.reduce('items', 40);
UPDATE visrec.model SET fingerprint = 'pixels-2' WHERE name = 'pixels';
UPDATE items SET content_vector_source = ARRAY[visrec._source('', visrec._weights('pixels-2')), NULL];
SELECT visrec.attach('items', model => 'pixels');
SELECT * FROM indexes;
SELECT visrec.detach('items');
SELECT p.proname FROM pg_proc AS p WHERE p.proname LIKE '\_project\_%';
SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'items'::regclass ORDER BY 1;
DROP VIEW indexes;
DROP TABLE items, plain, exact;
DROP FUNCTION scanned, found;
DROP EXTENSION visrec;
DROP ROLE regress_reader;
