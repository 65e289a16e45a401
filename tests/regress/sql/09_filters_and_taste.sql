-- Filters, search by image and words, recommendation by taste: against the same asked in plain SQL.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION visrec CASCADE;
SELECT visrec.set('model_directory', '/nonexistent');    -- whatever models this machine has
CREATE TYPE mood AS ENUM ('sad', 'fair', 'glad');
CREATE TABLE items (id bigint PRIMARY KEY, image bytea, category varchar(20), price numeric, at timestamptz, mood mood,
    code char(4), tags text[], doc jsonb, place point, "it's {x} @y@" integer,
    content_vector vector(512));
SELECT setseed(0.5);
INSERT INTO items (id, content_vector, category, price, at, mood, code, tags, doc, place, "it's {x} @y@")
SELECT n, (ARRAY(SELECT random() - 0.5 + 0 * n FROM generate_series(1, 8)) || array_fill(0, '{504}')::float8[])::vector,
       (ARRAY['shoes', 'hats', 'bags', NULL])[1 + n % 4], n, timestamptz '2026-01-01 00:00 UTC' + n * interval '1 day',
       (ARRAY['sad', 'fair', 'glad'])[1 + n % 3]::mood, 'c' || n % 5, ARRAY['t' || n % 2], jsonb_build_object('n', n % 2),
       point(n, n), n
FROM generate_series(1, 2000) AS n;
INSERT INTO items (id, category) VALUES (3000, 'shoes');
SELECT visrec.attach('items', image_column => 'image', model => 'pixels');
ANALYZE items;

-- Each filter against its WHERE, best first, and as many as there are.
CREATE FUNCTION agrees(filter jsonb, condition text, k integer DEFAULT 10) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    found bigint[] := ARRAY(SELECT s.id FROM similar_items(7, k, filter) AS s);
    wanted bigint[];
    there bigint;
BEGIN
    EXECUTE format('SELECT array_agg(id), max(n) FROM (SELECT t.id, count(*) OVER () AS n FROM items AS t, items AS q '
        'WHERE q.id = 7 AND t.id <> 7 AND t.content_vector IS NOT NULL AND (%s) '
        'ORDER BY (t.content_vector <=> q.content_vector) + 0, t.id LIMIT %s) AS s', condition, k) INTO wanted, there;
    RETURN format('%s of %s, %s', coalesce(cardinality(found), 0), coalesce(there, 0),
        CASE WHEN found IS NOT DISTINCT FROM coalesce(wanted, '{}') THEN 'agrees' ELSE 'DIFFERS' END);
END
$$;
SELECT filter, agrees(filter::jsonb, condition) FROM (VALUES
    ('{"category": "shoes"}', 't.category = ''shoes'''),
    ('{"category": {"eq": "shoes"}}', 't.category = ''shoes'''),
    ('{"category": {"ne": "shoes"}}', 't.category IS DISTINCT FROM ''shoes'''),
    ('{"category": null}', 't.category IS NULL'),
    ('{"category": {"ne": null}}', 't.category IS NOT NULL'),
    ('{"category": {"in": ["shoes", "hats"]}}', 't.category IN (''shoes'', ''hats'')'),
    ('{"category": {"in": []}}', 'false'),
    ('{"category": {"in": ["shoes", null]}}', 't.category = ''shoes'' OR t.category IS NULL'),
    ('{"price": {"lt": 100}}', 't.price < 100'),
    ('{"price": {"gte": 100, "lte": 105}}', 't.price BETWEEN 100 AND 105'),
    ('{"price": {"gt": 1999.5}}', 't.price > 1999.5'),
    ('{"price": 12, "category": "shoes"}', 't.price = 12 AND t.category = ''shoes'''),
    ('{"at": {"lt": "2026-02-01 00:00 UTC"}}', 't.at < ''2026-02-01 00:00 UTC'''),
    ('{"mood": {"gte": "fair"}}', 't.mood >= ''fair'''),
    ('{"code": "c1"}', 't.code = ''c1'''),
    ('{"id": {"lt": 20}}', 't.id < 20'),
    ('{"it''s {x} @y@": {"lt": 20}}', 't."it''s {x} @y@" < 20'),
    ('{"category": "nothing"}', 'false'),
    ('{}', 'true')
) AS v (filter, condition);
SELECT agrees('{"category": "shoes"}', 't.category = ''shoes''', 1200), agrees('{"price": {"lt": 1000}}', 't.price < 1000', 45);
-- Also where the planner expects far more rows than there are, and the index would have to be read to its end.
CREATE FUNCTION pg_temp.forget_statistics() RETURNS void LANGUAGE sql AS
    $$ DELETE FROM pg_statistic WHERE starelid = 'items'::regclass; UPDATE pg_class SET reltuples = 1e7 WHERE oid = 'items'::regclass $$;
