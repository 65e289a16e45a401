"""docs/functions.md: every ```sql block runs, in order, in one database, and says what it says."""

import re
import shutil
from dataclasses import dataclass

import psycopg
import pytest

from tests.conftest import REPOSITORY

from .conftest import coverage

PAGE = REPOSITORY / "docs" / "functions.md"
README = REPOSITORY / "README.md"

BLOCK = re.compile(r"((?:<!-- [^\n]* -->\n+)*)```(sql|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STATEMENT = re.compile(r".*?;[ \t]*(?:--[^\n]*)?\n", re.DOTALL)
SAID = re.compile(r"(NOTICE|WARNING|ERROR|DETAIL|HINT):  ")


@dataclass
class Example:
    """A ```sql block: its place in the page, its statements, and the output that is stated."""

    line: int
    statements: list[str]
    needs_text_tower: bool
    fails: str | None
    output: str | None = None
    varies: bool = False


def examples(page):
    """The page's examples. A ```text block belongs to the ```sql block before it."""
    found = []
    for block in BLOCK.finditer(page):
        marks, language, body = block.groups()
        if language == "text":
            found[-1].output, found[-1].varies = body, "<!-- varies -->" in marks
            continue
        statements = STATEMENT.findall(body)
        line = page[: block.start(3)].count("\n") + 1
        assert "".join(statements) == body, f"line {line}: a statement without its semicolon"
        fails = re.search(r"<!-- fails: (\w{5}) -->", marks)
        found.append(
            Example(
                line, statements, "<!-- needs a text tower -->" in marks, fails and fails.group(1)
            )
        )
    return found


def run(connection, example, heard):
    """Run an example; the cells of its last statement's table, names first, and what was said."""
    heard.clear()
    table = []
    for number, statement in enumerate(example.statements, 1):
        try:
            cursor = connection.execute(statement)
        except psycopg.Error as error:
            if number < len(example.statements) or example.fails != error.sqlstate:
                pytest.fail(f"docs/functions.md, line {example.line}: {error}")
            heard += said("ERROR", error.diag)
            return [], heard
        if cursor.description:
            result = cursor.pgresult
            names = [column.name for column in cursor.description]
            values = [
                [
                    (result.get_value(row, column) or b"").decode()
                    for column in range(result.nfields)
                ]
                for row in range(result.ntuples)
            ]
            table = [names, *values]
    assert example.fails is None, f"line {example.line}: does not fail with {example.fails}"
    return table, heard


def said(severity, diagnostic):
    """A message's lines as psql shows them."""
    parts = {
        severity: diagnostic.message_primary,
        "DETAIL": diagnostic.message_detail,
        "HINT": diagnostic.message_hint,
    }
    return [f"{name}:  {text}" for name, text in parts.items() if text]


def cells(output):
    """The cells of a table as psql shows it."""
    lines = [line for line in output.splitlines() if line.strip() and not SAID.match(line)]
    return [
        [cell.strip() for cell in line.split("|")]
        for line in lines
        if not re.fullmatch(r"[-+]+", line)
    ]


def as_psql(table):
    """A table as psql shows it, for a page that must be brought up to date."""
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    rows = [
        " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table
    ]
    rules = "-+-".join("-" * width for width in widths)
    return "\n".join([f" {rows[0]}", f"-{rules}-", *(f" {row}" for row in rows[1:])])


def differs(example, table, heard, pictures):
    """What the page says that is not so; None where all of it is."""
    heard = [line.replace(str(pictures), "/var/lib/visrec/images") for line in heard]
    if example.output is None:
        return None
    stated = cells(example.output)
    messages = [line for line in example.output.splitlines() if SAID.match(line)]
    if example.varies:
        agree = stated[:1] == table[:1] and len(stated) == len(table)
    else:
        agree = stated == table and all(line in heard for line in messages)
    if agree:
        return None
    real = "\n".join([*heard, *([as_psql(table)] if table else [])])
    return f"docs/functions.md, line {example.line}, gives:\n{real}"


@pytest.fixture
def reader(postgresql, pictures, shared, tiny_clip):
    """What a reader of the page has: drawn pictures, and a model that is fetched."""
    from visrec_db.models import compiling  # noqa: PLC0415 - imports torch

    postgresql.autocommit = True
    models = shared / "models-of-docs"
    # A small CLIP stands for the one that the page names.
    shutil.copytree(tiny_clip, models / "clip-ViT-B-32", dirs_exist_ok=True)
    compiling.compile_model(models / "clip-ViT-B-32")  # as pull leaves it
    for path in [models, *models.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    for name, value in (("image_roots", pictures), ("model_directory", models)):
        postgresql.execute("SELECT visrec.set(%s, %s)", (name, str(value)))
    yield postgresql
    postgresql.execute("RESET ALL")
    if postgresql.execute("SELECT 1 FROM pg_roles WHERE rolname = 'shop'").fetchone():
        postgresql.execute("DROP OWNED BY shop")
        postgresql.execute("DROP ROLE shop")
    shutil.rmtree(models)


def test_every_example_runs(reader, pictures):
    heard = []

    reader.add_notice_handler(lambda notice: heard.extend(said(notice.severity, notice)))
    found = examples(PAGE.read_text())
    assert len(found) > 40
    wrong = [differs(example, *run(reader, example, heard), pictures) for example in found]
    assert not any(wrong), "\n\n".join(filter(None, wrong))


def test_the_readme_runs(reader, pictures):
    """Its statements, with a picture where it names one."""
    reader.execute("CREATE ROLE shop")
    [example] = examples(README.read_text())
    picture = min(pictures.glob("*/*.jpg")).relative_to(pictures)
    for statement in example.statements:
        if not statement.startswith("CREATE EXTENSION"):
            there = statement.replace("/srv/images", str(pictures))
            reader.execute(there.replace("shoes/red.jpg", str(picture)))
    assert coverage(reader) == {"embedded": 1}


def test_every_public_function_has_an_example(reader):
    """Also what attach makes for a table."""
    reader.execute("CREATE TABLE posts (id bigint PRIMARY KEY, image_path text)")
    reader.execute("SELECT visrec.attach('posts', model => 'pixels')")
    rows = reader.execute(
        "SELECT DISTINCT CASE n.nspname WHEN 'visrec' THEN 'visrec.' ELSE '' END || p.proname"
        " FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace"
        " WHERE (n.nspname = 'visrec' OR p.proname LIKE '%\\_posts%')"
        " AND p.proname !~ '^(_|visrec_)'"
    ).fetchall()
    used = " ".join(s for example in examples(PAGE.read_text()) for s in example.statements)
    missing = {name for (name,) in rows if f"{name}(" not in used}
    assert not missing
