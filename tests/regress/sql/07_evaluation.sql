-- How good the searches are. The vectors are directions in a plane, so that near is near in degrees.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION visrec CASCADE;
CREATE FUNCTION direction(degrees double precision) RETURNS vector LANGUAGE sql IMMUTABLE AS $$
    SELECT (ARRAY[cosd(degrees), sind(degrees)] || array_fill(0::double precision, ARRAY[510]))::vector
$$;
CREATE TABLE items (id bigint PRIMARY KEY, image_path text, label text, note json);
SELECT visrec.attach('items', model => 'pixels');
INSERT INTO items (id, label, content_vector) VALUES
    (1, 'a', direction(0)), (2, 'a', direction(10)), (3, 'b', direction(21)), (4, 'a', direction(33)),
    (5, 'b', direction(46)), (6, 'c', direction(60)), (7, NULL, direction(75)), (8, 'a', NULL);
RESET client_min_messages;
CREATE FUNCTION evaluated(label_column name, k integer[] DEFAULT '{1,3}', sample integer DEFAULT NULL) RETURNS TABLE
    (label text, k integer, queries bigint, p numeric, r numeric, map numeric, ndcg numeric, hit numeric)
LANGUAGE sql AS $$
    SELECT e.label, e.k, queries, round("precision"::numeric, 4), round(recall::numeric, 4), round(e.map::numeric, 4),
           round(e.ndcg::numeric, 4), round(hit_rate::numeric, 4)
    FROM visrec.evaluate('items', label_column, $2, sample) AS e
$$;

-- By hand. Of label a, 1 and 2 find a, b, a; 4 finds b, b, a. Of b, 3 finds a, a, a; 5 finds a, c, b.
-- At k = 3: a's precision (2/3 + 2/3 + 1/3) / 3 = 5/9, recall (1 + 1 + 1/2) / 3 = 5/6, map ((1 + 2/3) / 2 twice, and
-- (1/3) / 2) / 3 = 11/18, ndcg (1.5 / 1.6309 twice, and 0.5 / 1.6309) / 3 = 0.7153; b's (0 + 1/3) / 2, (0 + 1) / 2,
-- (0 + 1/3) / 2, (0 + 0.5) / 2. 6 is alone with c, 7 has no label, 8 no vector.
SELECT * FROM evaluated('label');
-- More than the table has: precision is divided by k all the same. Each k once.
SELECT * FROM evaluated('label', '{100,3,3}') WHERE label IS NULL;
-- The largest k makes no difference to the others.
SELECT * FROM evaluated('label', '{3}') WHERE label IS NULL;
SELECT sum(queries) FROM evaluated('label', '{1}', 2) WHERE label IS NOT NULL;
SELECT count(DISTINCT e.*) FROM generate_series(1, 5), evaluated('label', '{3}', 3) AS e WHERE label IS NULL;
SELECT array_agg(id ORDER BY sha256(convert_to(id::text, 'UTF8'))) FROM items WHERE label < 'c' AND id < 8;
SELECT label, queries FROM evaluated('label', '{3}', 3);
-- Labels of other types, where equal ones may be written in several ways.
ALTER TABLE items ADD price numeric, ADD day date, ADD flag boolean, ADD tags text[];
UPDATE items SET price = CASE id WHEN 1 THEN 1.0 ELSE 1.00 END, day = '2026-02-03', flag = id < 4, tags = ARRAY[label];
SET datestyle = 'German';
SELECT label, queries, p FROM evaluated('price', '{1}');
SELECT label, queries, p FROM evaluated('day', '{1}');
SELECT label, queries, p FROM evaluated('flag', '{1}');
SELECT label, queries, p FROM evaluated('tags', '{1}');
RESET datestyle;

-- Recall: all is found; then by a search that never finds row 1, which only row 2 has as its nearest. It is that of the
-- extension: not a function in the table's schema, which its owner can replace.
SELECT queries, recall, worst, index_ms > 0 AS index_ms, exact_ms > 0 AS exact_ms FROM visrec.recall('items');
SELECT queries, recall, worst FROM visrec.recall('items', 1000, NULL);
BEGIN;
CREATE OR REPLACE FUNCTION similar_items(INOUT id bigint, k integer DEFAULT 10, filter jsonb DEFAULT NULL,
    max_distance double precision DEFAULT NULL, strict boolean DEFAULT false, OUT similarity double precision, OUT image_path text)