BEGIN;
SELECT pg_temp.forget_statistics();
SELECT agrees('{"price": {"lt": 8}}', 't.price < 8'), agrees('{"mood": "sad"}', 't.mood = ''sad''');
ROLLBACK;
-- Ties come in the order of their keys; max_distance cuts.
INSERT INTO items (id, content_vector) SELECT 4000 + n, content_vector FROM items, generate_series(1, 5) AS n WHERE id = 8;
SELECT array_agg(id) FROM similar_items(8, 5);
SELECT array_agg(id) FROM similar_items(8, 5, '{"id": {"gt": 10}}');
SELECT array_agg(id) FROM similar_items(8, 10, max_distance => 0.000001);
SELECT array_agg(id) FROM similar_items(8, 10, '{"id": {"gt": 4002}}', 0.000001);

-- Columns named as what the functions have in them
CREATE TABLE awkward (id bigint PRIMARY KEY, image bytea, k text, ids text, excluded boolean, query text, filter text,
    max_distance text, width text, previous text, liked boolean, taste text, i text, seen text, content_vector vector(512));
INSERT INTO awkward (id, k, ids, excluded, content_vector) SELECT id, 'k', 'none', true, content_vector FROM items WHERE id <= 20;
SELECT visrec.attach('awkward', image_column => 'image', model => 'pixels');
SELECT count(*) FROM similar_awkward(7, 3);
SELECT count(*) FROM similar_awkward(7, 3, max_distance => 2);
SELECT count(*) FROM similar_awkward(7, 3, '{"excluded": true, "k": "k"}', 2);
SELECT count(*) FROM recommend_awkward('{7}', '{8}', 3);
SELECT count(*) FROM recommend_awkward('{7}', '{8}', 3, 'best_score', diversity => 0.5, seen => '{1}');
SELECT visrec.reduce('awkward', 4) IS NOT NULL AS reduced;
SELECT count(*) FROM similar_awkward(7, 3, max_distance => 2);
DROP TABLE awkward;

-- Bad filters
SELECT * FROM similar_items(7, 5, '{"colour": "red"}');
SELECT * FROM similar_items(7, 5, '{"price": {"like": "1%"}}');
SELECT * FROM similar_items(7, 5, '{"price": [1, 2]}');
SELECT * FROM similar_items(7, 5, '{"price": {"in": 1}}');
SELECT * FROM similar_items(7, 5, '{"price": {"lt": null}}');
SELECT * FROM similar_items(7, 5, '{"price": "cheap"}');
SELECT * FROM similar_items(7, 5, '{"place": "(1,2)"}');
SELECT * FROM similar_items(7, 5, '{"tags": "{t1}"}');
SELECT * FROM similar_items(7, 5, '{"doc": {"eq": {"n": 1}}}');
SELECT * FROM similar_items(7, 5, '{"price": {}}');
SELECT * FROM similar_items(7, 5, '["price"]');
SELECT * FROM similar_items(7, 5, '{"price); DROP TABLE items; --": 1}');
SELECT count(*) FROM similar_items(7, 5, '{"category": "x''); DROP TABLE items; --"}');
SELECT * FROM similar_items(7, 5, NULL, -1);
SELECT * FROM similar_items(7, 5, NULL, 'NaN');

