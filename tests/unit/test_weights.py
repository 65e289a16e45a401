"""The same tensors have the same digest in either form; anything else counts as its bytes."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest

from visrec_db.models import models, weights

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file

TENSORS = {
    "layer.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "layer.bias": torch.ones(3, dtype=torch.bfloat16),
    "scale": torch.tensor(2.5, dtype=torch.float16),
    "count": torch.tensor([7], dtype=torch.int64),
}


@pytest.fixture
def safe(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def pickled(tmp_path: Path, tensors: object, name: str = "pytorch_model.bin") -> Path:
    (tmp_path / "pickled").mkdir(exist_ok=True)
    torch.save(tensors, tmp_path / "pickled" / name)
    return tmp_path / "pickled" / name


def test_both_forms_have_one_digest(safe: Path, tmp_path: Path) -> None:
    parameters = {name: torch.nn.Parameter(t, False) for name, t in TENSORS.items()}
    whole = torch.arange(24, dtype=torch.float32)  # a view into a larger storage
    view = {**TENSORS, "layer.weight": (whole - 6)[6:18].reshape(3, 4)}
    for tensors in (TENSORS, dict(reversed(TENSORS.items())), parameters, view):
        assert weights.digest([pickled(tmp_path, tensors)]) == weights.digest([safe])


def test_pieces_are_one(safe: Path, tmp_path: Path) -> None:
    names = list(TENSORS)
    files = [
        pickled(tmp_path, {n: TENSORS[n] for n in some}, f"pytorch_model-{i}-of-2.bin")
        for i, some in enumerate((names[:2], names[2:]))
    ]
    assert weights.digest(files) == weights.digest([safe])


def test_what_older_libraries_stored_beside_the_weights_does_not_count(
    safe: Path, tmp_path: Path
) -> None:
    more = {**TENSORS, "text_model.embeddings.position_ids": torch.arange(77)}
    assert weights.digest([pickled(tmp_path, more)]) == weights.digest([safe])


@pytest.mark.parametrize(
    "other",
    [
        {**TENSORS, "scale": torch.tensor(2.25, dtype=torch.float16)},
        {**TENSORS, "layer.weight": TENSORS["layer.weight"].reshape(4, 3)},
        {**TENSORS, "count": torch.tensor([7], dtype=torch.int32)},
        {**TENSORS, "more": torch.zeros(1)},
        {name: tensor for name, tensor in TENSORS.items() if name != "scale"},
        {name.replace("count", "number"): tensor for name, tensor in TENSORS.items()},
    ],
    ids=["value", "shape", "type", "one more", "one less", "name"],
)
def test_other_tensors_have_another(safe: Path, tmp_path: Path, other: dict) -> None:
    assert weights.digest([pickled(tmp_path, other)]) != weights.digest([safe])


class Hostile:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("/tmp/visrec-was-here"),))


def test_what_a_pickle_names_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": Hostile()}))
    with pytest.raises(weights.Unreadable):
        weights.digest([file])
    assert not Path("/tmp/visrec-was-here").exists()
    mark = models.fingerprint(str(tmp_path))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("more", "")
    assert models.fingerprint(str(tmp_path)) != mark


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(1000),
        (1 << 60).to_bytes(8, "little") + b"{}",
        header(b"{"),
        header(b"[]"),
        header(json.dumps({"x": TENSOR}).encode()),  # longer than the file
        header(json.dumps({"x": {**TENSOR, "data_offsets": [-4, 0]}}).encode()) + bytes(4),
        header(json.dumps({"x": {"dtype": "F32"}}).encode()) + bytes(4),
    ],
)
def test_a_file_of_another_form_counts_as_its_bytes(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(weights.Unreadable):
        weights.digest([file])
    mark = models.fingerprint(str(tmp_path))
    file.write_bytes(content + b"\1")
    assert models.fingerprint(str(tmp_path)) != mark


def test_of_weights_in_two_forms_one_is_needed() -> None:
    from visrec_db.models import pulling  # noqa: PLC0415

    laion = [
        ".gitattributes", "README.md", "config.json", "merges.txt", "model.safetensors",
        "open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin",
        "preprocessor_config.json", "pytorch_model.bin", "vocab.json", "flax_model.msgpack",
    ]  # fmt: skip
    without = {
        "open_clip_model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin",
        "flax_model.msgpack",
    }  # fmt: skip
    assert pulling.needed(laion) == sorted({*laion} - without)
    assert "pytorch_model.bin" in pulling.needed([n for n in laion if n != "model.safetensors"])
    pieces = [
        *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
        *(f"model-0000{n}-of-00002.safetensors" for n in (1, 2)),
        *(f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)),
    ]
    inner = [f"0_CLIPModel/{name}" for name in pieces]
    assert pulling.needed([*inner, "1_Dense/pytorch_model.bin", "onnx/model.onnx"]) == [
        "0_CLIPModel/model-00001-of-00002.safetensors",
        "0_CLIPModel/model-00002-of-00002.safetensors",
        "0_CLIPModel/model.safetensors.index.json",
        "1_Dense/pytorch_model.bin",
    ]
    assert pulling.needed(["adapter.bin", "config.json"]) == ["adapter.bin", "config.json"]
