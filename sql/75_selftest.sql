-- selftest: does this installation give the vectors it should?

CREATE FUNCTION visrec._test_picture() RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT convert_to(E'P6\n32 24\n255\n', 'SQL_ASCII') || decode(string_agg(
        lpad(to_hex(x * 8 % 256), 2, '0') || lpad(to_hex(y * 10 % 256), 2, '0') || lpad(to_hex(x * y % 256), 2, '0'),
        '' ORDER BY y, x), 'hex')
    FROM generate_series(0, 31) AS x, generate_series(0, 23) AS y
$$;
COMMENT ON FUNCTION visrec._test_picture() IS 'A picture of 32 × 24 pixels (PPM) with colour, layout and edges.';

CREATE FUNCTION visrec._cosine(a text, b text) RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT sum(x * y) / nullif(sqrt(sum(x * x) * sum(y * y)), 0)
    FROM unnest(string_to_array(btrim(a, '[]'), ',')::double precision[],
                string_to_array(btrim(b, '[]'), ',')::double precision[]) AS v (x, y)
$$;
COMMENT ON FUNCTION visrec._cosine(text, text) IS 'The cosine of two vectors in text form; NULL where their lengths differ.';

UPDATE visrec.model SET reference =
'[-0.01794,-0.01364,-0.01274,-0.01502,-0.0238,-0.02371,-0.021,-0.01862,-0.05801,-0.03137,-0.01777,
    -0.01744,-0.0689,-0.06581,-0.0473,-0.01166,-0.01011,-0.004233,-0.04536,-0.04991,-0.04847,0.0133,
    0.02613,0.03327,-0.04586,-0.01544,0.03555,0.01947,0.01272,0.02025,0.08397,0.09711,-0.02255,-0.02231,
    -0.01676,-0.0128,-0.0238,-0.02371,-0.021,-0.01477,-0.05599,-0.03478,-0.01865,-0.004984,-0.07065,
    -0.08956,-0.05756,-0.006087,-0.0233,-0.0432,-0.06902,-0.04194,-0.05888,-0.03243,-0.008052,-0.01937,
    -0.06647,-0.07178,0.01267,0.05991,-0.02583,-0.05443,0.001031,0.05846,-0.01863,-0.01768,-0.01351,
    -0.0102,-0.0238,-0.02371,-0.021,-0.01485,-0.05069,-0.03119,-0.01944,-0.01031,-0.06422,-0.08495,
    -0.06173,-0.01657,-0.02276,-0.03828,-0.0761,-0.05313,-0.05636,-0.03201,-0.02367,0.007131,-0.05886,
    -0.06676,0.01162,0.1353,-0.02242,-0.05259,0.0001111,0.05659,0.01824,0.01881,0.02063,0.01802,0.002123,
    0.001424,0.001778,0.004053,-0.01596,-0.02094,-0.01685,-0.008334,-0.02716,-0.05806,-0.0472,-0.01852,
    -0.02043,-0.03603,-0.07042,-0.05066,-0.04081,-0.02467,-0.0298,-0.06354,-0.04883,-0.05978,-0.02514,
    -0.02709,-0.02392,-0.05773,-0.05613,-0.0199,0.04503,0.03525,0.02921,0.02403,0.06692,0.05375,0.04214,
    0.03519,0.1118,0.04562,0.01724,0.00306,0.1119,0.07763,0.03538,0.0005183,-0.0002047,0.01283,0.03395,
    -0.003485,0.03255,-0.002107,-0.02932,-0.01252,0.03633,-0.008075,-0.04911,-0.09422,-0.01784,-0.06057,
    -0.08773,-0.06935,-0.001646,-0.01439,-0.008714,0.00892,0.005889,-0.001166,0.001061,0.006692,0.03035,
    0.02991,0.02441,0.01491,0.04857,0.06539,0.05734,0.0107,0.04636,0.03839,0.05284,0.005918,0.06875,
    0.01459,-0.01743,-0.02582,0.06786,0.02135,-0.03603,-0.07451,-0.002369,-0.01523,-0.05048,-0.06945,
    0.005069,0.01547,0.01138,-0.00257,0.01312,0.02547,0.02163,0.005685,0.02016,0.02416,0.01705,0.009919,
    0.03311,0.09826,0.07694,0.01799,0.02326,0.04827,0.1185,0.1272,0.05409,0.04447,0.05348,0.06719,
    0.06109,0.1231,0.02451,-0.00605,0.0473,0.1366,0.06341,-0.0574,-0.007573,-0.001507,-0.009492,-0.01038,
    -0.01666,-0.008347,-0.003603,-0.003371,0.01833,0.01859,0.01401,0.01317,0.03738,0.0571,0.04413,
    0.02362,0.007186,0.02226,0.05563,0.06602,0.04914,0.01886,0.02867,0.01366,0.05474,0.07734,0.02593,
    -0.01282,0.03237,0.08372,0.04583,0.003947,-0.03062,-0.02876,-0.05404,-0.03593,-0.006051,-0.0198,
    0.01636,0.03454,-0.03852,-0.02598,-0.0687,-0.02814,-0.05716,-0.03095,-0.06031,0.03481,-0.03261,
    -0.02056,-0.06198,-0.03212,-0.05269,0.02634,-0.06256,0.06998,0.01158,0.01256,-0.0522,-0.04177,
    -0.05797,-0.05325,-0.07193,-0.07178,0.08124,0.05094,0.06527,-0.006289,-0.005488,-0.07093,-0.03468,
    -0.0877,-0.001641,0.003917,0.08167,0.0474,0.06772,0.01188,0.02338,-0.0723,0.02448,0.01575,0.1237,
    0.09307,0.1165,0.1387,0.1492,0.06749,-0.01392,-0.007869,-0.03371,0.00378,-0.004868,-0.001994,0.04057,
    0.02495,-0.04406,-0.04589,-0.04601,-0.04581,-0.03336,-0.03606,-0.03762,-0.03821,-0.0186,-0.02146,
    -0.02385,-0.02502,-0.0069,-0.008289,-0.00837,-0.009002,0.007613,0.004838,0.004375,0.006903,0.02336,
    0.02099,0.01945,0.02021,0.037,0.03651,0.03601,0.03392,0.05049,0.04934,0.05019,0.0473,0.05732,0.0638,
    0.06899,0.07082,0.04381,0.04929,0.05557,0.05888,0.03078,0.03467,0.03986,0.04318,0.003954,0.009907,
    0.02347,0.02967,-0.01544,-0.01891,-0.01037,0.01204,-0.03087,-0.03451,-0.0342,-0.02522,-0.05916,
    -0.05344,-0.04764,-0.06307,-0.07635,-0.07708,-0.06268,-0.08705,0.01761,0.01694,0.01855,0.01972,
    -0.007988,-0.01136,-0.01432,-0.01576,-0.02413,-0.0384,-0.04531,-0.04813,0.03093,-0.009003,-0.05742,
    -0.07221,0.02921,0.02524,-0.008265,-0.07283,0.01942,0.007005,0.001759,-0.01998,0.06841,0.01666,
    -0.01465,0.0288,0.07135,0.05098,-0.01135,0.0485,0,0.0004844,0.003827,0.0007511,0,0.02446,0.03872,
    0.001744,0,0.0295,0.04721,0.002663,0,0.004,0.01324,0.002261,0,0.001186,0.02459,0.01388,0,0.02921,
    0.07405,0.0191,0,0.04639,0.08205,0.01665,0,0.01915,0.05371,0.02686,0,0.007815,0.04778,0.04093,
    0.005266,0.04895,0.07365,0.03099,0.02551,0.07822,0.05363,0.01963,0.02867,0.07096,0.08026,0.05979,
    0.0004087,0.02127,0.0602,0.07574,0.0205,0.06541,0.06649,0.05837,0.04779,0.06632,0.06014,0.05683,
    0.05437,0.07317,0.0557,0.05218,0.001091,0.02952,0.05941,0.08642,0.01353,0.05747,0.06927,0.0712,
    0.01228,0.0478,0.05018,0.0435,0.006157,0.02298,0.02084,0.007704,0,0.007239,0.012,0.01404,0,0.01569,
    0.02365,0.02801,0,0.006307,0.01456,0.01307,0,0,0,0]'
