"""The compiled form of a model gives the model's own vectors, loads without torch, and is never
used where it does not belong to the weights."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny_clip as models_for_tests
from visrec_db import cli, errors
from visrec_db.encoders import compiled as compiled_form
from visrec_db.encoders import encoder, hardware
from visrec_db.models import measuring, models

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
if find_spec("openvino") is None:
    pytest.skip("openvino is not installed", allow_module_level=True)

from visrec_db.encoders import torch_encoder  # noqa: E402
from visrec_db.models import compiling  # noqa: E402

PYTHON = Path(__file__).parents[2] / "python"
TEXTS = ["a red shoe", "A RED SHOE!", "two  blue hats", "é 鞋", "word " * 100, ""]


@pytest.fixture(scope="module", autouse=True)
def any_machine() -> Iterator[pytest.MonkeyPatch]:
    """The same on all: no GPU, and a processor that computes in float32 alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "may_have_cuda", lambda: False)
        patch.setattr(hardware, "MASKED", hardware.BF16 | hardware.INT8)
        yield patch


@pytest.fixture(scope="module")
def compiled(
    tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory, any_machine: object
) -> Path:
    """A compiled tiny CLIP. For reading only."""
    directory = tmp_path_factory.mktemp("compiled") / "tiny-clip"
    shutil.copytree(tiny_clip, directory)
    compiling.compile_model(directory)
    return directory


