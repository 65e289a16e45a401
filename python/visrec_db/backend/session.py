"""What the entry points share: statements, the settings' encoder, cancels, and errors as JSON.

Only this module and its callers talk to PostgreSQL (``plpy``). What goes wrong with an image or a
model goes back as JSON and SQL raises it, which alone gives clean messages with DETAIL and HINT.
"""

from __future__ import annotations

import json
from functools import wraps

from visrec_db import errors
from visrec_db.backend import client
from visrec_db.backend.in_process import InProcess, Model

MAX_PATH_BYTES = 4096
"""PATH_MAX: no longer path names a file."""

MAX_SHOWN_PATH = 500
"""Characters of an image's path kept in ``visrec.failure`` and in messages."""

TYPE_CHECKING = False
if TYPE_CHECKING:  # a new session imports this module: what only types need costs it nothing
    from collections.abc import Callable, Generator, Mapping, Sequence
    from typing import Any, Concatenate, ParamSpec, Protocol

    from visrec_db.results import Embedding

    class Plpy(Protocol):
        """What is used of PL/Python's module ``plpy``."""

        @property
        def spiexceptions(self) -> Any: ...
        def prepare(self, query: str, types: Sequence[str] = ..., /) -> Any: ...
        def execute(self, plan: Any, values: Sequence[Any] = ..., /) -> Any: ...
        def warning(self, message: str, /) -> Any: ...

    Embedder = client.Shared | InProcess
    Result = Embedding | errors.VisrecError
    Row = Mapping[str, Any]
    P = ParamSpec("P")


class Statement:
    """A statement of typed parameters, prepared once a session.

    Types are qualified, since the search_path may be anybody's.
    """

    def __init__(self, text: str, *types: str) -> None:
        self._text = text
        self._types = [f"pg_catalog.{name}" for name in types]
        self._plan: Any = None

    def run(self, plpy: Plpy, *values: Any) -> list[Row]:
        """Returns the rows."""
        if self._plan is None:
            self._plan = plpy.prepare(self._text, self._types)
        return list(plpy.execute(self._plan, list(values)))


NOTHING = Statement("SELECT 1")
TERMS = Statement("SELECT * FROM visrec._terms($1)", "text")
MODEL_TERMS = Statement("SELECT * FROM visrec._model_terms($1)", "text")
RECORD = Statement(
    "SELECT visrec._record_outcome($1, $2, $3, $4, $5)",
    *("int4", "text[]", "text[]", "text[]", "text[]"),
)

_tables: dict[str, Statement] = {}


def of_table(text: str, *types: str) -> Statement:
    """Returns a statement that SQL wrote for a table; its plan is kept for the session."""
    if text not in _tables:
        _tables[text] = Statement(text, *types)
    return _tables[text]


def entry_point(
    function: Callable[Concatenate[Plpy, P], Any],
) -> Callable[Concatenate[Plpy, P], str]:
    """Makes a function return JSON: what it returns, or the error or cancel that ended it."""

    @wraps(function)
    def call(plpy: Plpy, /, *values: P.args, **named: P.kwargs) -> str:
        try:
            return json.dumps(function(plpy, *values, **named))
        except errors.VisrecError as error:
            return json.dumps({"error": described(error)})
        except plpy.spiexceptions.QueryCanceled as error:  # SQL raises it again
            return json.dumps({"error": described(errors.Canceled(str(error)))})

    return call


def described(error: errors.VisrecError, path: str | None = None) -> dict[str, Any]:
    """Returns an error for SQL, with the image's path as messages show it."""
    return {**error.as_dict(), "image": shown(path)}


def shown(path: str | None) -> str | None:
    """Returns a path as messages show it; an image given as bytes has none."""
    if path is None or len(path) <= MAX_SHOWN_PATH:
        return path
    return path[: MAX_SHOWN_PATH - 1] + "…"


def checkpoint_of(plpy: Plpy) -> Callable[[], None]:
    """Returns a point where a cancel or statement_timeout takes effect (1.7 µs)."""

    def checkpoint() -> None:
        NOTHING.run(plpy)

    return checkpoint