RETURNS SETOF record LANGUAGE sql AS 'SELECT 1, 0, ''evil'' WHERE false';
SELECT queries, recall, worst FROM visrec.recall('items', 1);
CREATE OR REPLACE FUNCTION visrec._nearest_1(vector, bigint[], integer, double precision, boolean, OUT ids bigint[], OUT distances double precision[])
LANGUAGE sql AS $$
    SELECT array_agg(s.id ORDER BY s.d, s.id DESC), array_agg(s.d ORDER BY s.d, s.id DESC)
    FROM (SELECT o.id, o.content_vector OPERATOR(public.<=>) $1 AS d FROM public.items AS o
          WHERE o.id <> 1 AND o.id <> ALL ($2) AND o.content_vector IS NOT NULL ORDER BY d, o.id DESC LIMIT $3) AS s
$$;
SELECT queries, recall = 6 / 7::float AS six_of_seven, worst FROM visrec.recall('items', 1);
SELECT queries, round(recall::numeric, 4) AS recall, worst FROM visrec.recall('items', 6);
SELECT p, r FROM evaluated('label', '{1}') WHERE label = 'a';        -- 1 finds 2; 2 finds 3, no more 1; 4 finds 3
-- Of rows as near as each other, either is right; a vector without a direction is nobody's neighbour.
DELETE FROM items WHERE id > 4;
UPDATE items SET content_vector = direction((id - 2) * 10);     -- 1 at -10 degrees, 2 at 0, 3 at 10
SELECT queries, recall, worst FROM visrec.recall('items', 1, NULL);
UPDATE items SET content_vector = array_fill(0, ARRAY[512])::vector WHERE id > 3;
SELECT queries, recall FROM visrec.recall('items', 1, NULL);
ROLLBACK;

-- Taste. ann: 1, 2 | 4, 3: 3 and 4 are next. bob: 5 | 3, 1, though 5 comes again: 4, 6, 3. eve: 1, 7 | 3, 5: the mean,
-- 37.5 degrees, has 4, 5, 3; the session, 26.3 degrees, has 3, 4, 2. At k = 3, mean: precision (2/3 + 1/3 + 2/3) / 3,
-- recall (1 + 1/2 + 1) / 3, map (1 + (1/3) / 2 + (1/2 + 2/3) / 2) / 3.
CREATE TABLE events (user_id text, post_id integer, at timestamptz, what json);
INSERT INTO events VALUES
    ('ann', 4, '2026-01-03'), ('ann', 1, '2026-01-01'), ('ann', 2, '2026-01-02'), ('ann', 3, '2026-01-04'),
    ('bob', 5, '2026-01-01'), ('bob', 3, '2026-01-02'), ('bob', 5, '2026-01-03'), ('bob', 8, '2025-01-01'),
    ('bob', 1, '2026-01-04'), ('bob', 99, '2025-01-02'), ('bob', NULL, '2025-01-03'), ('bob', 6, NULL),
    ('eve', 1, '2026-01-01'), ('eve', 7, '2026-01-02'), ('eve', 3, '2026-01-03'), ('eve', 5, '2026-01-03'),
    ('few', 1, '2026-01-01'), ('few', 8, '2026-01-02'), ('few', 1, '2026-01-03'), ('few', 2, NULL),
    ('new', NULL, '2026-01-01'), (NULL, 1, '2026-01-01'), (NULL, 2, '2026-01-02');
CREATE FUNCTION foretold(k integer[] DEFAULT '{1,3}', holdout double precision DEFAULT 0.5,
    strategies text[] DEFAULT '{mean,session}', sample integer DEFAULT NULL) RETURNS TABLE
    (strategy text, k integer, users bigint, p numeric, r numeric, map numeric, ndcg numeric, hit numeric)
LANGUAGE sql AS $$
    SELECT strategy, e.k, users, round("precision"::numeric, 4), round(recall::numeric, 4), round(e.map::numeric, 4),
           round(e.ndcg::numeric, 4), round(hit_rate::numeric, 4)
    FROM visrec.evaluate_taste('items', 'events', k => $1, holdout => $2, strategies => $3, sample => $4) AS e
$$;
SELECT * FROM foretold();
SET client_min_messages = warning;
SELECT * FROM foretold(strategies => '{best_score,mean,best_score}', k => '{3}');
-- The last item alone: ann's 3, bob's 1, eve's 5. All but the first: ann's 2, 4, 3 and so on.
SELECT * FROM foretold('{10}', 0.01, '{mean}');
SELECT * FROM foretold('{3}', 0.99, '{mean}');
SELECT users FROM foretold('{3}', 0.5, '{mean}', 2);
RESET client_min_messages;
-- Columns of other names; events in a temporary table; keys of another type.
CREATE TEMP TABLE met AS SELECT user_id AS "The user", post_id::text AS "an item", at::date AS "When" FROM events;
SELECT users, round(map::numeric, 4) AS map
FROM visrec.evaluate_taste('items', 'met', 'The user', 'an item', 'When', '{3}', strategies => '{mean}');

