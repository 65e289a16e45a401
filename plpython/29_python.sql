-- The way into the Python package: wrappers that bind, call and return. What they answer is JSON, and an error in it is
-- raised by visrec._checked. Where the package is gone, as after `make uninstall`, rows are kept and say so.

-- The next two have no search_path of their own: the user's triggers, which their writes fire, see that of the statement.
CREATE FUNCTION visrec._python_embed_rows(names text, keys text[], stop boolean, lock boolean) RETURNS jsonb
LANGUAGE plpython3u AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
try:
    from visrec_db.backend import rows
except ImportError:
    return '{"missing": true}'
return rows.embed_rows(plpy, names, keys, stop, lock)
$python$;
COMMENT ON FUNCTION visrec._python_embed_rows(text, text[], boolean, boolean) IS
    'Embeds those of the rows with these keys that have no vector, and accounts for each; stop: at the first failure.';
REVOKE ALL ON FUNCTION visrec._python_embed_rows(text, text[], boolean, boolean) FROM PUBLIC;

CREATE FUNCTION visrec._python_backfill_batch(names text, after text, size integer, following integer) RETURNS jsonb
LANGUAGE plpython3u AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
try:
    from visrec_db.backend import rows
except ImportError:
    return '{"missing": true}'
return rows.backfill_batch(plpy, names, after, size, following)
$python$;
COMMENT ON FUNCTION visrec._python_backfill_batch(text, text, integer, integer) IS
    'Embeds the next rows without a vector after a key, while the encoder goes on with those that follow.';
REVOKE ALL ON FUNCTION visrec._python_backfill_batch(text, text, integer, integer) FROM PUBLIC;

CREATE FUNCTION visrec._embed(model text, path text, image bytea, query text) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
try:
    from visrec_db.backend import requests
except ImportError:
    return '{"missing": true}'
return requests.embed(plpy, model, path, image, query)
$python$;
COMMENT ON FUNCTION visrec._embed(text, text, bytea, text) IS
    'One vector: for an image by its path, an image by its bytes, or a text; the other two are NULL.';
REVOKE ALL ON FUNCTION visrec._embed(text, text, bytea, text) FROM PUBLIC;

CREATE FUNCTION visrec._inspect_model(name text, directory text) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
try:
    from visrec_db.backend import requests
except ImportError:
    return '{"missing": true}'
return requests.inspect_model(plpy, name, directory)
$python$;
COMMENT ON FUNCTION visrec._inspect_model(text, text) IS
    'Loads the model in a directory: its dimension and the fingerprint of its weights.';
REVOKE ALL ON FUNCTION visrec._inspect_model(text, text) FROM PUBLIC;

CREATE FUNCTION visrec._encoder_status() RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
try:
    from visrec_db.backend import requests
except ImportError:
    return '{"missing": true}'
return requests.encoder_status(plpy)
$python$;
COMMENT ON FUNCTION visrec._encoder_status() IS
    'The status of the encoder process as JSON; null if none is running.';
REVOKE ALL ON FUNCTION visrec._encoder_status() FROM PUBLIC;

CREATE FUNCTION visrec._encoder_stop() RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
try:
    from visrec_db.backend import requests
except ImportError:
    return '{"missing": true}'
return requests.encoder_stop(plpy)
$python$;
COMMENT ON FUNCTION visrec._encoder_stop() IS
    'Ends the encoder process; says whether one ran.';
REVOKE ALL ON FUNCTION visrec._encoder_stop() FROM PUBLIC;

CREATE FUNCTION visrec._encoder_warm(model text) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
try:
    from visrec_db.backend import requests
except ImportError:
    return '{"missing": true}'
return requests.encoder_warm(plpy, model)
$python$;
COMMENT ON FUNCTION visrec._encoder_warm(text) IS
    'Loads a model in the encoder process.';
REVOKE ALL ON FUNCTION visrec._encoder_warm(text) FROM PUBLIC;

CREATE FUNCTION visrec._duplicate_kinds(names text, keys_a text[], keys_b text[]) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
try:
    from visrec_db.backend import requests
except ImportError:
    return '{"missing": true}'
return requests.duplicate_kinds(plpy, names, keys_a, keys_b)
$python$;
COMMENT ON FUNCTION visrec._duplicate_kinds(text, text[], text[]) IS
    'For each pair of rows by their keys: whether their images are exact or near duplicates, or only similar.';
REVOKE ALL ON FUNCTION visrec._duplicate_kinds(text, text[], text[]) FROM PUBLIC;

CREATE FUNCTION visrec._principal_components(sample bytea, dimension integer, dims integer) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
try:
    from visrec_db.backend import requests
except ImportError:
    return '{"missing": true}'
return requests.principal_components(plpy, sample, dimension, dims)
$python$;
COMMENT ON FUNCTION visrec._principal_components(bytea, integer, integer) IS
    'The first principal components of vectors, given as consecutive float4, and what share of the variance they keep.';
REVOKE ALL ON FUNCTION visrec._principal_components(bytea, integer, integer) FROM PUBLIC;

CREATE FUNCTION visrec._file_stamps(paths text[]) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
try:
    from visrec_db.backend import requests
except ImportError:
    return '{"missing": true}'
return requests.file_stamps(plpy, paths)
$python$;
COMMENT ON FUNCTION visrec._file_stamps(text[]) IS
    'For each path under image_roots a hash of the file''s size and time of modification; null if it cannot be read.';
REVOKE ALL ON FUNCTION visrec._file_stamps(text[]) FROM PUBLIC;

-- PL/pgSQL cannot catch the error of a COMMIT where none may be.
CREATE PROCEDURE visrec._commit(INOUT done boolean)
LANGUAGE plpython3u AS $python$
try:
    plpy.commit()
except plpy.spiexceptions.InvalidTransactionTermination:
    return [False]
return [True]
$python$;
COMMENT ON PROCEDURE visrec._commit(boolean) IS 'Commits; returns false where that is not allowed, as inside a transaction block.';
REVOKE ALL ON PROCEDURE visrec._commit(boolean) FROM PUBLIC;
