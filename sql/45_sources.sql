-- The column beside each vector column that says what its vectors are made of. Which belong together stands in the comment of the
-- former, for tables that are detached: by the numbers of both, which follow a rename; and by the name, since a dump leaves dropped
-- columns out and numbers those after them anew. Where a column has its number still, so have those before it.

CREATE FUNCTION visrec._noted_sources(relation regclass) RETURNS TABLE (source name, vector name)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.attname, coalesce(v.attname, CASE WHEN m.renumbered THEN m.name END)
    FROM pg_attribute AS f
    CROSS JOIN LATERAL regexp_match(col_description(f.attrelid, f.attnum), '^visrec: columns ([0-9]{1,4}), ([0-9]{1,4}): what "(.*)" was made of: ')
        AS p (parts)
    CROSS JOIN LATERAL (SELECT p.parts[1]::integer AS number, p.parts[3]::name AS name,
        f.attnum <> p.parts[2]::integer OR f.attnum < p.parts[1]::integer AS renumbered) AS m
    LEFT JOIN pg_attribute AS v ON v.attrelid = f.attrelid AND NOT v.attisdropped
        AND CASE WHEN m.renumbered THEN v.attname = m.name ELSE v.attnum = m.number END
    WHERE p.parts IS NOT NULL AND f.attrelid = relation AND f.atttypid = 'bigint[]'::regtype AND f.attgenerated = '' AND NOT f.attisdropped
$$;
COMMENT ON FUNCTION visrec._noted_sources(regclass) IS
    'The columns that say what vectors are made of, by visrec''s comments, and the column of those vectors: by its name now; by the '
    'name it had, where that is all that is known; NULL where it was dropped.';

CREATE FUNCTION visrec._note_source(relation regclass, vector_column name, source_column name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part record;
BEGIN
    FOR part IN        -- a partition, too, which may be detached and attached by itself
        SELECT r.oid::regclass AS oid, s.attnum, format('visrec: columns %s, %s: what "%s" was made of: {model and image, content}; NULL where '
            'visrec did not make it', v.attnum, s.attnum, vector_column) AS note
        FROM (SELECT relation::oid AS oid UNION SELECT p.relid FROM pg_partition_tree(relation) AS p) AS r
        JOIN pg_class AS c ON c.oid = r.oid AND c.relkind IN ('r', 'p')
        JOIN pg_attribute AS v ON v.attrelid = r.oid AND v.attname = vector_column AND NOT v.attisdropped
        JOIN pg_attribute AS s ON s.attrelid = r.oid AND s.attname = source_column AND NOT s.attisdropped
    LOOP
        IF col_description(part.oid, part.attnum) IS DISTINCT FROM part.note THEN
            EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', part.oid, source_column, part.note);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION visrec._note_source(regclass, name, name) IS
    'Writes in the comment of a column that it says what the vectors of another are made of.';

CREATE FUNCTION visrec._source_column(relation regclass, vector_column name) RETURNS name
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    noted name := (SELECT min(n.source) FROM visrec._noted_sources(relation) AS n WHERE n.vector = vector_column);
    columns name[] := ARRAY(SELECT f.attname FROM pg_attribute AS f
                            WHERE f.attrelid = relation AND f.attnum > 0 AND NOT f.attisdropped);
    -- Of vectors that are in another column still.
    others name[] := ARRAY(SELECT n.source FROM visrec._noted_sources(relation) AS n WHERE n.vector = ANY (columns));
    lost record;
BEGIN
    IF noted IS NULL THEN
        SELECT c.name INTO noted
        FROM generate_series(1, 1600) AS i, visrec._source_name(vector_column, i) AS c (name)
        WHERE c.name <> ALL (others) ORDER BY i LIMIT 1;
        SELECT n.* INTO lost FROM visrec._noted_sources(relation) AS n
        WHERE n.vector <> ALL (columns) AND noted <> ALL (columns) AND vector_column = ANY (columns) AND NOT EXISTS (
            SELECT FROM visrec.attachment AS a WHERE a.relation = _source_column.relation
                AND visrec._current_name(a.relation, a.numbers[4]) = n.source)
        LIMIT 1;
        IF FOUND THEN
            RAISE object_not_in_prerequisite_state USING
                MESSAGE = format('cannot tell what the vectors in column "%s" of table "%s" were made of', vector_column, visrec._label(relation)),
                DETAIL = format('Column "%s" tells it of a column "%s", which does not exist.', lost.source, lost.vector),
                HINT = format('If it is theirs: ALTER TABLE %s RENAME %I TO %I; and attach. If not, drop it.', relation, lost.source, noted);
        END IF;
    END IF;
    RETURN noted;
END
$$;
COMMENT ON FUNCTION visrec._source_column(regclass, name) IS
    'The column that says what the vectors of another are made of, or the name for a new one.';

CREATE FUNCTION visrec._source_name(vector_column name, n integer) RETURNS name
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    -- The same for the same column at any time: a name that is cut has a digest of the whole, and no attachment's number.
    SELECT CASE WHEN octet_length(vector_column || s.suffix) <= 63 THEN vector_column || s.suffix
        ELSE (SELECT max(left(vector_column::text, l)) FROM generate_series(1, 63) AS l
              WHERE octet_length(left(vector_column::text, l) || s.digest || s.suffix) <= 63) || s.digest || s.suffix END::name
    FROM (SELECT '_source' || CASE WHEN n > 1 THEN '_' || n ELSE '' END AS suffix,
                 '_' || left(encode(sha256(convert_to(vector_column, 'UTF8')), 'hex'), 8) AS digest) AS s
$$;
COMMENT ON FUNCTION visrec._source_name(name, integer) IS
    'The name for a column that says what the vectors of another are made of; n: the next, where it is taken.';
