-- similar_<table>: the plan, the order, the bounds. The vectors are made up, with four numbers that are not 0.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION visrec CASCADE;
CREATE TABLE items (id bigint PRIMARY KEY, image_path text, content_vector vector(512));
SELECT setseed(0.5);
INSERT INTO items (id, content_vector)
SELECT n / 512 + 1, array_agg(CASE WHEN n % 512 < 4 THEN random() - 0.5 ELSE 0 END ORDER BY n)::vector
FROM generate_series(0, 1200 * 512 - 1) AS n GROUP BY n / 512;
INSERT INTO items (id, image_path) VALUES (2000, 'not embedded'), (2001, NULL);
SELECT visrec.attach('items', model => 'pixels');
ANALYZE items;
RESET client_min_messages;

-- The indexes that a statement scans.
CREATE FUNCTION scanned(statement text) RETURNS SETOF name LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := (SELECT jsonb_object_agg(x.indexrelid, pg_stat_get_xact_numscans(x.indexrelid)) FROM pg_index AS x
                     WHERE x.indrelid = 'items'::regclass);
BEGIN
    EXECUTE statement;
    RETURN QUERY SELECT c.relname FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid
        WHERE x.indrelid = 'items'::regclass AND NOT x.indisprimary
          AND pg_stat_get_xact_numscans(x.indexrelid) > (before ->> x.indexrelid::text)::bigint;
END
$$;
SELECT scanned('SELECT FROM similar_items(1, 10)');
SELECT scanned('SELECT FROM similar_items(1, 10, max_distance => 0.5)');
SELECT scanned('SELECT FROM recommend_items(''{1,2}'', ''{3}'')');
SELECT scanned('SELECT FROM similar_items(1, 5000)');

-- Best first, itself excluded, and the same rows as an exact search finds.
SELECT array_agg(id = ANY (ARRAY(
           SELECT o.id FROM items AS o, items AS q WHERE q.id = 7 AND o.id <> 7
           ORDER BY (o.content_vector <=> q.content_vector) + 0 LIMIT 5))) AS exact,
       bool_and(similarity = 1 - (SELECT o.content_vector <=> q.content_vector FROM items AS o, items AS q
                                  WHERE o.id = s.id AND q.id = 7)) AS cosine
FROM similar_items(7, 5) AS s;
SELECT bool_and(similarity <= previous) AS best_first, bool_or(id = 7) AS itself, count(*)
FROM (SELECT id, similarity, lag(similarity, 1, 1.0) OVER () AS previous FROM similar_items(7, 30)) AS s;

-- However many: beyond ef_search, and beyond the table. The session's settings are left alone.
SELECT count(*), count(DISTINCT id) FROM similar_items(7, 39);
SELECT count(*), count(DISTINCT id) FROM similar_items(7, 40);
SELECT count(*), count(DISTINCT id) FROM similar_items(7, 999);
SELECT count(*), count(DISTINCT id) FROM similar_items(7, 5000);
SHOW hnsw.ef_search;
SHOW enable_indexscan;
SHOW hnsw.iterative_scan;
SET hnsw.ef_search = 17;
SELECT count(*) FROM similar_items(7, 60);
SHOW hnsw.ef_search;

-- Bad input
SELECT * FROM similar_items(7, 0);
SELECT * FROM similar_items(7, -1);
SELECT * FROM similar_items(7, NULL);
SELECT * FROM similar_items(-1);
SELECT * FROM similar_items(NULL);
SELECT * FROM similar_items(7, 5, '{"category": "shoes"}');
SELECT * FROM similar_items(2000);
SELECT * FROM similar_items(2000, strict => true);
SELECT * FROM similar_items(-1, strict => true);
SELECT * FROM similar_items(2001);

-- In a join, laterally, by name
SELECT i.id, count(s.id) FROM items AS i LEFT JOIN LATERAL similar_items(id => i.id, k => 3) AS s ON true
WHERE i.id < 4 GROUP BY i.id ORDER BY i.id;

DROP TABLE items;
DROP FUNCTION scanned;
DROP EXTENSION visrec;
