"""From pictures and texts to vectors: the same as the reference pipeline's, in order, offline."""

from __future__ import annotations

import io
import json
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tests import tiny_clip as models
from visrec_db import errors
from visrec_db.backend import in_process
from visrec_db.encoders import encoder, hardware, torch_encoder
from visrec_db.pictures import images

POLICY = images.Policy(roots=(), max_bytes=10_000_000, max_pixels=10_000_000)
TEXTS = ["a red shoe", "A RED SHOE!", "two blue hats", "é 鞋", "word " * 100]


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> encoder.Encoder:
    """In float32, whatever this machine would choose: its vectors are compared to rounding."""
    return encoder.load_torch(str(tiny_clip), torch_encoder.FLOAT32)


@pytest.fixture(scope="module")
def plain_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as ``tiny_clip`` in transformers' own layout."""
    return models.make_plain(tmp_path_factory.mktemp("models") / "plain-clip")


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with no text tower whose output is a pooled one: 48 numbers."""
    directory = tmp_path_factory.mktemp("models") / "tiny-vit"
    thin = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.ViTConfig(**thin, num_attention_heads=4, image_size=64)
        transformers.ViTModel(config).save_pretrained(directory)
    size = {"height": 64, "width": 64}
    transformers.ViTImageProcessor(size=size).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Pictures of many shapes: what is cropped, and how it is shrunk, shows in the vectors."""
    random = np.random.default_rng(3)
    made = []
    for width, height in [(224, 224), (640, 480), (300, 900), (50, 60), (1000, 230), (1, 1)]:
        coarse = random.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        made.append(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return made


def embedded(model: encoder.Encoder, pictures: Sequence[Image.Image]) -> np.ndarray:
    return model.encode_prepared([model.prepare(picture) for picture in pictures])


LEAST = {"f32": 0.99999, "bf16": 0.99, "f16": 0.999}
"""The mean cosine that each precision must reach beside float32."""


def assert_same_vectors(ours: np.ndarray, reference: np.ndarray, precision: str = "f32") -> None:
    """Equal up to rounding, by cosine about the mean: random weights put all vectors close."""
    assert ours.shape == reference.shape
    reference = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    mean = reference.mean(axis=0)
    ours, reference = ours - mean, reference - mean
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(reference, axis=1)
    assert ((ours * reference).sum(axis=1) / norms).min() >= LEAST[precision]


def reference_vectors(directory: Path, pictures: Sequence[Image.Image]) -> np.ndarray:
    model = transformers.CLIPModel.from_pretrained(directory).eval()
    processor = transformers.CLIPImageProcessor.from_pretrained(directory)
    with torch.inference_mode():
        rows = [
            model.get_image_features(**processor(picture, return_tensors="pt")).pooler_output
            for picture in pictures
        ]
    return torch.cat(rows).numpy()


def reference_text_vectors(directory: Path, texts: Sequence[str]) -> np.ndarray:
    model = transformers.CLIPModel.from_pretrained(directory).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(directory)
    with torch.inference_mode():
        rows = [
            model.get_text_features(
                **tokenizer(text, truncation=True, return_tensors="pt")
            ).pooler_output
            for text in texts
        ]
    return torch.cat(rows).numpy()


# Vectors --------------------------------------------------------------------------------


def test_pictures_get_unit_vectors_of_the_models_dimension(
    clip: encoder.Encoder, pictures: list[Image.Image]
) -> None:
    vectors = embedded(clip, pictures)
    assert clip.dimension == models.DIMENSION
    assert (vectors.shape, vectors.dtype) == ((len(pictures), clip.dimension), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert len(np.unique(vectors.round(4), axis=0)) == len(pictures)


def test_pictures_get_the_reference_pipelines_vectors(
    clip: encoder.Encoder, tiny_clip: Path, pictures: list[Image.Image]
) -> None:
    reference = reference_vectors(tiny_clip / models.FOLDER, pictures)
    assert_same_vectors(embedded(clip, pictures), reference)


def test_texts_get_the_reference_pipelines_vectors(clip: encoder.Encoder, tiny_clip: Path) -> None:
    vectors = clip.encode_texts(TEXTS)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert_same_vectors(vectors, reference_text_vectors(tiny_clip / models.FOLDER, TEXTS))


@pytest.mark.parametrize(
    ("seconds", "precision"),
    [([2, 1], "bf16"), ([1, 2], "f32"), ([], "f32")],
    ids=["faster", "slower", "no units"],
)
def test_torch_takes_the_numbers_that_are_faster_here(
    tiny_clip: Path,
    pictures: list[Image.Image],
    seconds: list[int],
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda: bool(seconds))
    monkeypatch.setattr(hardware, "may_have_cuda", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    clock = iter(seconds)
    monkeypatch.setattr(torch_encoder.TorchEncoder, "seconds", lambda _: next(clock))
    chosen = encoder.load(str(tiny_clip))
    assert chosen.precision == precision
    reference = reference_vectors(tiny_clip / models.FOLDER, pictures)
    assert_same_vectors(embedded(chosen, pictures), reference, precision)
    assert list(clock) == []


def test_a_plain_clip_gives_the_same_vectors(
    clip: encoder.Encoder, plain_clip: Path, pictures: list[Image.Image]
) -> None:
    plain = encoder.load_torch(str(plain_clip), torch_encoder.FLOAT32)
    assert type(plain) is not type(clip)
    assert plain.dimension == clip.dimension
    assert_same_vectors(embedded(plain, pictures), reference_vectors(plain_clip, pictures))
    assert_same_vectors(plain.encode_texts(TEXTS), reference_text_vectors(plain_clip, TEXTS))


def test_any_image_model_loads_and_says_its_dimension(
    tiny_vit: Path, pictures: list[Image.Image]
) -> None:
    vit = encoder.load_torch(str(tiny_vit), torch_encoder.FLOAT32)
    vectors = embedded(vit, pictures)
    assert vit.dimension == 48
    model = transformers.ViTModel.from_pretrained(tiny_vit).eval()
    processor = transformers.ViTImageProcessor.from_pretrained(tiny_vit)
    with torch.inference_mode():
        reference = model(**processor(pictures, return_tensors="pt")).pooler_output
    assert_same_vectors(vectors, reference.numpy())


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 3, 4, 4)], ids=["tokens", "feature-map"])
def test_a_model_without_pooled_output_gets_the_mean_of_its_states(shape: tuple[int, ...]) -> None:

    states = torch.rand(shape)
    output = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=states)
    axes = (1,) if len(shape) == 3 else (2, 3)
    assert torch_encoder._pooled(output).numpy() == pytest.approx(
        states.numpy().mean(axis=axes), abs=1e-6
    )


