-- What an extension consists of: (object, property, value) for each of its members, and for itself.
WITH extension AS (
    SELECT * FROM pg_extension WHERE extname = 'visrec'
), member AS (
    SELECT d.classid, d.objid, i.type || ' ' || i.identity AS object
    FROM extension AS e
    JOIN pg_depend AS d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e',
        LATERAL pg_identify_object(d.classid, d.objid, 0) AS i
    UNION ALL SELECT 'pg_namespace'::regclass, e.extnamespace, 'its schema' FROM extension AS e  -- no member
), relation AS (
    SELECT m.object, c.* FROM member AS m JOIN pg_class AS c ON c.oid = m.objid
    WHERE m.classid = 'pg_class'::regclass
    UNION ALL SELECT m.object, c.* FROM member AS m JOIN pg_type AS t ON t.oid = m.objid
    JOIN pg_class AS c ON c.oid = t.typrelid AND c.relkind = 'c' WHERE m.classid = 'pg_type'::regclass
), routine AS (
    SELECT m.object, p.* FROM member AS m JOIN pg_proc AS p ON p.oid = m.objid
    WHERE m.classid = 'pg_proc'::regclass
), granted AS (     -- each member's rights, as they are and as pg_dump takes them to be from the start
    SELECT object, 'grant' AS property, relacl AS acl FROM relation
    UNION ALL SELECT object, 'grant', coalesce(proacl, acldefault('f', proowner)) FROM routine
    UNION ALL SELECT m.object, 'grant', n.nspacl FROM member AS m JOIN pg_namespace AS n
        ON m.classid = 'pg_namespace'::regclass AND m.objid = n.oid
    UNION ALL SELECT m.object, 'initial grant', p.initprivs FROM member AS m JOIN pg_init_privs AS p
        ON p.classoid = m.classid AND p.objoid = m.objid
), property AS (
    SELECT m.object, 'is there' AS property, '' AS value FROM member AS m
    UNION ALL SELECT m.object, 'comment', obj_description(m.objid, m.classid::regclass::name) FROM member AS m
    UNION ALL SELECT g.object, g.property, format('%s to %s by %s', string_agg(a.privilege_type
            || CASE WHEN a.is_grantable THEN '*' ELSE '' END, ', ' ORDER BY a.privilege_type),
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, a.grantor::regrole)
        FROM granted AS g, aclexplode(g.acl) AS a GROUP BY g.object, g.property, a.grantee, a.grantor

    UNION ALL SELECT r.object, 'definition', pg_get_functiondef(r.oid) FROM routine AS r WHERE r.prokind <> 'a'
    UNION ALL SELECT r.object, 'owner', r.proowner::regrole::text FROM routine AS r

    UNION ALL SELECT c.object, 'owner', c.relowner::regrole::text FROM relation AS c
    UNION ALL SELECT c.object, 'options', concat_ws(' ', c.relpersistence, c.relreplident, c.reloptions::text)
        FROM relation AS c
    UNION ALL SELECT c.object, 'row-level security', c.relrowsecurity || ', forced: ' || c.relforcerowsecurity
        FROM relation AS c
    UNION ALL SELECT c.object, 'view', pg_get_viewdef(c.oid) FROM relation AS c WHERE c.relkind IN ('v', 'm')
    UNION ALL SELECT c.object, 'column', concat_ws(' ',
            row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname,
            format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'NOT NULL' END,
            'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, a.attstorage,
            nullif(a.attcollation, 0)::regcollation, a.attacl::text, '-- ' || col_description(c.oid, a.attnum))
        FROM relation AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
    UNION ALL SELECT c.object, 'constraint', k.conname || ' ' || pg_get_constraintdef(k.oid)
        FROM relation AS c JOIN pg_constraint AS k ON k.conrelid = c.oid
    UNION ALL SELECT c.object, 'index', pg_get_indexdef(x.indexrelid)
        FROM relation AS c JOIN pg_index AS x ON x.indrelid = c.oid
    UNION ALL SELECT c.object, 'trigger', concat(pg_get_triggerdef(t.oid), ', enabled: ', t.tgenabled)
        FROM relation AS c JOIN pg_trigger AS t ON t.tgrelid = c.oid AND NOT t.tgisinternal
    UNION ALL SELECT c.object, 'rule', pg_get_ruledef(r.oid)
        FROM relation AS c JOIN pg_rewrite AS r ON r.ev_class = c.oid AND c.relkind NOT IN ('v', 'm')
    UNION ALL SELECT c.object, 'policy', format('%s %s %s to %s using %s with check %s', p.polname, p.polcmd,
            p.polpermissive, p.polroles::regrole[], pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid))
        FROM relation AS c JOIN pg_policy AS p ON p.polrelid = c.oid
    UNION ALL SELECT c.object, 'sequence', (to_jsonb(s) - 'seqrelid')::text
        FROM relation AS c JOIN pg_sequence AS s ON s.seqrelid = c.oid

    UNION ALL SELECT m.object, 'owner', n.nspowner::regrole::text
        FROM member AS m JOIN pg_namespace AS n ON m.classid = 'pg_namespace'::regclass AND n.oid = m.objid
    UNION ALL SELECT m.object, 'definition', format('on %s when %s execute %s, enabled: %s, owner: %s',
            t.evtevent, t.evttags, t.evtfoid::regprocedure, t.evtenabled, t.evtowner::regrole)
        FROM member AS m JOIN pg_event_trigger AS t ON m.classid = 'pg_event_trigger'::regclass AND t.oid = m.objid

    UNION ALL SELECT 'the extension', 'version', e.extversion FROM extension AS e
    UNION ALL SELECT 'the extension', 'control', format('schema %s, relocatable: %s, owner: %s',
            e.extnamespace::regnamespace, e.extrelocatable, e.extowner::regrole) FROM extension AS e
    UNION ALL SELECT 'the extension', 'comment', obj_description(e.oid, 'pg_extension') FROM extension AS e
    UNION ALL SELECT 'the extension', 'dumps', format('%s %s', u.relation::regclass, u.condition)
        FROM extension AS e, unnest(e.extconfig, e.extcondition) AS u (relation, condition)
    UNION ALL SELECT 'the extension', 'needs', pg_describe_object(d.refclassid, d.refobjid, 0)
        FROM extension AS e JOIN pg_depend AS d ON d.classid = 'pg_extension'::regclass AND d.objid = e.oid
)
SELECT object, property, value FROM property ORDER BY object COLLATE "C", property COLLATE "C", value COLLATE "C"
