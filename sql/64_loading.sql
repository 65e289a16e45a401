-- A large table whose rows have no vectors yet: an index is built two to three times faster over all vectors than with each of them.
-- So backfill sets it aside, where a second session can build it afterwards while others write; see 62_session.sql.

CREATE FUNCTION visrec._lacks_index(a visrec.attachment) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n visrec._names := visrec._resolve(a.id, missing_ok => true);
    parts record := visrec._index_parts(n);
BEGIN
    RETURN n.id IS NOT NULL AND a.index_method <> 'none' AND (parts.dimension > parts.most) IS NOT TRUE
        AND NOT EXISTS (SELECT FROM visrec._indexes(a.relation, a.numbers[3]) AS i
                        WHERE (i.made OR i.plain) AND i.access = parts.access AND i.opclass = parts.opclass);
END
$$;
COMMENT ON FUNCTION visrec._lacks_index(visrec.attachment) IS
    'Whether an attachment is to have an index and has none: a backfill set it aside, and did not end, or somebody dropped it.';

CREATE FUNCTION visrec._set_index_aside(attachment integer, due bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    a visrec.attachment;
    index regclass;
BEGIN
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = attachment;
    a := visrec._as_now(a);
    -- One with options of its own stays: they would go with it.
    SELECT i.index INTO index FROM visrec._indexes(a.relation, a.numbers[3]) AS i JOIN pg_class AS c ON c.oid = i.index
    WHERE i.made AND i.access IN ('hnsw', 'ivfflat') AND (i.access = 'ivfflat' OR c.reloptions IS NULL);
    IF index IS NULL OR a.index_method = 'hnsw_reduced' OR visrec._acts_for_owner(a.relation)
        OR visrec._call(attachment, 'count_vectors')::bigint * 10 > due OR visrec._open_session(a.relation, NULL) IS NOT NULL
    THEN
        RETURN;
    END IF;
    PERFORM visrec._close_session();
    EXECUTE format('DROP INDEX %s', index);
EXCEPTION WHEN lock_not_available THEN
    RETURN;
END
$$;
COMMENT ON FUNCTION visrec._set_index_aside(integer, bigint) IS
    'Drops the index of an attachment of whose rows less than a tenth have a vector, where it can be built afterwards while others '
    'write. due: how many rows were to be embedded.';

CREATE PROCEDURE visrec._build_what_lacks(attachment integer)
LANGUAGE plpgsql AS $$
-- It commits, so it can have no SET clause.
DECLARE
    a visrec.attachment;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT * INTO a FROM visrec.attachment AS r WHERE r.id = attachment;
    a := visrec._as_now(a);
    IF NOT visrec._lacks_index(a) OR a.index_method = 'hnsw_reduced' OR visrec._acts_for_owner(a.relation)
        OR EXISTS (SELECT FROM visrec._leftovers(a))        -- another backfill builds it
    THEN
        RETURN;
    ELSIF visrec._open_session(a.relation, NULL) IS NOT NULL THEN
        RAISE NOTICE USING
            MESSAGE = format('table "%s" has no index of its vectors', visrec._label(a.relation)),
            DETAIL = 'Searches compare every row.',
            HINT = visrec._reindex_call(a, NULL, NULL);
        RETURN;
    END IF;
    RAISE NOTICE '%: building the index', visrec._label(a.relation);
    CALL visrec._reindex_beside(attachment, a.index_method, a.index_metric, NULL, NULL);
END
$$;
COMMENT ON PROCEDURE visrec._build_what_lacks(integer) IS
    'Builds the index that an attachment lacks, beside its writers; a NOTICE where that cannot be.';
