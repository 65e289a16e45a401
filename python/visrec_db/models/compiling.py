"""``visrec model compile``: from a model that torch runs to the form that OpenVINO loads.

What is written has been compared with torch: a form whose vectors differ by more than rounding is
not kept.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from visrec_db import errors
from visrec_db.encoders import hardware, openvino_encoder
from visrec_db.encoders.openvino_encoder import FOLDER, FORMAT, Manifest, Text
from visrec_db.models import models, quantizing

PARITY = 0.9999
"""Mean cosine with torch in float32, after the mean vector is taken off both."""

TEXTS = ("red shoe", "A RED SHOE!", "", "é 鞋 ☂", "two blue  hats\nof wool", "word " * 300)


def compile_model(directory: Path, *, exact: bool = False) -> Manifest:
    """Writes the compiled form beside the model in ``directory``, replacing one that is there.

    ``exact``: without one in 8-bit integers, though it would give nearly the same vectors, faster.
    Raises ``EncoderUnavailable`` where OpenVINO cannot run this model as torch does.
    """
    try:
        import torch  # noqa: PLC0415 - seconds

        openvino = openvino_encoder.import_openvino()
        from visrec_db.encoders import encoder, torch_encoder  # noqa: PLC0415 - seconds
    except ImportError as error:
        raise errors.EncoderUnavailable(
            f"the model cannot be compiled: {error}", hint="Install the libraries: make venv."
        ) from error
    sources, fingerprint = openvino_encoder.stamps(directory), models.fingerprint(str(directory))
    model = encoder.load_torch(str(directory), torch_encoder.FLOAT32)
    if model.settings is None:
        raise errors.EncoderUnavailable(
            "the model cannot be compiled: only transformers itself can prepare its pictures",
            hint="It works without: torch runs it.",
        )
    with tempfile.TemporaryDirectory(prefix=".openvino-", dir=directory) as name:
        work = Path(name)
        try:
            with warnings.catch_warnings(action="ignore"), torch.inference_mode():
                weights, graph = _compile_image(openvino, model, work)
                int8 = not exact and _compile_int8(openvino, model, graph, work)
                text = _compile_text(openvino, model, directory, work)
        except errors.VisrecError:
            raise
        except Exception as error:  # whatever tracing an unusual model raises
            raise errors.EncoderUnavailable(
                f"the model cannot be compiled: {type(error).__name__}: {error}",
                hint="It works without: torch runs it.",
            ) from error
        files = {file.name: file.stat().st_size for file in sorted(work.iterdir())}
        manifest = Manifest(
            format=FORMAT,
            runtime=openvino.get_version(),
            fingerprint=fingerprint,
            sources=sources,
            files=files,
            dimension=model.dimension,
            weights=weights,
            image=model.settings,
            text=text,
            int8=int8,
        )
        _put_in_place(work, directory, manifest)
    return manifest


def _put_in_place(work: Path, directory: Path, manifest: Manifest) -> None:
    """Moves the files; without its manifest, a half-replaced form is never used."""
    target = directory / FOLDER
    target.mkdir(exist_ok=True)
    (target / "visrec.json").unlink(missing_ok=True)
    for file in work.iterdir():
        file.replace(target / file.name)  # a running encoder keeps what it has open
    manifest.write(directory)


def _compile_image(openvino: Any, model: Any, work: Path) -> tuple[str, Any]:
    """Writes image.xml; the weights' type (f16, unless that shows in the vectors) and the graph."""
    import torch  # noqa: PLC0415

    height, width = model.settings.size
    graph = _convert(
        openvino, model, model.image_tower, {"pixel_values": torch.zeros(2, 3, height, width)}
    )
    graph = _with_bytes_as_input(openvino, graph, model.settings)
    pictures = [model.prepare(picture) for picture in _pictures()]
    expected = model.encode_prepared(pictures)
    for weights in ("f16", "f32"):
        openvino.save_model(graph, work / openvino_encoder.IMAGE, compress_to_fp16=weights == "f16")
        run = _runner(openvino, work / openvino_encoder.IMAGE)
        batches = (pictures[:1], pictures[1:6], pictures[6:])
        ours = np.concatenate([run([np.stack(some)]) for some in batches])
        if quantizing.parity(ours, expected) >= PARITY:
            return weights, graph
    raise errors.EncoderUnavailable(
        "the model cannot be compiled: OpenVINO gives other vectors than torch",
        hint="It works without: torch runs it.",
    )


def _compile_int8(openvino: Any, model: Any, graph: Any, work: Path) -> bool:
    """Writes image-int8.xml, where this processor is the one for it and nothing is lost."""
    if not hardware.prefers_int8() or not quantizing.quantize(graph):
        return False
    file = work / openvino_encoder.IMAGE_INT8
    openvino.save_model(graph, file, compress_to_fp16=False)
    exact, quantized = _runner(openvino, work / openvino_encoder.IMAGE), _runner(openvino, file)
    pictures = np.stack([model.prepare(picture) for picture in _like_photographs(200)])
    if quantizing.worth_it(
        lambda batch: exact([batch]), lambda batch: quantized([batch]), np.split(pictures, 25)
    ):
        return True
    for left in work.glob("image-int8.*"):
        left.unlink()
    return False