@pytest.fixture
def model(compiled: Path, tmp_path: Path) -> Path:
    """A copy to damage, times of modification kept."""
    return shutil.copytree(compiled, tmp_path / "tiny-clip")


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(3)
    made = []
    for width, height in [(224, 224), (640, 480), (300, 700), (50, 60), (1000, 230), (1, 1)]:
        coarse = random.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        made.append(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return made


def embedded(of: encoder.Encoder, pictures: Sequence[Image.Image]) -> np.ndarray:
    return of.encode_prepared([of.prepare(picture) for picture in pictures])


def cosines(ours: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """About the reference's mean: vectors of random weights all point nearly one way."""
    reference = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    mean = reference.mean(axis=0)
    ours, reference = ours - mean, reference - mean
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(reference, axis=1)
    cosines: np.ndarray = (ours * reference).sum(axis=1) / norms
    return cosines


LEAST = 0.9999
"""The cosine that float32 must reach; other number formats have tests of their own."""


# Vectors --------------------------------------------------------------------------------


def test_pictures_get_the_reference_pipelines_vectors(compiled: Path) -> None:
    ours = encoder.load(str(compiled))
    assert (ours.runtime, ours.precision, ours.device) == ("openvino", "f32", "cpu")
    assert ours.dimension == models_for_tests.DIMENSION
    folder = compiled / models_for_tests.FOLDER
    clip = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    with torch.inference_mode():
        inputs = processor(pictures(), return_tensors="pt")
        reference = clip.get_image_features(**inputs).pooler_output.numpy()
    vectors = embedded(ours, pictures())
    assert (vectors.shape, vectors.dtype) == ((6, ours.dimension), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert cosines(vectors, reference).min() >= LEAST
    one_by_one = np.concatenate([embedded(ours, [picture]) for picture in pictures()])
    assert cosines(one_by_one, reference).min() >= LEAST


FORMATS = {"bf16": 0.99, "int8": 0.98, "int8 with bf16": 0.97}
"""The cosine with float32 that each must reach on a model as thin as this."""


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_timed_as_the_fastest_runs_and_says_so(
    model: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each format that this processor has, as if it were the fastest."""
    monkeypatch.setattr(hardware, "MASKED", set())
    monkeypatch.setattr(hardware, "has_int8", lambda: True)  # slow on others, but it runs
    if "bf16" in form and not hardware.has_bf16():
        pytest.skip("this processor has no units for bfloat16")
    exact = embedded(encoder.load(str(model)), pictures())
    monkeypatch.setattr(measuring, "_timed", fastest(form))
    monkeypatch.setattr(measuring, "PARITY", 0.9)  # as thin a model is rounded more than a real one
    monkeypatch.setattr(measuring, "NEIGHBOURS", 0.5)
    manifest, choice = compiling.compile_model(model)
    assert (choice.form, manifest.int8) == (form, "int8" in form)
    ours = encoder.load(str(model))
    assert (ours.runtime, ours.precision) == ("openvino", form)
    assert ours.choice == choice
    found = cosines(embedded(ours, pictures()), exact)
    assert FORMATS[form] <= found.min() < 1 - 1e-6  # it is another graph
    described = compiled_form.as_status(ours.choice)
    assert described["milliseconds"] == 1
    assert f"{form}: 1 ms, 1 alone, cosine " in described["tried"]
    monkeypatch.setattr(hardware, "processor", lambda: "another")  # as if copied
    again = encoder.load(str(model))
    assert (again.precision, again.choice) == ("f32", None)


def fastest(form: str) -> Callable[..., dict[str, tuple[float, float]]]:
    """A clock for which this form takes 1 ms, and each other one 9."""
    return lambda candidates, _: {
        each.form: (1.0, 1.0) if each.form == form else (9.0, 9.0) for each in candidates
    }


def test_torch_runs_it_where_that_is_the_fastest(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_timed", fastest("torch f32"))
    compiling.compile_model(model)
    ours = encoder.load(str(model))
    assert (ours.runtime, ours.precision) == ("torch", "f32")
    assert ours.choice is not None
    assert ours.choice.milliseconds == 1


@pytest.mark.parametrize("arguments", [{"exact": True}, {}], ids=["against one's will", "unlike"])
def test_eight_bit_integers_are_not_kept(
    model: Path, arguments: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_int8", lambda: True)
    monkeypatch.setattr(measuring, "_timed", fastest("int8"))
    if not arguments:
        monkeypatch.setattr(measuring, "PARITY", 1.1)
    manifest, choice = compiling.compile_model(model, **arguments)
    assert (manifest.int8, choice.form) == (False, "f32")
    assert not list((model / "openvino").glob("image-int8*"))


@pytest.mark.data
def test_number_formats_are_compared_on_photographs_too(
    model: Path, test_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_int8", lambda: True)
    monkeypatch.setattr(measuring, "_timed", fastest("int8"))
    choice = compiling.compile_model(model, roots=[str(test_data / "clothing" / "hat")])[1]
    assert "(photographs too)" in choice.described()


def test_a_tokenizer_is_built_from_vocabulary_and_merges(tiny_clip: Path, tmp_path: Path) -> None:
    """As in repositories that have no tokenizer.json."""
    directory = shutil.copytree(tiny_clip, tmp_path / "clip")
    models_for_tests.without_tokenizer_json(directory)
    manifest, _ = compiling.compile_model(directory)
    assert manifest.text is not None
    ours = encoder.load(str(directory))
    reference = encoder.load_torch(str(directory), torch_encoder.FLOAT32)
    assert cosines(ours.encode_texts(TEXTS), reference.encode_texts(TEXTS)).min() >= LEAST


def test_texts_get_the_reference_pipelines_vectors(compiled: Path) -> None:
    folder = compiled / models_for_tests.FOLDER
    clip = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    reference = []
    for text in TEXTS:
        tokens = tokenizer(text, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            reference.append(clip.get_text_features(**tokens).pooler_output.numpy())
    ours = encoder.load(str(compiled))
    vectors = ours.encode_texts(TEXTS)
    assert vectors.shape == (len(TEXTS), ours.dimension)
    assert cosines(vectors, np.concatenate(reference)).min() >= LEAST
    alone = np.concatenate([ours.encode_texts([text]) for text in TEXTS])
    assert cosines(alone, np.concatenate(reference)).min() >= LEAST


def test_a_model_without_texts_is_compiled_too(tmp_path: Path) -> None:
    thin = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.ViTConfig(**thin, num_attention_heads=4, image_size=64)
        transformers.ViTModel(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    exact = encoder.load_torch(str(tmp_path), torch_encoder.FLOAT32)
    by_torch = embedded(exact, pictures())
    assert compiling.compile_model(tmp_path)[0].text is None
    ours = encoder.load(str(tmp_path))
    assert (ours.runtime, ours.dimension) == ("openvino", 48)
    assert cosines(embedded(ours, pictures()), by_torch).min() >= LEAST
    with pytest.raises(errors.NoTextTower):
        ours.encode_texts(["a red shoe"])


def test_pictures_that_only_the_library_can_prepare_are_left_to_torch(
    tiny_clip: Path, tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny_clip, tmp_path / "clip")
    file = directory / models_for_tests.FOLDER / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["size"] = {"shortest_edge": 100}  # the library pads these
    file.write_text(json.dumps(settings))
    with pytest.raises(errors.EncoderUnavailable, match="only transformers itself can prepare"):
        compiling.compile_model(directory)
    assert not (directory / "openvino").exists()
    ours = encoder.load(str(directory))
    assert (ours.runtime, ours.smallest) == ("torch", None)
    assert embedded(ours, pictures()).shape == (6, models_for_tests.DIMENSION)


# Loading --------------------------------------------------------------------------------


def test_neither_torch_nor_the_network_is_touched(compiled: Path) -> None:
    program = """
import socket, sys
def refuse(*_): raise SystemExit("the network was touched")
socket.getaddrinfo = socket.socket.connect = refuse
from visrec_db.encoders import encoder, hardware
hardware.may_have_cuda = lambda: False
from PIL import Image
model = encoder.load(sys.argv[1])
vectors = model.encode_prepared([model.prepare(Image.new("RGB", (400, 300), "red"))])
print(model.runtime, vectors.shape, model.encode_texts(["red"]).shape)
libraries = "torch", "transformers", "sentence_transformers", "openvino_telemetry"
print([name for name in libraries if sys.modules.get(name)])
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(compiled)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PYTHON), *sys.path])},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["openvino (1, 64) (1, 64)", "[]"]


