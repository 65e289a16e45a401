"""What runs inside PostgreSQL imports little, and no import goes round in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "visrec_db"
ALLOWED = {"", "errors", "results", "backend", "service", "service.protocol"}
"""Of this package, beside the backend's own modules, what they may import when they are loaded."""


def modules() -> dict[str, ast.Module]:
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(("visrec_db", *parts)).removesuffix(".__init__")
        found[name] = ast.parse(file.read_text())
    return found


def imports(tree: ast.AST, known: set[str], inside: bool = False) -> Iterator[tuple[str, bool]]:
    """(module, whether only a function imports it); what only types need is left out."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.ImportFrom(module=str(module), names=names):
                for alias in names:
                    name = f"{module}.{alias.name}"
                    yield (name if name in known else module), inside
            case ast.Import(names=names):
                yield from ((alias.name, inside) for alias in names)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from imports(node, known, True)
            case _:
                yield from imports(node, known, inside)


@pytest.mark.parametrize("lazy", [False, True], ids=["modules", "modules and functions"])
def test_no_import_goes_round_in_a_circle(lazy: bool) -> None:
    trees = modules()
    graph = {
        name: {found for found, inside in imports(tree, set(trees)) if lazy or not inside}
        for name, tree in trees.items()
    }
    assert "visrec_db.service.scheduler" in graph["visrec_db.service.conversation"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {error.args[1]}")


def test_what_runs_in_a_backend_needs_the_standard_library_only() -> None:
    backend = [name for name in modules() if name.startswith("visrec_db.backend")]
    assert len(backend) > 5
    program = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
        f"for name in {backend!r}: __import__(name)\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    loaded = subprocess.check_output(command, text=True).split()
    names = {name.removeprefix("visrec_db").lstrip(".") for name in loaded if "visrec_db" in name}
    assert {name for name in names - ALLOWED if not name.startswith("backend.")} == set()
    others = {name.partition(".")[0] for name in loaded} - {"visrec_db", "__main__"}
    assert others <= sys.stdlib_module_names
    slow = {"typing", "pathlib", "subprocess", "dataclasses", "inspect", "asyncio"}
    assert others & slow == set(), "a new session would wait for these"
