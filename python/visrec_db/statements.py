"""What is asked of PostgreSQL: the statements, prepared once a session.

``%(name)s`` stands for a quoted name or an expression that ``visrec._names`` gives; values are
parameters. In all of them ``t`` is the attached table.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # a new session imports this module: what only types need costs it nothing
    from collections.abc import Mapping, Sequence
    from typing import Any, Protocol

    class Plpy(Protocol):
        """What is used of PL/Python's module ``plpy``."""

        def prepare(self, query: str, types: Sequence[str] = ..., /) -> Any: ...
        def execute(self, plan: Any, values: Sequence[Any] = ..., /) -> Any: ...
        def warning(self, message: str, /) -> Any: ...


_plans: dict[str, Any] = {}


class Statement:
    """A statement and the types of its parameters; ``%(name)s`` stands for a quoted name."""

    def __init__(self, types: Sequence[str], text: str) -> None:
        self.types = types
        self.text = text

    def run(
        self, plpy: Plpy, *values: Any, names: Mapping[str, str] | None = None
    ) -> Sequence[Mapping[str, Any]]:
        """The rows; the plan is kept for the session, and there are a few for each table."""
        text = self.text % names if names else self.text
        if text not in _plans:
            _plans[text] = plpy.prepare(text, list(self.types))
        rows: Sequence[Mapping[str, Any]] = plpy.execute(_plans[text], list(values))
        return rows


MODEL = Statement(
    ("text",), "SELECT name, directory, fingerprint FROM visrec.model WHERE name = $1"
)

SETTINGS = Statement((), "SELECT name, value FROM visrec.setting")

NOTHING = Statement((), "SELECT 1")

NAMES = Statement(("oid", "jsonb"), "SELECT * FROM visrec._names($1, $2)")

READ = Statement(
    ("text[]",),
    """
SELECT %(key_text)s AS id, t.%(image)s AS image, false AS stale
FROM %(table)s AS t
WHERE t.%(key)s %(equals)s ANY (($1)::%(key_type)s[]) AND t.%(vector)s IS NULL
""",
)

READ_AND_LOCK = Statement(READ.types, READ.text + "FOR NO KEY UPDATE SKIP LOCKED")

READ_IMAGES = Statement(
    ("text[]",),
    """
SELECT %(key_text)s AS id, t.%(image)s AS image
FROM %(table)s AS t
WHERE t.%(key)s %(equals)s ANY (($1)::%(key_type)s[]) AND t.%(image)s IS NOT NULL
""",
)

READ_FIRST = Statement(
    ("int",),
    """
SELECT %(key_text)s AS id, t.%(image)s AS image, t.%(vector)s IS NOT NULL AS stale
FROM %(table)s AS t
WHERE %(unembedded)s AND t.%(image)s IS NOT NULL
ORDER BY t.%(key)s LIMIT $1
FOR NO KEY UPDATE SKIP LOCKED
""",
)

READ_NEXT = Statement(
    ("text", "int"),
    """
SELECT %(key_text)s AS id, t.%(image)s AS image, t.%(vector)s IS NOT NULL AS stale
FROM %(table)s AS t
WHERE %(unembedded)s AND t.%(image)s IS NOT NULL
  AND t.%(key)s %(greater)s ($1)::%(key_type)s
ORDER BY t.%(key)s LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED
""",
)

STORE = Statement(
    ("text[]", "text[]"),
    """
UPDATE %(table)s AS t SET %(vector)s = new.embedding::%(vector_type)s%(set_source)s
FROM unnest($1, $2) AS new (id, embedding)
WHERE t.%(key)s %(equals)s new.id::%(key_type)s AND t.%(vector)s IS NULL
""",
)

TAKE_VECTORS_AWAY = Statement(
    ("text[]",),
    """
UPDATE %(table)s AS t SET %(vector)s = NULL%(no_source)s
WHERE t.%(key)s %(equals)s ANY (($1)::%(key_type)s[])
""",
)

FORGET_FAILURES = Statement(
    ("oid", "text[]"),
    """
DELETE FROM visrec.failure AS f
WHERE f.relation = ($1)::regclass AND f.row_id = ANY ($2)
""",
)

RECORD_FAILURES = Statement(
    ("oid", "text[]", "text[]", "text[]", "text[]"),
    """
INSERT INTO visrec.failure AS f (relation, row_id, image, code, message)
SELECT ($1)::regclass, bad.*
FROM unnest($2, $3, $4, $5) AS bad
ON CONFLICT (relation, row_id) DO UPDATE
SET image = excluded.image, code = excluded.code, message = excluded.message,
    attempts = f.attempts + 1, last_try = excluded.last_try
""",
)