def model_terms(plpy: Plpy, name: str) -> tuple[Model, dict[str, str]]:
    """Returns a model, which need not be registered, and the settings."""
    [terms] = MODEL_TERMS.run(plpy, name)
    model = Model(name, terms["directory"], terms["fingerprint"])
    return model, json.loads(terms["settings"])


def settings_of(plpy: Plpy) -> dict[str, str]:
    """Returns the settings."""
    return model_terms(plpy, "pixels")[1]


def registered(plpy: Plpy, name: str) -> tuple[Model, dict[str, str]]:
    """Returns a registered model and the settings; raises ``EncoderUnavailable`` without it."""
    model, settings = model_terms(plpy, name)
    if model.fingerprint is None:
        raise not_registered(name)
    return model, settings


def not_registered(name: str) -> errors.EncoderUnavailable:
    """Returns what is wrong with a model that only has a name."""
    quoted = name.replace("'", "''")
    return errors.EncoderUnavailable(
        f'model "{name}" is not registered',
        hint=f"An administrator can register it: SELECT visrec.register_model('{quoted}').",
    )


def connect(
    plpy: Plpy, model: Model | None, settings: dict[str, str], bulk: bool, run: object = None
) -> Embedder:
    """Returns the encoder that the administrator's settings choose, with one model."""
    checkpoint = checkpoint_of(plpy)
    if settings["encoder"] == "in_process":
        return InProcess(model, settings, checkpoint)
    try:
        client.give_back(client.take(checkpoint, settings["encoder_idle_seconds"], run, True))
    except errors.EncoderUnavailable as error:
        if settings["encoder"] == "shared":
            raise
        _warn_once(plpy, f"visrec embeds in this session itself: {error.message}")
        return InProcess(model, settings, checkpoint)
    return client.Shared(model, settings, checkpoint, bulk, run)


_warned: set[str] = set()


def _warn_once(plpy: Plpy, message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        plpy.warning(message)


# Images -----------------------------------------------------------------------------------


def image_of(row: Row, max_bytes: int) -> str | bytes | errors.ImageError:
    """Returns a row's image, or what is wrong with one that is not to be sent.

    A row's ``bytes`` are NULL where it has a path, or more bytes than ``max_bytes``.
    """
    if row["path"] is None:
        return row["bytes"] if row["bytes"] is not None else _too_large(row["size"], max_bytes)
    return checked_path(row["path"], row["size"])


def checked_path(path: str, size: int | None = None) -> str | errors.ImageError:
    """Returns a path of ``size`` bytes, or what is wrong with one that can name no file.

    ``size`` is that of the whole path, where ``path`` is its beginning.
    """
    if (size or len(path.encode(errors="surrogatepass"))) > MAX_PATH_BYTES:
        return errors.ImageMissing(f"the path is longer than {MAX_PATH_BYTES} bytes")
    if "\0" in path:
        return errors.ImageMissing("the path contains a zero byte")
    return path


def checked_bytes(image: bytes, max_bytes: int) -> bytes | errors.ImageError:
    """Returns an image, or what is wrong with one that is too large."""
    return image if len(image) <= max_bytes else _too_large(len(image), max_bytes)


def _too_large(size: int, max_bytes: int) -> errors.ImageTooLarge:
    return errors.ImageTooLarge(
        f"the image has {size} bytes, more than max_image_bytes = {max_bytes}"
    )


def with_errors(
    sources: Sequence[Any], ask: Callable[[list[Any]], Generator[list[Any]]]
) -> Generator[list[Any]]:
    """Yields slices of the results in the order of ``sources``, those of which that are errors too.

    ``ask`` is called for the others.
    """
    rest = iter(sources)

    def errors_before_next() -> list[Any]:
        found = []
        for source in rest:
            if not isinstance(source, errors.VisrecError):
                break
            found.append(source)
        return found

    answers = ask([s for s in sources if not isinstance(s, errors.VisrecError)])
    try:
        waiting = errors_before_next()
        for some in answers:
            results = []
            for result in some:
                results += [*waiting, result]
                waiting = errors_before_next()
            yield results
        if waiting:
            yield waiting
    finally:
        answers.close()
