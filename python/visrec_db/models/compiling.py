"""From a model that torch runs to the form that OpenVINO loads: by hand, or by the encoder process.

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

from visrec_db import errors
from visrec_db.encoders import compiled, hardware, openvino_encoder
from visrec_db.encoders.compiled import FOLDER, FORMAT, Manifest, Text
from visrec_db.models import measuring, models, quantizing, samples

PARITY = 0.9999
"""Mean cosine with torch in float32, after the mean vector is taken off both."""

TORCH_FASTER = 1.5
"""What torch must gain where OpenVINO can run the model: it takes seconds and memory to load."""

TEXTS = ("red shoe", "A RED SHOE!", "", "é 鞋 ☂", "two blue  hats\nof wool", "word " * 300)

WITHOUT = "It works without: torch runs it."


def compile_model(
    directory: Path, *, exact: bool = False, roots: Sequence[str] = ()
) -> tuple[Manifest, compiled.Choice]:
    """Writes the compiled form beside the model in ``directory``, replacing one that is there.

    Arguments and errors are those of ``make``.
    """
    models.sources(directory)
    with tempfile.TemporaryDirectory(prefix=".openvino-", dir=directory) as name:
        made = make(directory, Path(name), exact=exact, roots=roots)
        _put_in_place(Path(name), directory / FOLDER)
    return made


def make(
    directory: Path, work: Path, *, exact: bool = False, roots: Sequence[str] = ()
) -> tuple[Manifest, compiled.Choice]:
    """Writes the compiled form of the model in ``directory`` into the empty folder ``work``.

    ``exact``: without one in 8-bit integers, though it would give nearly the same vectors, faster.
    ``roots``: directories with photographs on which the number formats are compared, too.
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
    sources, fingerprint = compiled.stamps(directory), models.fingerprint(str(directory))
    model = encoder.load_torch(str(directory), torch_encoder.FLOAT32)
    if model.settings is None:
        raise errors.EncoderUnavailable(
            "the model cannot be compiled: only transformers itself can prepare its pictures",
            hint=WITHOUT,
        )
    try:
        with warnings.catch_warnings(action="ignore"), torch.inference_mode():
            weights, graph = _compile_image(openvino, model, work)
            int8 = not exact and _compile_int8(openvino, graph, work)
            text = _compile_text(openvino, model, work)
            choice = _choose(work, model.settings, int8, roots, model)
            if "int8" not in choice.form:
                int8 = False
                for left in work.glob("image-int8.*"):
                    left.unlink()
    except errors.VisrecError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise  # no space
        raise _not_compiled(error) from error
    except Exception as error:  # whatever tracing an unusual model raises
        raise _not_compiled(error) from error
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
    choice.write(work)
    manifest.write(work)
    return manifest, choice


def measure(found: compiled.Compiled, roots: Sequence[str] = ()) -> compiled.Choice:
    """Returns which number format of a compiled form is the fastest here."""
    return _choose(found.folder, found.manifest.image, found.manifest.int8, roots, None)


def _not_compiled(error: Exception) -> errors.EncoderUnavailable:
    return errors.EncoderUnavailable(
        f"the model cannot be compiled: {type(error).__name__}: {error}", hint=WITHOUT
    )


def _put_in_place(work: Path, target: Path) -> None:
    """Moves the files, the manifest last: without it, a half-replaced form is never used."""
    target.mkdir(exist_ok=True)
    (target / compiled.MANIFEST).unlink(missing_ok=True)
    manifest = work / compiled.MANIFEST
    for file in sorted(work.iterdir(), key=lambda file: file == manifest):
        file.replace(target / file.name)  # a running encoder keeps what it has open


def _choose(
    folder: Path, settings: Any, int8: bool, roots: Sequence[str], model: Any
) -> compiled.Choice:
    """Returns the fastest form; ``model`` is what torch runs, or None: not tried."""
    core = openvino_encoder.import_openvino().Core()
    candidates = [
        _candidate(core, folder, form) for form in openvino_encoder.possible(core, int8=int8)
    ]
    if model is not None:
        gain = TORCH_FASTER
        candidates.append(
            measuring.Candidate(compiled.TORCH, model.encode_prepared, model.batch, gain)
        )
    pictures = samples.like_photographs(max(each.batch for each in candidates))
    return measuring.choose(
        candidates,
        np.stack([settings.prepare(picture) for picture in pictures]),
        lambda: samples.sets(roots, settings.prepare, settings.smallest),
    )