def test_it_is_no_part_of_the_models_fingerprint(tiny_clip: Path, compiled: Path) -> None:
    assert (compiled / "openvino" / "image.bin").is_file()
    assert models.fingerprint(str(compiled)) == models.fingerprint(str(tiny_clip))


def test_a_copy_with_other_times_is_used(model: Path) -> None:
    for file in model.rglob("*"):
        os.utime(file, (1, 1))
    assert encoder.load(str(model)).runtime == "openvino"


def other_weights(model: Path) -> None:
    """As long as before, and touched: only the content tells."""
    file = model / models_for_tests.FOLDER / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-100:] = bytes(100)
    file.write_bytes(content)


def other_preprocessing(model: Path) -> None:
    file = model / models_for_tests.FOLDER / "processor_config.json"
    file.write_text(file.read_text().replace("0.48145466", "0.5"))


def one_more_file(model: Path) -> None:
    (model / "config_sentence_transformers.json").write_text("{}")


def cut_short(model: Path) -> None:
    file = model / "openvino" / "image.bin"
    file.write_bytes(file.read_bytes()[:-1])


def graph_gone(model: Path) -> None:
    (model / "openvino" / "image.xml").unlink()


def graph_broken(model: Path) -> None:
    file = model / "openvino" / "image.xml"
    file.write_text("<" * file.stat().st_size)


def manifest_broken(model: Path) -> None:
    (model / "openvino" / "visrec.json").write_text('{"format": 2}')


def manifest_of_another_version(model: Path) -> None:
    file = model / "openvino" / "visrec.json"
    file.write_text(file.read_text().replace('"format": 2', '"format": 1'))


def writable_by_all(model: Path) -> None:
    (model / "openvino").chmod(0o777)


DAMAGE = [
    other_weights, other_preprocessing, one_more_file, cut_short, graph_gone, graph_broken,
    manifest_broken, manifest_of_another_version, writable_by_all,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_stale_or_broken_form_is_not_used(
    model: Path, damage: object, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "load_torch", lambda directory: f"torch for {directory}")
    assert callable(damage)
    damage(model)
    with caplog.at_level(logging.WARNING, "visrec_db"):
        assert encoder.load(str(model)) == f"torch for {model}"
    assert [record.getMessage().split(";")[1].strip() for record in caplog.records] == [
        "torch runs it instead. To compile it again: visrec model compile tiny-clip"
    ]


def test_without_openvino_torch_runs_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert encoder.load(str(model)).runtime == "torch"


def test_compiling_anew_mends_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other_weights(model)
    (model / "openvino" / "note.txt").write_text("someone's own")
    command = ["model", "compile", "tiny-clip", "--directory", str(model.parent)]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == (
        "tiny-clip is compiled for pictures and texts (weights: f16; here it runs in f32)\n"
    )
    ours = encoder.load(str(model))
    assert ours.runtime == "openvino"
    exact = encoder.load_torch(str(model), torch_encoder.FLOAT32)
    torch_vectors = embedded(exact, pictures())
    assert cosines(embedded(ours, pictures()), torch_vectors).min() >= LEAST
    assert sorted(path.name for path in model.iterdir()) == [
        models_for_tests.FOLDER, "modules.json", "openvino",
    ]  # fmt: skip
    assert (model / "openvino" / "note.txt").read_text() == "someone's own"


def test_vectors_that_differ_leave_no_compiled_form(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(tiny_clip, tmp_path / "clip")
    monkeypatch.setattr(compiling, "PARITY", 1.1)
    with pytest.raises(errors.EncoderUnavailable, match="other vectors than torch"):
        compiling.compile_model(directory)
    assert not (directory / "openvino").exists()
    assert len(list(directory.iterdir())) == 2


def test_there_is_nothing_to_compile_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["model", "compile", "none", "--directory", str(tmp_path)]) == 1
    assert "does not exist" in capsys.readouterr().err
