"""The steps of a Dockerfile, done in copies of a tree, as `docker build` would do them."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.matrix import host
from tests.matrix.tree import REPOSITORY, Tree


@dataclass
class Stage:
    """A stage so far: its files in a tree, its variables and where it is."""

    tree: Tree
    variables: dict[str, str]
    directory: str = "/"
    healthcheck: str = field(default="")


def build(base: Tree, variables: dict[str, str], arguments: dict[str, str]) -> Stage:
    """Follows Dockerfile.postgres from ``base``, an image with these ``variables``; the last stage.

    ``arguments``: those of --build-arg.
    """
    stages: dict[str, Stage] = {}
    for number, (word, rest) in enumerate(instructions(REPOSITORY / "Dockerfile.postgres")):
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            start = stages[source] if source in stages else Stage(base, variables)
            stage = Stage(copy(start.tree, name or "image"), dict(start.variables))
            stages[name] = stage
        elif not stages:
            assert word == "ARG", f"{word} before FROM"
        elif word == "ARG":
            key, _, value = rest.partition("=")
            stage.variables[key] = arguments.get(key, value)
        elif word == "WORKDIR":
            stage.directory = rest
            stage.tree.run(f"mkdir -p {rest}")
        elif word == "RUN":
            status = stage.tree.run(f"cd {stage.directory} && {rest}", **stage.variables)
            assert status == 0, f"RUN, instruction {number}: see {stage.tree.log}"
        elif word == "COPY":
            _copy_files(stage, stages, shlex.split(rest))
        elif word == "HEALTHCHECK":
            stage.healthcheck = rest.partition("CMD ")[2]
        else:
            raise AssertionError(f"{word} is not imitated")
    return stage


def instructions(file: Path) -> list[tuple[str, str]]:
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (word, rest) for line in text.splitlines() if line for word, rest in [line.split(" ", 1)]
    ]


def copy(tree: Tree, name: str) -> Tree:
    """Another tree with the same files; what is mounted in the first is not copied but mounted."""
    root = tree.root.with_name(f"{tree.root.name.partition('.')[0]}.{name}")
    subprocess.run(["rm", "-rf", "--one-file-system", root], check=True)
    root.mkdir()
    mounted = [
        f"--exclude=.{directory}/*" for directory in (*host.directories(), "/dev", "/proc", "/sys")
    ]
    archive = ["tar", "--numeric-owner", "-C", tree.root, *mounted, "-cf", "-", "."]
    with subprocess.Popen(archive, stdout=subprocess.PIPE) as packing:
        subprocess.run(["tar", "-C", root, "-xpf", "-"], stdin=packing.stdout, check=True)
    copied = Tree(root, tree.suite, cache=tree.cache, settings=tree.settings)
    copied.log.write_bytes(b"")
    copied.enter()
    return copied


def _copy_files(stage: Stage, stages: dict[str, Stage], words: list[str]) -> None:
    to = stage.tree.root / (Path(stage.directory) / words[-1]).relative_to("/")
    for word in words[:-1]:
        if word.startswith("--from="):
            origin = stages[word.removeprefix("--from=")].tree.root
            continue
        if not words[0].startswith("--from="):
            files = _context(word)
            for file in files:
                inside = word == "." or (REPOSITORY / word).is_dir()
                place = to / file.relative_to(word) if inside else to
                place.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-p", REPOSITORY / file, place], check=True)
            continue
        source = origin / word.lstrip("/")
        to.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", f"{source}/.", to], check=True)


def _context(word: str) -> list[Path]:
    """The repository's files under a name, but for those that .dockerignore leaves out."""
    rules = (REPOSITORY / ".dockerignore").read_text().split()
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", word],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    files = [Path(name) for name in listed]
    found = [
        file for file in files
        if any(file.is_relative_to(rule) for rule in kept) and (REPOSITORY / file).is_file()
    ]  # fmt: skip
    assert found, f"COPY {word}: nothing that .dockerignore leaves"
    return found