def _compile_text(openvino: Any, model: Any, directory: Path, work: Path) -> Text | None:
    """Writes text.xml; None where there are no texts, or where torch is needed for them."""
    import torch  # noqa: PLC0415

    if model.tokenizer() is None:
        return None
    text = _text_settings(model, directory)
    if text is None:
        return None
    example = model.tokenize(TEXTS)
    try:
        graph = _convert(openvino, model, model.text_tower, example)
        openvino.save_model(graph, work / "text.xml", compress_to_fp16=True)
        run = _runner(openvino, work / "text.xml")
        expected = model.encode_texts(TEXTS)
        tokenizer = openvino_encoder.load_tokenizer(directory, text)
        alone = [run(list(openvino_encoder.tokens(tokenizer, [each]))) for each in TEXTS]
        together = run(list(openvino_encoder.tokens(tokenizer, TEXTS)))
        parities = [quantizing.parity(each, expected) for each in (np.concatenate(alone), together)]
        if min(parities) >= PARITY:
            return text
    except (RuntimeError, TypeError, torch.jit.TracingCheckError):  # what cannot be traced
        pass
    for file in work.glob("text.*"):
        file.unlink()
    return None


def _text_settings(model: Any, directory: Path) -> Text | None:
    """Returns how to tokenize as the model's own tokenizer does, if its file alone can do that."""
    library = model.tokenizer()
    for file in sorted(directory.rglob("tokenizer.json")):
        text = Text(
            tokenizer=str(file.relative_to(directory)),
            max_length=int(
                getattr(model.model, "max_seq_length", None) or library.model_max_length
            ),
            pad_id=int(library.pad_token_id or 0),
        )
        tokenizer = openvino_encoder.load_tokenizer(directory, text)
        for texts in (TEXTS, TEXTS[:2], TEXTS[2:3]):
            ours, expected = openvino_encoder.tokens(tokenizer, texts), model.tokenize(texts)
            theirs = (expected["input_ids"].numpy(), expected["attention_mask"].numpy())
            if set(expected) - {"input_ids", "attention_mask"} or not all(
                map(np.array_equal, ours, theirs)
            ):
                break
        else:
            return text
    return None


def _convert(
    openvino: Any, model: Any, function: Callable[..., Any], example: dict[str, Any]
) -> Any:
    """Returns the traced graph of a tower, with the first axis (and that of tokens) left open."""
    import torch  # noqa: PLC0415

    class Tower(torch.nn.Module):  # type: ignore[misc]  # torch is not checked
        def __init__(self) -> None:
            super().__init__()
            self.model = model.model  # so that its weights are traced as weights

        def forward(self, *inputs: Any) -> Any:
            return function(*inputs)

    inputs = tuple(example.values())
    shapes = [
        openvino.PartialShape([-1, *each.shape[1:]] if each.ndim == 4 else [-1, -1])
        for each in inputs
    ]
    return openvino.convert_model(Tower().eval(), example_input=inputs, input=shapes)


def _with_bytes_as_input(openvino: Any, graph: Any, settings: Any) -> Any:
    """Returns the same graph from bytes (n, height, width, 3), which normalises by itself."""
    from openvino.preprocess import PrePostProcessor  # noqa: PLC0415

    steps = PrePostProcessor(graph)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).mean(
        [mean / settings.scale for mean in settings.mean]
    ).scale([std / settings.scale for std in settings.std])
    return steps.build()


def _runner(openvino: Any, file: Path) -> Callable[[list[Any]], NDArray[np.float32]]:
    options = openvino_encoder.options(file.name)
    compiled = openvino.Core().compile_model(str(file), "CPU", options)
    return lambda inputs: np.array(compiled(inputs)[0])


def _pictures(number: int = 12) -> Sequence[Image.Image]:
    """Makes patches of colour from coarse to fine: unlike each other for an untrained model."""
    random = np.random.default_rng(5)
    pictures = []
    for place in range(number):
        side = 2 + place * 3
        coarse = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        pictures.append(Image.fromarray(coarse).resize((320, 256), Image.Resampling.BICUBIC))
    return pictures


def _like_photographs(number: int) -> Sequence[Image.Image]:
    """Draws discs of all sizes over each other (Lee, Mumford and Huang 2001), more or less faded.

    A ViT-B/32's vectors of them lie about their mean as those of photographs do, and int8 shows in
    both alike: mean cosines of 0.9985 and 0.9984 with float32.
    """
    random = np.random.default_rng(5)
    white = Image.new("RGB", (224, 224), (235, 235, 235))
    pictures = []
    for _ in range(number):
        palette = random.integers(0, 256, (6, 3))
        picture = Image.new("RGB", white.size, tuple(palette[0]))
        draw = ImageDraw.Draw(picture)
        for _ in range(random.integers(3, 150)):
            x, y = random.uniform(0, 224, 2)
            radius = min(4 * (random.pareto(2) + 1), 120)
            colour = random.choice(palette) + random.normal(0, 20, 3)
            draw.ellipse(
                (x - radius, y - radius, x + radius, y + radius),
                tuple(int(c) for c in colour.clip(0, 255)),
            )
        pictures.append(Image.blend(picture, white, random.uniform(0, 0.7)))
    return pictures
