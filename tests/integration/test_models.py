"""Models with weights, from their registration to similar_posts."""

import json
import shutil
import time

import numpy as np
import psycopg
import pytest
from PIL import Image

from .conftest import coverage, insert, notices


@pytest.fixture(scope="session")
def served_clip(tiny_clip, shared):
    """The small CLIP where the server's user can read it."""
    directory = shared / "models" / "tiny-clip"
    shutil.copytree(tiny_clip, directory, dirs_exist_ok=True)
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return directory


@pytest.fixture
def clip(db, served_clip):
    db.execute("SELECT visrec.set('model_directory', %s)", (str(served_clip.parent),))
    db.execute("CREATE TABLE posts (id bigint PRIMARY KEY, image_path text, category text)")
    return db


def test_register_finds_dimension_and_fingerprint(clip):
    [(name, dimension, fingerprint)] = clip.execute(
        "SELECT name, dimension, fingerprint FROM visrec.register_model('tiny-clip')"
    ).fetchall()
    assert (name, dimension, len(fingerprint)) == ("tiny-clip", 64, 32)


def test_an_administrator_attaches_a_fetched_model_at_once(clip):
    clip.execute("SELECT visrec.attach('posts', model => 'tiny-clip')")
    assert clip.execute("SELECT model FROM visrec.attached").fetchall() == [("tiny-clip",)]


def test_vectors_are_the_models_own(clip, served_clip, pictures, paths):
    """The column against transformers' CLIPModel and CLIPImageProcessor on the same files."""
    import torch  # noqa: PLC0415
    from transformers import AutoImageProcessor, CLIPModel  # noqa: PLC0415

    clip.execute("SELECT visrec.attach('posts', model => 'tiny-clip')")
    insert(clip, paths)
    stored = np.array(
        [
            np.fromstring(vector[1:-1], sep=",")
            for (vector,) in clip.execute("SELECT content_vector::text FROM posts ORDER BY id")
        ]
    )
    processor = AutoImageProcessor.from_pretrained(served_clip / "0_CLIPModel")
    model = CLIPModel.from_pretrained(served_clip / "0_CLIPModel").eval()
    with torch.inference_mode():
        inputs = processor(
            images=[Image.open(pictures / path) for path in paths], return_tensors="pt"
        )
        output = model.get_image_features(**inputs)
    reference = getattr(output, "pooler_output", output).numpy()
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    # Vectors of random weights all point one way: compare what is left without their mean.
    stored, reference = stored - stored.mean(axis=0), reference - reference.mean(axis=0)
    cosines = (stored * reference).sum(axis=1) / (
        np.linalg.norm(stored, axis=1) * np.linalg.norm(reference, axis=1)
    )
    [(precision,)] = clip.execute(
        "SELECT precision FROM visrec.encoder_status() WHERE model = 'tiny-clip'"
    ).fetchall()
    assert cosines.min() > (0.9999 if precision == "f32" else 0.97)


def test_texts_and_images_share_a_space(clip, paths):
    clip.execute("SELECT visrec.register_model('tiny-clip')")
    [(image, text)] = clip.execute(
        "SELECT vector_dims(visrec.embed_image(%s::text, 'tiny-clip')),"
        " vector_dims(visrec.embed_text('a red shoe', 'tiny-clip'))",
        (paths[0],),
    ).fetchall()
    assert (image, text) == (64, 64)


def test_other_weights_need_another_name(clip, served_clip, shared):
    clip.execute("SELECT visrec.register_model('tiny-clip')")
    clip.execute("SELECT visrec.register_model('tiny-clip')")  # again: the same
    other = shared / "models" / "other"
    shutil.copytree(served_clip, other)
    settings = other / "0_CLIPModel" / "config.json"
    settings.write_text(settings.read_text().replace('"logit_scale_init_value"', '"was"'))
    with pytest.raises(psycopg.errors.DuplicateObject, match="other weights"):
        clip.execute("SELECT visrec.register_model('tiny-clip', %s)", (str(other),))
    shutil.rmtree(other)