-- By an image that is in no table, and by words.
CREATE FUNCTION picture(colour text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT convert_to(E'P6\n16 16\n255\n', 'UTF8') || decode(repeat(colour, 256), 'hex')
$$;
CREATE TABLE pictures (id integer PRIMARY KEY, image bytea, colour text);
SELECT visrec.attach('pictures', image_column => 'image', model => 'pixels', show_columns => '{colour}');
INSERT INTO pictures SELECT n, picture(c), c
FROM unnest('{e01010,d01818,10e010,18d018,1010e0,1818d0}'::text[]) WITH ORDINALITY AS u (c, n);
SELECT id, colour FROM search_pictures_by_image(picture('e81414'), 2);
SELECT count(*), (array_agg(colour))[1] AS nearest FROM search_pictures_by_image(picture('e81414'), 2, '{"colour": {"ne": "e01010"}}');
SELECT similarity FROM search_pictures_by_image(picture('e01010'), 1);
SELECT * FROM search_pictures_by_image('nowhere.jpg');
SELECT * FROM search_pictures_by_image('\x00'::bytea);
SELECT * FROM search_pictures('red');
SELECT * FROM search_pictures(NULL);
SELECT * FROM search_pictures_by_image(picture('e01010'), 0);

-- Taste: the formulas, written out.
SELECT visrec.taste('items', ARRAY[1, 2, 3]) <=> (SELECT avg(content_vector) FROM items WHERE id IN (1, 2, 3)) < 1e-6 AS mean,
       visrec.taste('items', ARRAY[1, 2], liked_weights => '{3,1}') <=> (
           SELECT sum(content_vector * array_fill(CASE id WHEN 1 THEN 3 ELSE 1 END::real, '{512}')::vector)
           FROM items WHERE id IN (1, 2)) < 1e-6 AS weighted,
       visrec.taste('items', ARRAY[1, 2], ARRAY[3, 4]) <=> (
           (SELECT avg(content_vector) FROM items WHERE id IN (1, 2))
           - (SELECT avg(content_vector) * array_fill(0.5::real, '{512}')::vector FROM items WHERE id IN (3, 4))) < 1e-6 AS disliked,
       abs(vector_norm(visrec.taste('items', ARRAY[1, 2, 3])) - 1) < 1e-6 AS unit;
CREATE FUNCTION session(ids bigint[]) RETURNS vector LANGUAGE plpgsql AS $$
DECLARE
    s vector;
    v vector;
    a real;
BEGIN
    FOR v IN SELECT i.content_vector FROM unnest(ids) WITH ORDINALITY AS u (id, n) JOIN items AS i USING (id) ORDER BY n LOOP
        a := (2 - (v <=> coalesce(s, v))) / 2;
        s := coalesce(s, v) * array_fill(a, '{512}')::vector + v * array_fill(1 - a, '{512}')::vector;
    END LOOP;
    RETURN s;
END
$$;
SELECT visrec.taste('items', ARRAY[1, 2, 3, 4], strategy => 'session') <=> session('{1,2,3,4}') < 1e-6 AS session,
       visrec.taste('items', ARRAY[4, 3, 2, 1], strategy => 'session') <=> session('{1,2,3,4}') > 0.01 AS order_matters;
SELECT array_agg(r.id) = ARRAY(
           SELECT id FROM items WHERE id NOT IN (1, 2, 3, 9) AND content_vector IS NOT NULL
           ORDER BY (content_vector <=> (SELECT visrec.taste('items', ARRAY[1, 2, 3], ARRAY[9]))) + 0, id LIMIT 10) AS nearest_to_taste
FROM recommend_items(ARRAY[1, 2, 3], ARRAY[9]) AS r;
SELECT array_agg(r.id) = ARRAY(
           SELECT c.id FROM items AS c,
               LATERAL (SELECT 1 - min(c.content_vector <=> l.content_vector) AS near FROM items AS l WHERE l.id IN (1, 2)) AS p,
               LATERAL (SELECT 1 - min(c.content_vector <=> d.content_vector) AS far FROM items AS d WHERE d.id IN (5, 6)) AS n
           WHERE c.id NOT IN (1, 2, 5, 6) AND c.content_vector IS NOT NULL
           ORDER BY CASE WHEN near > far THEN near ELSE -far * far END DESC, c.id LIMIT 10) AS best_score
FROM recommend_items(ARRAY[1, 2], ARRAY[5, 6], strategy => 'best_score') AS r;
SELECT (SELECT array_agg(id) FROM recommend_items_weighted('[[1, 3], [2, 1], [9, -1]]', 5))
     = (SELECT array_agg(id) FROM recommend_items(ARRAY[1, 2], ARRAY[9], 5, liked_weights => '{3,1}')) AS weighted_pairs;
SELECT bool_and(i.category = 'hats'), count(*), count(*) FILTER (WHERE r.id IN (11, 13))
FROM recommend_items(ARRAY[1, 2], k => 5, filter => '{"category": "hats"}', seen => '{13}') AS r JOIN items AS i USING (id);
-- Diversity: less like one another, the first the same; 0 changes nothing.
CREATE FUNCTION alike(ids bigint[]) RETURNS double precision LANGUAGE sql AS $$
    SELECT avg(1 - (a.content_vector <=> b.content_vector)) FROM items AS a, items AS b
    WHERE a.id = ANY (ids) AND b.id = ANY (ids) AND a.id < b.id
$$;
WITH r AS (
    SELECT d, ARRAY(SELECT id FROM recommend_items(ARRAY[1, 2], k => 6, diversity => d)) AS ids
    FROM unnest('{0,0.3,0.7}'::float8[]) AS d
) SELECT bool_and(more) AS more_diverse, bool_and(same_first) AS same_first FROM (
    SELECT alike(ids) < lag(alike(ids), 1, 1.1) OVER (ORDER BY d) AS more, ids[1] = first_value(ids[1]) OVER (ORDER BY d) AS same_first
    FROM r) AS s;

-- Inputs without a vector are left out and named; an id that comes twice counts once.
SET client_min_messages = notice;
SELECT count(*) FROM recommend_items(ARRAY[1, 2, 3000, 999999], k => 3);
SELECT * FROM recommend_items(ARRAY[3000]);
SELECT * FROM recommend_items('{}');
SELECT * FROM recommend_items(NULL);
SET client_min_messages = error;
SELECT * FROM recommend_items(ARRAY[3000], strict => true);
SELECT * FROM recommend_items('{}', strict => true);
SELECT visrec.taste('items', ARRAY[1, 2, 1]) <=> visrec.taste('items', ARRAY[1, 2]) < 1e-6 AS once;
SELECT * FROM recommend_items(ARRAY[1, NULL]);
SELECT * FROM recommend_items(ARRAY[1], k => 0);
SELECT * FROM recommend_items(ARRAY[1], strategy => 'magic');
SELECT * FROM recommend_items(ARRAY[1], diversity => 1.5);
SELECT * FROM recommend_items(ARRAY[1], liked_weights => '{1,2}');
SELECT * FROM recommend_items(ARRAY[1], liked_weights => '{-1}');
SELECT * FROM recommend_items(ARRAY[1], toward => 'red');
SELECT * FROM recommend_items_weighted('{"1": 2}');
SELECT visrec.taste('items', ARRAY[1], strategy => 'best_score');

-- Events: by user, the latest of each item, its weight's sign, what is seen.
CREATE TABLE events (user_id text, post_id bigint, weight real, at timestamptz);
INSERT INTO events VALUES ('ann', 1, 1, '2026-01-01'), ('ann', 2, 2, '2026-01-02'), ('ann', 9, -1, '2026-01-03'),
    ('ann', 11, NULL, '2026-01-04'), ('ann', 12, 1, '2026-01-01'), ('ann', 12, -1, '2026-01-05'), ('bob', 3, 1, '2026-01-01'),
    ('eve', 4, -1, '2026-01-01');
SELECT visrec.attach_events('items', 'events');
SELECT (SELECT array_agg(id) FROM recommend_items_for('ann', 5))
     = (SELECT array_agg(id) FROM recommend_items(ARRAY[1, 2], ARRAY[9, 12], 5, seen => '{11}', liked_weights => '{1,2}')) AS for_ann,
       (SELECT array_agg(id) FROM recommend_items_for('ann', 5, 'session', history => 3))
     = (SELECT array_agg(id) FROM recommend_items(ARRAY[2], ARRAY[9, 12], 5, 'session', seen => '{1,11}')) AS of_late,
       (SELECT array_agg(id) FROM recommend_items_for('bob', 5)) = (SELECT array_agg(id) FROM similar_items(3, 5)) AS for_bob;
SET client_min_messages = notice;
SELECT * FROM recommend_items_for('eve');
SELECT * FROM recommend_items_for('nobody');
SET client_min_messages = error;
SELECT visrec.attach('items', image_column => 'image', model => 'pixels', show_columns => '{category}');
SELECT count(category) > 0 AS shown FROM recommend_items_for('bob', 5);
SELECT * FROM recommend_items_for('eve', strict => true);
ALTER TABLE events RENAME TO happenings;
SELECT count(*) FROM recommend_items_for('bob');
SELECT visrec.attach_events('items', 'happenings', at_column => 'when');
SELECT visrec.attach_events('items', 'happenings', weight_column => NULL);
SELECT count(*) FROM recommend_items_for('eve', 5);
SELECT visrec.attach_events('items', NULL);
SELECT * FROM recommend_items_for('bob');

-- A function's grants stay when attach makes it anew, with other columns or other arguments.
CREATE ROLE regress_visrec_reader;
REVOKE EXECUTE ON FUNCTION similar_items FROM PUBLIC;
GRANT EXECUTE ON FUNCTION similar_items TO regress_visrec_reader;
SELECT visrec.attach('items', image_column => 'image', model => 'pixels', show_columns => '{category,price}');
SELECT has_function_privilege('regress_visrec_reader', 'similar_items(bigint,integer,jsonb,double precision,boolean)', 'EXECUTE') AS reader,
       (SELECT array_agg(grantee::regrole::text ORDER BY 1) FROM pg_proc, aclexplode(proacl)
        WHERE oid = 'similar_items(bigint,integer,jsonb,double precision,boolean)'::regprocedure AND grantee <> proowner) AS grantees;
-- Who may not embed may not search by words or by an image.
SET ROLE regress_visrec_reader;
SELECT * FROM search_items('red');
RESET ROLE;

DROP TABLE items, pictures;
SELECT count(*) FROM pg_depend WHERE deptype = 'x';
DROP EXTENSION visrec;
DROP TABLE happenings;
DROP TYPE mood;
DROP ROLE regress_visrec_reader;