WHERE name = 'pixels';

CREATE FUNCTION visrec.selftest(OUT "check" text, OUT ok boolean, OUT result text, OUT advice text) RETURNS SETOF record
-- As the extension's owner: who may only monitor neither looks at files nor embeds.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    root text;
    registered visrec.model;
    answer jsonb;
    cosine double precision;
    a visrec.attachment;
    state record;
    leftover regclass;
    which text;         -- of a table's attachments, but for the first
BEGIN
    FOR root IN SELECT string_to_table(s.value, ':') FROM visrec.setting AS s WHERE s.name = 'image_roots' LOOP
        "check" := format('image root %s', root);
        ok := coalesce((pg_stat_file(root, true)).isdir, false);
        result := CASE WHEN ok THEN 'a directory' ELSE 'no such directory' END;
        advice := CASE WHEN NOT ok THEN 'Create it, or SELECT visrec.set(''image_roots'', …);' END;
        RETURN NEXT;
    END LOOP;
    FOR registered IN SELECT m.* FROM visrec.model AS m ORDER BY m.name LOOP
        "check" := format('model %s', registered.name);
        answer := visrec._embed(registered.name, NULL, visrec._test_picture(), NULL);
        IF answer ? 'missing' THEN
            answer := jsonb_build_object('error', visrec._missing_package());
        ELSIF answer -> 'error' ->> 'sqlstate' = '57014' THEN
            PERFORM visrec._checked(answer);
        END IF;
        cosine := visrec._cosine(answer ->> 'embedding', registered.reference::text);
        -- The numbers it is computed in may have changed since: half or 8-bit ones are rounded.
        ok := coalesce(cosine >= CASE WHEN EXISTS (SELECT FROM visrec.encoder_status() AS e
            WHERE e.model = registered.name AND e.precision <> 'f32') THEN 0.99 ELSE 0.999 END, false);
        result := coalesce(answer -> 'error' ->> 'message', 'cosine with its reference ' || round(cosine::numeric, 5),
            'its vectors have another dimension than when it was registered');
        advice := CASE WHEN NOT ok THEN coalesce(answer -> 'error' ->> 'hint',
            'The weights or the libraries are not those it was registered with. Bring those back, or register it under another name.') END;
        RETURN NEXT;
    END LOOP;
    FOR a IN SELECT r.* FROM visrec.attachment AS r JOIN pg_class AS c ON c.oid = r.relation ORDER BY r.id LOOP
        which := CASE WHEN visrec._name_argument(a.id) <> '' THEN format(' (%s)', a.name) ELSE '' END;
        FOR leftover IN SELECT l.index FROM visrec._leftovers(a) AS l
                        WHERE l.index NOT IN (SELECT p.index_relid FROM pg_stat_progress_create_index AS p) LOOP
            "check" := format('index %s', leftover);
            ok := false;
            result := format('left by a reindex of %s that did not end', a.relation);
            advice := format('DROP INDEX CONCURRENTLY %s;', leftover);
            RETURN NEXT;
        END LOOP;
        IF visrec._lacks_index(a) THEN
            "check" := format('index of %s', a.relation) || which;
            ok := false;
            result := 'there is none: searches compare every row';
            advice := visrec._reindex_call(a, NULL, NULL);
            RETURN NEXT;
        END IF;
        state := visrec._recall_state(a);
        CONTINUE WHEN state.result IS NULL;
        "check" := format('recall of %s', a.relation) || which;
        ok := NOT state.due;
        result := state.result;
        advice := CASE WHEN NOT ok THEN format('SELECT * FROM visrec.tune(%L%s);', a.relation, visrec._name_argument(a.id)) END;
        RETURN NEXT;
    END LOOP;
    "check" := 'encoder';
    SELECT string_agg(format('%s: %s %s on %s', e.model, e.runtime, e.precision, e.device)
               || coalesce(', ' || e.milliseconds || ' ms a picture', ''), ', ' ORDER BY e.model),
           coalesce(bool_and(e.slow IS NULL OR m.name IS NULL), false),
           string_agg(format('%s runs through torch, several times slower than compiled. %s', e.model,
               CASE WHEN e.compiling THEN 'It is being compiled: look again in some minutes.' ELSE e.slow END), ' ' ORDER BY e.model)
               FILTER (WHERE m.name IS NOT NULL AND (e.compiling OR e.slow IS NOT NULL))
    INTO result, ok, advice FROM visrec.encoder_status() AS e
    LEFT JOIN visrec.model AS m ON m.name = e.model AND m.fingerprint = e.fingerprint;  -- not those of other databases
    IF result IS NULL THEN
        ok := EXISTS (SELECT FROM visrec.setting AS s WHERE s.name = 'encoder' AND s.value = 'in_process');
        result := 'in this session';
        advice := CASE WHEN NOT ok THEN 'The shared encoder does not start: see pg_stat_tmp/visrec.log in the data directory.' END;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION visrec.selftest() IS
    'One row for each check: the image roots, each registered model (its vector of a test picture against the one it '
    'gave when it was registered), the recall of each tuned or large table, an index that is missing or that a reindex left that did not end, and what runs the models; with advice if one fails. For the extension''s owner and monitors.';
REVOKE ALL ON FUNCTION visrec.selftest() FROM PUBLIC;
