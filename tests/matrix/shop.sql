-- README's example, with the model that needs no weights.
CREATE EXTENSION visrec CASCADE;
CREATE TABLE posts (id bigint PRIMARY KEY, image_path text, title text, category text, price numeric);
SELECT visrec.attach('posts', model => 'pixels', show_columns => '{title}');
INSERT INTO posts
SELECT n, path, path, split_part(path, '/', 1), n
FROM (SELECT row_number() OVER (ORDER BY path) AS n, path
      FROM (SELECT replace(directory || '/' || file, '/var/lib/visrec/images/', '') AS path
            FROM pg_ls_dir('/var/lib/visrec/images') AS d,
                 LATERAL (SELECT '/var/lib/visrec/images/' || d AS directory) AS x,
                 LATERAL pg_ls_dir(directory) AS file
            WHERE d !~ '[.]') AS files) AS numbered;
SELECT * FROM similar_posts(1, 5);
