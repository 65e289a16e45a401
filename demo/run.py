"""The demo: a table of pictures, and what similar_posts finds, as a contact sheet and a page.

Run by ``make demo``, with the variables of ``scripts/cluster.sh env demo`` in the environment.
"""

import argparse
import functools
import os
import sys
import time
from pathlib import Path

import psycopg
from PIL import Image
from psycopg import sql

import measuring
from choose_model import choose_model
from contact_sheet import TILE, draw_sheet
from examples import choose
from page import build_page
from picture_files import Connection, drawn, find_pictures, readable_by_server
from progress import bar, say
from text_table import as_text
from visrec_db import errors
from visrec_db.pictures.files import Policy
from visrec_db.pictures.images import open_picture

DATABASE = "visrec_demo"
ROWS = 7  # of the contact sheet
TABLES = 3  # of them as text, too
CHUNK = 100
SHEET, PAGE = "contact-sheet.png", "index.html"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", help="a directory of pictures; subfolders are categories")
    parser.add_argument("--model", help="pixels, clip-ViT-B-32, or a directory with a model")
    parser.add_argument("--output", type=Path, required=True, help="where sheet and page go")
    options = parser.parse_args()
    shared, kept = (Path(os.environ[f"VISREC_{name}_DIR"]) for name in ("SHARED", "KEPT"))
    pictures = Path(options.images).expanduser().resolve() if options.images else None
    if pictures and not pictures.is_dir():
        sys.exit(f"error: {pictures} is not a directory\n  fix: make demo IMAGES=DIRECTORY")
    try:
        with psycopg.connect(dbname="postgres", autocommit=True) as server:
            known = server.execute("SELECT datname FROM pg_database").fetchall()
            if (DATABASE,) not in known:
                server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        with psycopg.connect(dbname=DATABASE, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning")
            connection.add_notice_handler(lambda n: say(f"  {n.severity}: {n.message_primary}"))
            connection.execute("CREATE EXTENSION IF NOT EXISTS visrec CASCADE")
            root = readable_by_server(connection, pictures or drawn(shared / "drawn"), shared)
            model = choose_model(connection, options.model, shared, kept)
            fill(connection, root, model)
            show(connection, root, model, options.output)
    except psycopg.Error as error:
        hint = error.diag.message_hint or "make demo-stop, and make demo again"
        sys.exit(f"error: {error.diag.message_primary or error}\n  fix: {hint}")
    except KeyboardInterrupt:
        sys.exit("interrupted: make demo begins anew")


def fill(connection: Connection, root: Path, model: str) -> None:
    """Makes the table, attaches it, inserts a row for each picture; nothing if that is done."""
    wanted = find_pictures(root)
    rows = [
        (number, str(path), path.stem, None if path.parent == Path() else str(path.parent))
        for number, path in enumerate(wanted, 1)
    ]
    connection.execute(
        "CREATE TABLE IF NOT EXISTS posts (id bigint PRIMARY KEY, image_path text NOT NULL,"
        " title text, category text)"
    )
    before = connection.execute(
        "SELECT model, (SELECT value FROM visrec.setting WHERE name = 'image_roots')"
        " FROM visrec.attached WHERE relation = 'posts'::regclass"
    ).fetchone()
    there = connection.execute("SELECT id, image_path, title, category FROM posts ORDER BY id")
    if before == (model, str(root)) and there.fetchall() == rows:
        print(f"{len(rows)} rows with the model {model}: there from the last run")
        return
    connection.execute("SELECT visrec.set('image_roots', %s)", (str(root),))
    connection.execute("TRUNCATE posts")
    if before and before[0] != model:
        connection.execute("SELECT visrec.detach('posts', drop_vectors => true)")
    connection.execute(
        "SELECT visrec.attach('posts', model => %s, show_columns => '{category}')", (model,)
    )
    started = time.monotonic()
    what = f"inserting {len(rows)} rows with the model {model}: each has its vector at once"
    with bar(what, len(rows)) as shown:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            connection.execute(
                "INSERT INTO posts (id, image_path, title, category)"
                " SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[])",
                [list(column) for column in zip(*chunk, strict=True)],
            )
            shown.update(len(chunk))
    connection.execute("ANALYZE posts")
    print(f"  {len(rows) / (time.monotonic() - started):.0f} rows a second")
    failed = connection.execute(
        "SELECT code, count(*) FROM failures_posts() GROUP BY code ORDER BY code"
    ).fetchall()
    if failed:
        causes = ", ".join(f"{count} {code}" for code, count in failed)
        print(f"  without a vector: {causes} (failures_posts() says more)")


def show(connection: Connection, root: Path, model: str, output: Path) -> None:
    """Writes the contact sheet and the page, and prints the first of their examples."""
    measured = measuring.measure(connection)
    examples, rule = choose(measured, ROWS)
    if not examples:
        sys.exit("error: no two pictures have vectors\n  fix: name a folder with more pictures")
    figures = measuring.figures(connection, measured)
    for example in examples[:TABLES]:
        print(as_text(example))
    print()
    print(*figures, sep="\n")

    title = "The five most similar, found by similar_posts"
    about = f"{measuring.embedded(connection):,} pictures, model {model}. {figures[0]}"
    policy = Policy((str(root),), max_bytes=1 << 26, max_pixels=100_000_000)
    output.mkdir(parents=True, exist_ok=True)
    sheet = draw_sheet(examples, functools.partial(thumbnail, policy), title, about, rule)
    sheet.save(output / SHEET)
    page = build_page(examples, SHEET, title, about, rule)
    (output / PAGE).write_text(page, encoding="utf-8")
    print("\nLook at it:")
    print(f"  picture  {output / SHEET}")
    print(f"  page     {(output / PAGE).resolve().as_uri()}")
    print("Ask it yourself (`make demo-stop` ends it):")
    print(f"  {psql()}")


def thumbnail(policy: Policy, path: str) -> Image.Image | None:
    """A picture as the server sees it: upright, on white."""
    try:
        return open_picture(path, policy, TILE)
    except errors.ImageError:
        return None


def psql() -> str:
    """The command that connects to the demo's database."""
    host, port, user, file = (
        os.environ[f"PG{name}"] for name in ("HOST", "PORT", "USER", "PASSFILE")
    )
    return f"PGPASSFILE={file} psql -h {host} -p {port} -U {user} {DATABASE}"


if __name__ == "__main__":
    main()