def _candidate(core: Any, folder: Path, form: str) -> measuring.Candidate:
    graph, precision = openvino_encoder.FORMS[form]
    request = openvino_encoder.compile_graph(core, folder / graph, precision)

    def run(batch: Any) -> NDArray[np.float32]:
        return np.array(request.infer({0: batch})[0])

    return measuring.Candidate(form, run, openvino_encoder.BATCH[form])


def _compile_image(openvino: Any, model: Any, work: Path) -> tuple[str, Any]:
    """Writes image.xml; the weights' type (f16, unless that shows in the vectors) and the graph."""
    import torch  # noqa: PLC0415

    height, width = model.settings.size
    graph = _convert(
        openvino, model, model.image_tower, {"pixel_values": torch.zeros(2, 3, height, width)}
    )
    graph = _with_bytes_as_input(openvino, graph, model.settings)
    pictures = [model.prepare(picture) for picture in samples.patches()]
    expected = model.encode_prepared(pictures)
    for weights in ("f16", "f32"):
        openvino.save_model(graph, work / compiled.IMAGE, compress_to_fp16=weights == "f16")
        run = _runner(openvino, work / compiled.IMAGE)
        batches = (pictures[:1], pictures[1:6], pictures[6:])
        ours = np.concatenate([run([np.stack(some)]) for some in batches])
        if quantizing.parity(ours, expected) >= PARITY:
            return weights, graph
    raise errors.EncoderUnavailable(
        "the model cannot be compiled: OpenVINO gives other vectors than torch", hint=WITHOUT
    )


def _compile_int8(openvino: Any, graph: Any, work: Path) -> bool:
    """Writes image-int8.xml, where there is anything to compute in 8-bit integers."""
    if not hardware.has_int8() or not quantizing.quantize(graph):
        return False
    openvino.save_model(graph, work / compiled.IMAGE_INT8, compress_to_fp16=False)
    return True


def _compile_text(openvino: Any, model: Any, work: Path) -> Text | None:
    """Writes text.xml; None where there are no texts, or where torch is needed for them."""
    import torch  # noqa: PLC0415

    if model.tokenizer() is None:
        return None
    text = _save_tokenizer(model, work)
    if text is None:
        return None
    example = model.tokenize(TEXTS)
    try:
        graph = _convert(openvino, model, model.text_tower, example)
        openvino.save_model(graph, work / compiled.TEXT, compress_to_fp16=True)
        run = _runner(openvino, work / compiled.TEXT)
        expected = model.encode_texts(TEXTS)
        tokenizer = openvino_encoder.load_tokenizer(work, text)
        alone = [run(list(openvino_encoder.tokens(tokenizer, [each]))) for each in TEXTS]
        together = run(list(openvino_encoder.tokens(tokenizer, TEXTS)))
        parities = [quantizing.parity(each, expected) for each in (np.concatenate(alone), together)]
        if min(parities) >= PARITY:
            return text
    except (RuntimeError, TypeError, torch.jit.TracingCheckError):  # what cannot be traced
        pass
    for file in (*work.glob("text.*"), work / compiled.TOKENIZER):
        file.unlink(missing_ok=True)
    return None


def _save_tokenizer(model: Any, work: Path) -> Text | None:
    """Writes tokenizer.json, if that file alone can do what the model's own tokenizer does.

    From the library's, which is the fast one also where the model has only its vocabulary and
    merges.
    """
    library = model.tokenizer()
    fast = getattr(library, "backend_tokenizer", None)
    if fast is None:
        return None
    fast.save(str(work / compiled.TOKENIZER))
    text = Text(
        max_length=int(getattr(model.model, "max_seq_length", None) or library.model_max_length),
        pad_id=int(library.pad_token_id or 0),
    )
    tokenizer = openvino_encoder.load_tokenizer(work, text)
    for texts in (TEXTS, TEXTS[:2], TEXTS[2:3]):
        ours, expected = openvino_encoder.tokens(tokenizer, texts), model.tokenize(texts)
        theirs = (expected["input_ids"].numpy(), expected["attention_mask"].numpy())
        if set(expected) - {"input_ids", "attention_mask"} or not all(
            map(np.array_equal, ours, theirs)
        ):
            (work / compiled.TOKENIZER).unlink()
            return None
    return text


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
    request = openvino_encoder.compile_graph(openvino.Core(), file, "f32")
    return lambda inputs: np.array(request.infer(inputs)[0])