@pytest.mark.data
def test_mobilenet_gives_1280_numbers(test_data: Path, pictures: list[Image.Image]) -> None:
    mobilenet = encoder.load(str(test_data / "mobilenet_v2"))
    assert mobilenet.dimension == 1280
    assert embedded(mobilenet, pictures).shape == (len(pictures), 1280)


def test_a_model_of_pictures_only_has_no_text_tower(tiny_vit: Path) -> None:
    for model in (encoder.load(str(tiny_vit)), encoder.load(None)):
        with pytest.raises(errors.NoTextTower) as caught:
            model.encode_texts(["a red shoe"])
        assert (caught.value.code, caught.value.sqlstate) == ("no_text_tower", "0A000")
        assert "clip" in (caught.value.hint or "")


def test_no_directory_means_pixels() -> None:
    assert isinstance(encoder.load(None), encoder.PixelsEncoder)


# Models that do not load ----------------------------------------------------------------


def cut_weights(directory: Path) -> None:
    weights = directory / models.FOLDER / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def break_configuration(directory: Path) -> None:
    (directory / models.FOLDER / "config.json").write_text("{")


def break_modules(directory: Path) -> None:
    (directory / "modules.json").write_text("{")


def name_unknown_module(directory: Path) -> None:
    modules = [{"idx": 0, "name": "0", "path": models.FOLDER, "type": "no.such.Module"}]
    (directory / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    "damage", [cut_weights, break_configuration, break_modules, name_unknown_module]
)
def test_a_damaged_model_is_unavailable(tiny_clip: Path, tmp_path: Path, damage) -> None:
    directory = tmp_path / "damaged"
    shutil.copytree(tiny_clip, directory)
    damage(directory)
    with pytest.raises(errors.EncoderUnavailable, match="cannot be loaded") as caught:
        encoder.load(str(directory))
    assert str(directory) in caught.value.message


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_a_directory_without_a_model_is_unavailable(tmp_path: Path, kind: str) -> None:
    directory = tmp_path / kind
    if kind == "empty":
        directory.mkdir()
    elif kind == "file":
        directory.touch()
    with pytest.raises(errors.EncoderUnavailable, match="contains neither") as caught:
        encoder.load(str(directory))
    assert (caught.value.code, caught.value.sqlstate) == ("encoder_unavailable", "55000")
    assert "visrec model pull" in (caught.value.hint or "")


# The network ----------------------------------------------------------------------------


