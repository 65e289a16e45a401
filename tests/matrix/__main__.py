"""Clean Debian trees, and in each what README says: ``make matrix``.

A line for each step, and a table of them at the end. What a step said is in the tree's log.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.matrix import steps
from tests.matrix.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable

# name: Debian's release, what is there beforehand, the steps.
TREES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "12": ("bookworm", (), ("demo", "venv", "test", "test-no-bf16", "test-no-vnni")),
    "12-server": (
        "bookworm",
        ("postgresql-15", "libpq-dev"),
        ("serve", "deps", "install", "demo", "test", "uninstall"),
    ),
    "13": ("trixie", (), ("demo", "venv", "test")),
    "forky": ("forky", (), ("demo", "venv", "test")),
    "container": ("bookworm", (), ("image", "container")),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument(
        "trees", nargs="*", metavar="TREE", help=f"of {', '.join(TREES)}; default: all"
    )
    parser.add_argument("--steps", help="only these, by commas")
    parser.add_argument("--tests", default="", help="for make test, as TESTS")
    parser.add_argument("--torch", default="", help="for make, as TORCH")
    parser.add_argument("--keep", action="store_true", help="go on with trees that are there")
    parser.add_argument(
        "--share", action="store_true", help="one cache for all; nothing is said of sizes"
    )
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp/visrec-matrix"))
    options = parser.parse_args()
    if unknown := set(options.trees) - set(TREES):
        parser.error(f"no such tree: {', '.join(unknown)}; there are {', '.join(TREES)}")

    table: list[tuple[str, ...]] = []
    for name in options.trees or TREES:
        suite, packages, its_steps = TREES[name]
        tree = Tree(
            options.directory / name,
            suite,
            packages,
            options.directory / "cache" if options.share else None,
            {
                "PIP_LOG": "/var/log/pip.log",
                "MATRIX_TORCH": options.torch,
                "MATRIX_TESTS": options.tests,
            },
        )
        chosen = [
            step for step in its_steps if not options.steps or step in options.steps.split(",")
        ]
        table += run_tree(name, tree, chosen, keep=options.keep)
    show(table)
    return int(any(row[2] == "FAILED" for row in table))


def run_tree(name: str, tree: Tree, chosen: list[str], *, keep: bool) -> list[tuple[str, ...]]:
    """Runs the steps in order; after one that failed the others are still tried."""
    if keep and tree.root.exists():
        tree.copy_repository()
        tree.enter()
    else:
        timed(name, tree, "tree", lambda _: tree.make())
    before = tree.size()
    rows = [timed(name, tree, step, steps.STEPS[step], before) for step in chosen]
    if not keep:
        tree.run("scripts/cluster.sh stop demo --remove")
    return rows


def timed(
    name: str, tree: Tree, step: str, run: Callable[[Tree], None], before: int | None = None
) -> tuple[str, ...]:
    started = time.monotonic()
    try:
        run(tree)
        outcome = "ok"
    except steps.Same:
        outcome = "as test"  # this processor has no such units
    except (steps.Failed, AssertionError, subprocess.CalledProcessError) as error:
        outcome = "FAILED"
        print(f"{name} {step}: {error} (see {tree.log})", file=sys.stderr)
    seconds = f"{time.monotonic() - started:.0f} s"
    sizes = ("", "")
    if before is not None:
        fetched = tree.fetched()
        sizes = (
            f"{fetched / 1e6:.0f} MB" if fetched else "",
            f"{(tree.size() - before) / 1e6:.0f} MB",
        )
    row = (name, step, outcome, seconds, *sizes)
    print(" ".join(row), flush=True)
    return row


def show(table: list[tuple[str, ...]]) -> None:
    heads = ("tree", "step", "", "took", "fetched", "on disk")
    widths = [max(len(row[column]) for row in (heads, *table)) for column in range(len(heads))]
    for row in (heads, tuple("-" * width for width in widths), *table):
        print(
            "| "
            + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            + " |"
        )


if __name__ == "__main__":
    sys.exit(main())
