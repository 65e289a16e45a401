#!/bin/bash
# Run by the image's entrypoint when the database has been made, as PostgreSQL's user.
#
#   VISREC_CREATE_EXTENSION=yes     in the database POSTGRES_DB
#   VISREC_MODELS='NAME...'         registers these, which are in /var/lib/visrec/models
#   VISREC_EXAMPLE=yes              a table posts of drawn pictures, attached with the model pixels
#
# Sourced, so: no exit, and no settings of the shell's.

visrec_psql() {
    psql -X -v ON_ERROR_STOP=1 -q --username "${POSTGRES_USER:-postgres}" \
        --dbname "${POSTGRES_DB:-${POSTGRES_USER:-postgres}}" "$@"
}

if [ "${VISREC_CREATE_EXTENSION:-}" = yes ] || [ -n "${VISREC_MODELS:-}" ] || [ "${VISREC_EXAMPLE:-}" = yes ]; then
    visrec_psql -c 'CREATE EXTENSION visrec CASCADE'
fi

for visrec_model in ${VISREC_MODELS:-}; do
    visrec_psql -v model="$visrec_model" <<<"SELECT visrec.register_model(:'model');"
done

if [ "${VISREC_EXAMPLE:-}" = yes ]; then
    # The paths come from psql's variable: what is read there is not the server's business.
    visrec_psql -v pictures="$(cd /usr/local/share/visrec/example && printf '%s\n' */*.jpg)" <<'SQL'
SELECT visrec.set('image_roots', '/var/lib/visrec/images:/usr/local/share/visrec/example');
CREATE TABLE posts (id bigint PRIMARY KEY, image_path text, title text, category text, price numeric);
SELECT visrec.attach('posts', model => 'pixels', show_columns => '{title}');
INSERT INTO posts
SELECT n, path, initcap(split_part(path, '-', 2)) || ' ' || split_part(path, '/', 1), split_part(path, '/', 1), 10 * n
FROM string_to_table(:'pictures', E'\n') WITH ORDINALITY AS p (path, n);
SQL
fi