-- Nothing to tell
CREATE TABLE "Odd ""table" ("Key" varchar(20) PRIMARY KEY, image_path text, "The label" text);
SET client_min_messages = warning;
SELECT visrec.attach('"Odd ""table"', model => 'pixels');
RESET client_min_messages;
SELECT * FROM visrec.recall('"Odd ""table"');
SELECT * FROM visrec.evaluate('"Odd ""table"', 'The label');
SELECT * FROM visrec.evaluate_taste('"Odd ""table"', 'events');
INSERT INTO "Odd ""table" ("Key", "The label", content_vector)
VALUES ('x @key@', '''', direction(0)), ('$1', '''', direction(1)), ('''', '%', direction(2));
SELECT queries, recall FROM visrec.recall('"Odd ""table"');
SELECT label, queries, "precision" FROM visrec.evaluate('"Odd ""table"', 'The label', '{1}');

-- Bad input
SELECT * FROM visrec.recall('events');
SELECT * FROM visrec.recall('items', 0);
SELECT * FROM visrec.recall('items', NULL);
SELECT * FROM visrec.recall('items', 10, 0);
SELECT * FROM visrec.evaluate('events', 'user_id');
SELECT * FROM visrec.evaluate('items', 'colour');
SELECT * FROM visrec.evaluate('items', NULL);
SELECT * FROM visrec.evaluate('items', 'ctid');
SELECT * FROM visrec.evaluate('items', 'note');
SELECT * FROM visrec.evaluate('items', 'label', '{}');
SELECT * FROM visrec.evaluate('items', 'label', NULL);
SELECT * FROM visrec.evaluate('items', 'label', '{1,0}');
SELECT * FROM visrec.evaluate('items', 'label', '{1,NULL}');
SELECT * FROM visrec.evaluate('items', 'label', sample => -1);
SELECT * FROM visrec.evaluate_taste('events', 'events');
SELECT * FROM visrec.evaluate_taste('items', 'items');
SELECT * FROM visrec.evaluate_taste('items', 'events', 'what');
SELECT * FROM visrec.evaluate_taste('items', 'events', item_column => 'item');
SELECT * FROM visrec.evaluate_taste('items', 'events', item_column => 'at');
SELECT * FROM visrec.evaluate_taste('items', 'events', at_column => 'what');
SELECT * FROM visrec.evaluate_taste('items', 'events', k => '{0}');
SELECT * FROM visrec.evaluate_taste('items', 'events', sample => 0);
SELECT * FROM visrec.evaluate_taste('items', 'events', holdout => 0);
SELECT * FROM visrec.evaluate_taste('items', 'events', holdout => 1);
SELECT * FROM visrec.evaluate_taste('items', 'events', holdout => 'NaN');
SELECT * FROM visrec.evaluate_taste('items', 'events', holdout => NULL);
SELECT * FROM visrec.evaluate_taste('items', 'events', strategies => '{}');
SELECT * FROM visrec.evaluate_taste('items', 'events', strategies => '{mean,median}');
-- A vector of another model; and functions in the table's schema that are not there, which nothing here asks
BEGIN;
UPDATE items SET content_vector_source = ARRAY[visrec._weights('other') << 32, NULL] WHERE id = 3;
SAVEPOINT other;
SELECT * FROM visrec.recall('items');
ROLLBACK TO other;
SELECT * FROM visrec.evaluate('items', 'label');
ROLLBACK TO other;
SELECT * FROM visrec.evaluate_taste('items', 'events');
ROLLBACK;
BEGIN;
DROP FUNCTION similar_items;
SELECT label, k, queries FROM visrec.evaluate('items', 'label', '{3}');
ROLLBACK;

-- Row-level security: what is measured is what the caller sees. 1 and 7 are near 3 and 5, and the labels a, b, b are seen.
CREATE ROLE regress_visrec_tenant;
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
CREATE POLICY odd ON items TO regress_visrec_tenant USING (id % 2 = 1);
GRANT SELECT ON items TO regress_visrec_tenant;
SET ROLE regress_visrec_tenant;
SELECT queries, recall FROM visrec.recall('items');
SELECT * FROM visrec.evaluate('items', 'label', '{3}');
SELECT * FROM visrec.evaluate_taste('items', 'events');
RESET ROLE;
GRANT SELECT ON events TO regress_visrec_tenant;
SET ROLE regress_visrec_tenant;
SELECT strategy, k, users FROM visrec.evaluate_taste('items', 'events', k => '{3}');     -- ann's 1 and 3, too
RESET ROLE;

DROP EXTENSION visrec;
DROP TABLE items, events, "Odd ""table";
DROP FUNCTION direction, evaluated, foretold;
DROP ROLE regress_visrec_tenant;