def test_a_table_with_vectors_keeps_its_model(clip, paths):
    clip.execute("SELECT visrec.attach('posts', model => 'pixels')")
    insert(clip, paths[:2])
    with pytest.raises(psycopg.errors.DatatypeMismatch):
        clip.execute("SELECT visrec.attach('posts', model => 'tiny-clip')")
    # Two models side by side: each has its functions.
    clip.execute(
        "SELECT visrec.attach('posts', model => 'tiny-clip', vector_column => 'clip',"
        " name => 'clip')"
    )
    clip.execute("CALL visrec.backfill('posts', name => 'clip')")
    insert(clip, paths[2:4], 3)
    assert clip.execute(
        "SELECT count(DISTINCT id) FROM posts"
        " WHERE vector_dims(content_vector) = 512 AND vector_dims(clip) = 64"
    ).fetchone() == (4,)
    for function in ("similar_posts", "similar_clip"):
        assert len(clip.execute(f"SELECT id FROM {function}(1)").fetchall()) == 3
    # Or the other instead of the first.
    clip.execute("SELECT visrec.detach('posts', name => 'clip', drop_vectors => true)")
    clip.execute("SELECT visrec.attach('posts', model => 'tiny-clip', vector_column => 'clip')")
    clip.execute("CALL visrec.backfill('posts')")
    assert coverage(clip) == {"embedded": 4}
    assert len(clip.execute("SELECT id FROM similar_posts(1)").fetchall()) == 3


def test_a_model_that_is_gone_leaves_the_rows(clip, shared, served_clip, paths, connect):
    gone = shared / "models" / "gone"
    shutil.copytree(served_clip, gone)
    clip.execute("SELECT visrec.attach('posts', model => 'gone')")
    shutil.rmtree(gone)
    clip.execute("SELECT visrec.encoder_restart()")  # it has the model loaded
    with connect(autocommit=True) as connection:
        insert(connection, paths[:2])
        assert coverage(connection) == {"failed": 2}
        codes = connection.execute("SELECT DISTINCT code FROM visrec.failure").fetchall()
        assert codes == [("encoder_unavailable",)]
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="could not backfill"):
            connection.execute("CALL visrec.backfill('posts')")
    shutil.copytree(served_clip, gone)
    time.sleep(1.1)  # the encoder process tries again after a second
    assert clip.execute("SELECT visrec.retry('posts')").fetchone() == (2,)
    shutil.rmtree(gone)


def test_directories_that_hold_no_model(db, images):
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as raised:
        db.execute("SELECT visrec.register_model('empty', %s)", (str(images),))
    assert "no model weights" in raised.value.diag.message_detail
    assert db.execute("SELECT name FROM visrec.model").fetchall() == [("pixels",)]


@pytest.mark.data
@pytest.mark.slow
def test_precision_of_mobilenet(db, test_data, shared):
    """Precision@5 by category over all photographs: similar_posts, visrec.evaluate, and numpy."""
    shutil.copytree(test_data / "clothing", shared / "clothing", dirs_exist_ok=True)
    shutil.copytree(
        test_data / "mobilenet_v2", shared / "models" / "mobilenet_v2", dirs_exist_ok=True
    )
    paths = sorted(
        str(path.relative_to(shared / "clothing")) for path in (shared / "clothing").glob("*/*.jpg")
    )
    db.execute("SELECT visrec.set('image_roots', %s)", (str(shared / "clothing"),))
    db.execute("SELECT visrec.set('model_directory', %s)", (str(shared / "models"),))
    db.execute("CREATE TABLE posts (id bigint PRIMARY KEY, image_path text, category text)")
    db.execute("SELECT visrec.attach('posts', model => 'mobilenet_v2')")
    insert(db, paths)
    assert coverage(db) == {"embedded": len(paths)}
    [(precision,)] = db.execute(
        "SELECT avg((o.category = p.category)::int)::float FROM posts AS p,"
        " similar_posts(p.id, 5) AS s JOIN posts AS o ON o.id = s.id"
    ).fetchall()
    print(f"precision@5 of mobilenet_v2 over {len(paths)} photographs: {precision:.4f}")
    assert precision >= 0.74
    [evaluated] = db.execute(
        "SELECT queries, \"precision\" FROM visrec.evaluate('posts', 'category', '{5}')"
        " WHERE label IS NULL"
    ).fetchall()
    assert evaluated == (len(paths), pytest.approx(precision, abs=1e-12))
    stored = db.execute("SELECT category, content_vector::real[] FROM posts").fetchall()
    categories = np.array([category for category, _ in stored])
    vectors = np.array([vector for _, vector in stored])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    best = np.argsort(-cosines, axis=1)[:, :5]
    exact = (categories[best] == categories[:, None]).mean()
    print(f"numpy, exact: {exact:.4f}")
    assert evaluated[1] == pytest.approx(exact, abs=5e-4)
    [recall] = db.execute("SELECT queries, recall, worst FROM visrec.recall('posts')").fetchall()
    print(f"recall of 10 by the index: {recall}")
    assert recall[1] >= 0.95