def test_neither_loading_nor_embedding_touches_the_network(
    tiny_clip: Path, plain_clip: Path, tiny_vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[object] = []

    def refuse(*arguments: object, **_: object) -> NoReturn:
        attempts.append(arguments)
        raise OSError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    grey = Image.new("RGB", (8, 8))
    for directory in (tiny_clip, plain_clip, tiny_vit):
        model = encoder.load(str(directory))
        embedded(model, [grey])
        if directory != tiny_vit:
            model.encode_texts(["a red shoe"])
    with pytest.raises(errors.EncoderUnavailable):
        encoder.load("clip-ViT-B-32")  # a name on the hub is no directory
    assert attempts == []


# Many pictures --------------------------------------------------------------------------


class Recording:
    """A model whose vector is the picture's colour; it notes how it is called."""

    dimension, runtime, precision, device, batch, smallest = 3, "none", "f32", "cpu", 16, None

    def __init__(self) -> None:
        self.batches: list[int] = []

    def prepare(self, picture: Image.Image) -> np.ndarray:
        return np.array(picture.getpixel((0, 0)), np.float32)

    def encode_prepared(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        self.batches.append(len(prepared))
        return np.stack(prepared)


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 1, 2)).save(stream, "PNG")
    return stream.getvalue()


def nothing() -> None:
    pass


def test_order_is_kept_and_a_bad_picture_fails_alone() -> None:
    sources = [b"bad", png(10), "../bad.png", png(20), png(30), b""]
    results = in_process.embed_images(Recording(), sources, POLICY, nothing)
    seen = [getattr(result, "vector", type(result)) for result in results]
    assert seen == [
        errors.NotAnImage,
        "[10,1,2]",
        errors.ImageOutsideRoots,
        "[20,1,2]",
        "[30,1,2]",
        errors.NotAnImage,
    ]


def test_no_picture_or_only_bad_ones_run_no_model() -> None:
    model = Recording()
    assert in_process.embed_images(model, [], POLICY, nothing) == []
    [error] = in_process.embed_images(model, [b"bad"], POLICY, nothing)
    assert type(error) is errors.NotAnImage
    assert model.batches == []


def test_many_pictures_go_through_in_several_passes() -> None:
    model = Recording()
    count = 2 * Recording.batch + 3
    sources: list[bytes] = [png(shade) for shade in range(count)]
    sources[5] = b"bad"  # so that places and rows of a pass differ
    results = in_process.embed_images(model, sources, POLICY, nothing)
    assert model.batches == [Recording.batch, Recording.batch, 2]
    assert type(results.pop(5)) is errors.NotAnImage
    assert [result.vector for result in results] == [
        f"[{shade},1,2]" for shade in range(count) if shade != 5
    ]


class Stop(Exception):
    pass


def test_checkpoint_is_called_for_each_picture_and_pass() -> None:
    calls: list[None] = []
    in_process.embed_images(
        Recording(), [png(1), b"bad", png(2)], POLICY, lambda: calls.append(None)
    )
    assert len(calls) == 3 + 1


@pytest.mark.parametrize("after", range(4))  # three pictures and one pass
def test_a_checkpoint_that_raises_stops_the_work(after: int) -> None:
    model = Recording()
    sources = [png(shade) for shade in range(3)]
    calls = 0

    def checkpoint() -> None:
        nonlocal calls
        if calls == after:
            raise Stop
        calls += 1

    with pytest.raises(Stop):
        in_process.embed_images(model, sources, POLICY, checkpoint)
    assert model.batches == []


def test_a_model_embeds_encoded_pictures(clip: encoder.Encoder) -> None:
    [found] = in_process.embed_images(clip, [png(200)], POLICY, nothing)
    expected = embedded(clip, [Image.new("RGB", (4, 4), (200, 1, 2))])[0]
    assert np.array(json.loads(found.vector), np.float32).tolist() == expected.tolist()


# Vectors as text ------------------------------------------------------------------------


def test_text_brings_every_float32_back_exactly() -> None:
    bits = np.random.default_rng(5).integers(0, 2**32, 20_000, dtype=np.uint32)
    numbers = bits.view(np.float32)
    numbers = np.append(numbers[np.isfinite(numbers)], np.float32([0, -0.0, 1e-45, 3.4028235e38]))
    text = encoder.as_text(numbers)
    back = np.array([np.float32(number) for number in text[1:-1].split(",")])
    assert (back.view(np.uint32) == numbers.view(np.uint32)).all()


@pytest.mark.parametrize("bad", [[0, 0], [np.nan, 1], [1, np.inf], [-np.inf, 0], []])
def test_a_vector_that_says_nothing_is_refused(bad: list[float]) -> None:
    with pytest.raises(errors.EncoderUnavailable, match="not finite or all zeros"):
        encoder.as_text(np.array(bad, np.float32))
