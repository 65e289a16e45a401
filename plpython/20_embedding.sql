-- The way into the Python package: wrappers that bind, call and return. What they answer is JSON,
-- raised where need be by the PL/pgSQL functions that call them.

CREATE FUNCTION visrec._write_vectors(relation oid, config jsonb, ids text[]) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.write_vectors(plpy, relation, config, ids)
$python$;
COMMENT ON FUNCTION visrec._write_vectors(oid, jsonb, text[]) IS
    'Embeds those of the rows with these keys that have no vector, and accounts for each.';
REVOKE ALL ON FUNCTION visrec._write_vectors(oid, jsonb, text[]) FROM PUBLIC;

CREATE FUNCTION visrec._backfill_batch(relation oid, config jsonb, after text, batch_size integer,
    following integer) RETURNS jsonb LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.backfill_batch(plpy, relation, config, after, batch_size, following=following)
$python$;
COMMENT ON FUNCTION visrec._backfill_batch(oid, jsonb, text, integer, integer) IS
    'Embeds the next rows without a vector after a key, while the encoder goes on with those that follow.';
REVOKE ALL ON FUNCTION visrec._backfill_batch(oid, jsonb, text, integer, integer) FROM PUBLIC;

CREATE FUNCTION visrec._embed(model text, path text, image bytea, query text) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.embed(plpy, model, path, image, query)
$python$;
COMMENT ON FUNCTION visrec._embed(text, text, bytea, text) IS
    'One vector: for an image by its path, an image by its bytes, or a text; the other two are NULL.';
REVOKE ALL ON FUNCTION visrec._embed(text, text, bytea, text) FROM PUBLIC;

CREATE FUNCTION visrec._inspect_model(name text, directory text) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.inspect_model(plpy, name, directory)
$python$;
COMMENT ON FUNCTION visrec._inspect_model(text, text) IS
    'Loads the model in a directory: its dimension and the fingerprint of its weights.';
REVOKE ALL ON FUNCTION visrec._inspect_model(text, text) FROM PUBLIC;

CREATE FUNCTION visrec._encoder_status() RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.encoder_status(plpy)
$python$;
COMMENT ON FUNCTION visrec._encoder_status() IS 'What the encoder process says of itself; null where none runs.';
REVOKE ALL ON FUNCTION visrec._encoder_status() FROM PUBLIC;

CREATE FUNCTION visrec.encoder_restart() RETURNS boolean
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.encoder_stop(plpy)
$python$;
COMMENT ON FUNCTION visrec.encoder_restart() IS
    'End the encoder process; the next call that needs one starts it anew. False where none ran. '
    'Statements that wait for it are retried. For the extension''s owner.';
REVOKE ALL ON FUNCTION visrec.encoder_restart() FROM PUBLIC;

CREATE FUNCTION visrec._encoder_warm(model text) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.encoder_warm(plpy, model)
$python$;
COMMENT ON FUNCTION visrec._encoder_warm(text) IS 'Has the encoder process load a model.';
REVOKE ALL ON FUNCTION visrec._encoder_warm(text) FROM PUBLIC;

CREATE FUNCTION visrec._duplicate_kinds(relation oid, config jsonb, ids_a text[], ids_b text[]) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.duplicate_kinds(plpy, relation, config, ids_a, ids_b)
$python$;
COMMENT ON FUNCTION visrec._duplicate_kinds(oid, jsonb, text[], text[]) IS
    'For each pair of rows by their keys: whether their images are exact or near duplicates, or only similar.';
REVOKE ALL ON FUNCTION visrec._duplicate_kinds(oid, jsonb, text[], text[]) FROM PUBLIC;

CREATE FUNCTION visrec._principal_components(sample bytea, dimension integer, dims integer) RETURNS jsonb
LANGUAGE plpython3u SET search_path = pg_catalog, pg_temp AS $python$
import sys
if "@VISREC_PYTHON@" not in sys.path: sys.path.insert(0, "@VISREC_PYTHON@")
from visrec_db import backend
return backend.principal_components(plpy, sample, dimension, dims)
$python$;
COMMENT ON FUNCTION visrec._principal_components(bytea, integer, integer) IS
    'The first principal components of vectors, which are given as float4 on end, and what they keep.';
REVOKE ALL ON FUNCTION visrec._principal_components(bytea, integer, integer) FROM PUBLIC;
