"""What was measured against what was aimed at: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visrec_db.encoders import hardware


@dataclass(frozen=True)
class Figure:
    """A line of the table. ``samples`` are what ``value``, mostly their median, was found from."""

    what: str
    value: float
    bound: float
    at_most: bool
    unit: str
    samples: list[float]
    note: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def median(
    what: str, samples: list[float], bound: float, *, at_most: bool = False, unit: str = ""
) -> Figure:
    return Figure(what, statistics.median(samples), bound, at_most, unit, samples)


def machine() -> dict[str, Any]:
    """The processor, in what matters here."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "cpu": fields.get("model name", os.uname().machine),
        "cores": hardware.cpus(),
        "bf16": sorted(flags & {"amx_bf16", "avx512_bf16", "bf16"}),
    }


def busy(seconds: float = 1.0) -> float:
    """The share of all processors that is in use while this process sleeps."""
    before = _ticks()
    time.sleep(seconds)
    idle, total = (after - earlier for after, earlier in zip(_ticks(), before, strict=True))
    return 1 - idle / max(total, 1)


def _ticks() -> tuple[int, int]:
    """Idle (waiting for disks too) and all, since the start."""
    with Path("/proc/stat").open(encoding="ascii") as file:
        numbers = [int(word) for word in file.readline().split()[1:9]]
    return numbers[3] + numbers[4], sum(numbers)


def as_table(figures: list[Figure]) -> str:
    rows = [("what", "measured", "wanted", "")]
    for figure in figures:
        sign = "≤" if figure.at_most else "≥"
        what = figure.what + (f" ({figure.note})" if figure.note else "")
        rows.append(
            (
                what,
                f"{figure.value:.2f}{figure.unit}" if figure.unit else f"{figure.value:.4f}",
                f"{sign} {figure.bound:g}{figure.unit}",
                "met" if figure.met else "MISSED",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def as_json(figures: list[Figure], about: dict[str, Any]) -> str:
    lines = [{**asdict(figure), "met": figure.met} for figure in figures]
    return json.dumps({"about": about, "figures": lines}, indent=1) + "\n"
