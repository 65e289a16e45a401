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

-- The statement inside the function, with the function's own settings.
CREATE FUNCTION plan(function regprocedure, k integer) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    query text := (SELECT substring(prosrc FROM 'RETURN QUERY\s+(SELECT t\.[^;]*);') FROM pg_proc WHERE oid = function);
    line text;
BEGIN
    query := replace(query, 'visrec_query', (SELECT quote_literal(content_vector) FROM items WHERE id = 1) || '::vector');
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || replace(replace(replace(query, 'LIMIT $2', 'LIMIT ' || k), '$1', '1'),
        '$4', 'NULL::float8') LOOP
        RETURN NEXT regexp_replace(line, '''\[.*\]''', '…');
    END LOOP;
END
$$;
SELECT plan('similar_items(bigint,integer,jsonb,double precision)', 10);
SELECT unnest(proconfig) FROM pg_proc WHERE oid = 'similar_items(bigint,integer,jsonb,double precision)'::regprocedure;

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
SELECT * FROM similar_items(2001);

-- In a join, laterally, by name
SELECT i.id, count(s.id) FROM items AS i LEFT JOIN LATERAL similar_items(id => i.id, k => 3) AS s ON true
WHERE i.id < 4 GROUP BY i.id ORDER BY i.id;

DROP TABLE items;
DROP FUNCTION plan;
DROP EXTENSION visrec;