def test_what_is_registered_is_compiled(clip, shared, paths):
    """In the background; until it is, a notice and selftest say so."""
    from tests import tiny_clip  # noqa: PLC0415 - imports torch

    directory = tiny_clip.make(shared / "models" / "new", seed=7)
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    heard = notices(clip)
    clip.execute("SELECT visrec.attach('posts', model => 'new')")
    told = 'model "new" runs through torch, several times slower than compiled'
    hint = "It is used as soon as it is there: see visrec.encoder_status()."
    assert ("NOTICE", told, hint) in heard
    insert(clip, paths[:2])
    status = (
        "SELECT runtime, milliseconds > 0, tried LIKE '%torch f32%', compiling, slow"
        " FROM visrec.encoder_status() WHERE model = 'new'"
    )
    encoder = "SELECT ok, result, advice FROM visrec.selftest() WHERE \"check\" = 'encoder'"
    # It takes seconds: this is looked at first, and may only be too late on a very slow machine.
    [(ok, _, advice)] = clip.execute(encoder).fetchall()
    assert ok
    assert "new runs through torch" in advice
    until = time.monotonic() + 240
    while clip.execute(status).fetchall()[0][3]:
        assert time.monotonic() < until
        time.sleep(0.5)
    assert clip.execute(status).fetchall() == [("openvino", True, True, False, None)]
    insert(clip, paths[2:4], 3)
    assert coverage(clip) == {"embedded": 4}
    [(ok, result, advice)] = clip.execute(encoder).fetchall()
    assert (ok, advice) == (True, None)
    assert "new: openvino" in result
    assert " ms a picture" in result
    heard.clear()
    clip.execute("SELECT visrec.encoder_restart()")
    clip.execute("SELECT visrec.register_model('new')")  # as in another database: at once
    assert heard == []
    assert [row[0] for row in clip.execute(status)] == ["openvino"]


def test_a_model_that_cannot_be_compiled_is_said_to_be_slow(clip, shared, served_clip):
    directory = shared / "models" / "padded"
    shutil.copytree(served_clip, directory)
    settings = directory / "0_CLIPModel" / "processor_config.json"
    fields = json.loads(settings.read_text())
    fields["image_processor"]["size"] = {"shortest_edge": 100}  # the library pads these
    settings.write_text(json.dumps(fields))
    clip.execute("SELECT visrec.register_model('padded')")
    until = time.monotonic() + 240
    while clip.execute(
        "SELECT compiling FROM visrec.encoder_status() WHERE model = 'padded'"
    ).fetchall() == [(True,)]:
        assert time.monotonic() < until
        time.sleep(0.5)
    [(ok, advice)] = clip.execute(
        "SELECT ok, advice FROM visrec.selftest() WHERE \"check\" = 'encoder'"
    ).fetchall()
    reason = "The model cannot be compiled: only transformers itself can prepare its pictures."
    assert not ok
    assert f"padded runs through torch, several times slower than compiled. {reason} It" in advice
    heard = notices(clip)
    clip.execute("SELECT visrec.register_model('padded')")
    assert [message for _, message, _ in heard] == [
        'model "padded" runs through torch, several times slower than compiled'
    ]
    shutil.rmtree(directory)


def test_selftest(clip, shared, served_clip):
    clip.execute("SELECT visrec.register_model('tiny-clip')")
    checks = clip.execute('SELECT "check", ok, result FROM visrec.selftest()').fetchall()
    assert [ok for _, ok, _ in checks] == [True] * 5  # two roots, two models, the encoder
    assert {check for check, _, _ in checks} >= {"model pixels", "model tiny-clip", "encoder"}
    clip.execute("UPDATE visrec.model SET reference = '[1,2,3]' WHERE name = 'tiny-clip'")
    clip.execute(
        "UPDATE visrec.model SET directory = '/nowhere', fingerprint = 'x' WHERE NOT built_in"
    )
    clip.execute("SELECT visrec.set('image_roots', '/nowhere')")
    checks = clip.execute('SELECT "check", ok, advice FROM visrec.selftest()').fetchall()
    failed = {check for check, ok, advice in checks if not ok and advice}
    assert failed == {"image root /nowhere", "model tiny-clip"}
