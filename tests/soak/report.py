"""What was tried and what was lost: the table at the end, and the lines below it."""

from __future__ import annotations

from dataclasses import dataclass, field

SHOWN = 12
"""Losses of one line that are printed."""


@dataclass
class Line:
    """A line of the table. ``lost`` says of each loss what it is."""

    what: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def survived(self) -> int:
        return max(self.tried - len(self.lost), 0)


def as_table(lines: list[Line]) -> str:
    rows = [("what", "tried", "survived", "lost")]
    for line in lines:
        what = line.what + (f" ({line.note})" if line.note else "")
        tried = f"{line.tried:,}" if line.tried or line.lost else "not tried"
        rows.append((what, tried, f"{line.survived:,}", f"{len(line.lost):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    text = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])


def losses(lines: list[Line]) -> list[str]:
    """What was lost, the first of each line."""
    told = []
    for line in lines:
        told += [f"{line.what}: {lost}" for lost in line.lost[:SHOWN]]
        if len(line.lost) > SHOWN:
            told.append(f"{line.what}: … and {len(line.lost) - SHOWN} more")
    return told
