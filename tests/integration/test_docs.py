"""docs/functions.md: each of its examples is run, in the page's order."""

import re
from pathlib import Path

import psycopg
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "functions.md"
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^>]*) -->\n)?```sql\n(?P<sql>.*?)```(?:\n\n```text\n(?P<output>.*?)```)?",
    re.S,
)


@pytest.fixture
def page(db, pictures, paths, tiny_clip, shared):
    """What the page takes for granted: sample rows, a picture, a model with a text tower."""
    directory = shared / "models" / "docs"
    if not directory.exists():
        import shutil  # noqa: PLC0415

        shutil.copytree(tiny_clip, directory / "tiny-clip")
        for path in [directory, *directory.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    db.execute("SELECT visrec.set('model_directory', %s)", (str(directory),))
    db.execute("SELECT visrec.register_model('tiny-clip')")
    db.execute(
        "CREATE TABLE samples (id bigint, image_path text, title text, category text, price numeric)"
    )
    db.cursor().executemany(
        "INSERT INTO samples VALUES (%s, %s, %s, %s, %s)",
        [
            (number, path, f"Number {number}", path.split("/")[0], number)
            for number, path in enumerate(paths, start=1)
        ],
    )
    picture = (pictures / paths[0]).read_bytes()
    db.execute(
        psycopg.sql.SQL(
            "CREATE FUNCTION picture() RETURNS bytea LANGUAGE sql AS {}"
        ).format(psycopg.sql.Literal(f"SELECT '\\x{picture.hex()}'::bytea"))
    )
    return db


def statements(block):
    without_comments = re.sub(r"--[^\n]*", "", block)
    return [part.strip() for part in without_comments.split(";") if part.strip()]


def test_every_example_runs(page):
    blocks = list(BLOCK.finditer(PAGE.read_text()))
    assert len(blocks) > 15
    for block in blocks:
        mark = block["mark"] or ""
        rows = []
        for statement in statements(block["sql"]):
            if mark.startswith("fails: "):
                with pytest.raises(psycopg.errors.lookup(mark.removeprefix("fails: "))):
                    page.execute(statement)
                continue
            cursor = page.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
            asks_for_rows = re.match(r"SELECT .* FROM (?!visrec\.duplicates)", statement, re.S)
            assert rows or not asks_for_rows or "title" in statement, statement
        if block["output"]:
            shown = [" | ".join(str(value) for value in row) for row in rows]
            assert "\n".join(shown) == block["output"].strip()


def test_every_function_is_on_the_page(db):
    """What people may call; what begins with an underscore is visrec's own."""
    text = PAGE.read_text()
    names = db.execute(
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'visrec'::regnamespace"
        r" AND proname NOT LIKE '\_%'"
    ).fetchall()
    assert [name for (name,) in names if f"visrec.{name}(" not in text] == []
