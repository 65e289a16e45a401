"""The demo: a table of pictures, and for three of them what similar_posts says.

Run by ``make demo``, with the PG* variables of the demo's own cluster in the environment.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psycopg
from psycopg import sql

import draw_pictures

DATABASE = "visrec_demo"
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
CLIP = "clip-ViT-B-32"
LARGEST_COPY = 5 << 30
CHUNK = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", type=Path, help="pictures; subfolders are categories")
    parser.add_argument("--model", help="pixels, clip-ViT-B-32, or a directory with a model")
    options = parser.parse_args()

    shared = Path(os.environ["VISREC_DEMO_IMAGES_DIR"])
    pictures = options.images.resolve() if options.images else shared / "drawn"
    if not options.images:
        draw_pictures.draw_all(pictures)
    elif not pictures.is_dir():
        sys.exit(f"error: {pictures} is not a directory\n  fix: make demo IMAGES=DIRECTORY")
    with psycopg.connect(dbname="postgres", autocommit=True) as server:
        known = server.execute("SELECT datname FROM pg_database").fetchall()
        if (DATABASE,) not in known:
            server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    with psycopg.connect(dbname=DATABASE, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.add_notice_handler(lambda notice: print(f"  {notice.severity}: {notice}"))
        connection.execute("CREATE EXTENSION IF NOT EXISTS visrec CASCADE")
        root = readable_by_server(connection, pictures, shared)
        connection.execute("SELECT visrec.set('image_roots', %s)", (str(root),))
        model = choose_model(connection, options.model, shared)
        fill(connection, root, model)
        show(connection)
        how_alike(connection)
    print_connection()


def readable_by_server(
    connection: psycopg.Connection[tuple[object, ...]], pictures: Path, shared: Path
) -> Path:
    """The pictures' directory, or a copy of it where the server's user cannot read it."""
    first = next(iter(find_pictures(pictures)), None)
    if first is None:
        sys.exit(f"error: no pictures in {pictures}\n  fix: name a folder with JPEG or PNG files")
    try:
        connection.execute("SELECT pg_read_binary_file(%s, 0, 1)", (str(pictures / first),))
    except psycopg.Error:
        size = sum((pictures / path).stat().st_size for path in find_pictures(pictures))
        if size > LARGEST_COPY:
            sys.exit(
                f"error: PostgreSQL's user cannot read {pictures}, and it is too large to copy\n"
                f"  fix: chmod -R a+rX {pictures} and make the directories above it enterable"
            )
        copy = shared / "copied"
        print(f"PostgreSQL's user cannot read {pictures}: copying {size >> 20} MB to {copy}")
        shutil.rmtree(copy, ignore_errors=True)
        for path in find_pictures(pictures):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pictures / path, copy / path)
        return copy
    return pictures


def find_pictures(directory: Path) -> list[Path]:
    """Pictures in a directory and the folders in it, relative to it, in a stable order."""
    found = [*directory.glob("*"), *directory.glob("*/*")]
    return sorted(path.relative_to(directory) for path in found if path.suffix.lower() in PICTURES)


def choose_model(
    connection: psycopg.Connection[tuple[object, ...]], wanted: str | None, shared: Path
) -> str:
    """CLIP where it is on this machine or can be fetched, else pixels; or what was asked for."""
    if wanted and Path(wanted).is_dir():
        directory = Path(wanted).resolve()
        name = directory.name
        try:
            register(connection, name, directory)
        except psycopg.Error:  # perhaps not readable for the server's user
            copy = shared / "models" / name
            shutil.copytree(directory, copy, dirs_exist_ok=True)
            register(connection, name, copy)
        return name
    if wanted == "pixels":
        return wanted
    name = wanted or CLIP
    for models in (Path("/var/lib/visrec/models"), shared / "models"):
        if (models / name).is_dir():
            register(connection, name, models / name)
            return name
    if pull(name, shared / "models"):
        register(connection, name, shared / "models" / name)
        return name
    if wanted:
        sys.exit(f"error: the model {name} is not here and cannot be fetched")
    print(f"{CLIP} is not on this machine and cannot be fetched, so the model is `pixels`:")
    print("  it compares colours and shapes, and knows nothing of what the pictures mean.")
    return "pixels"


def register(
    connection: psycopg.Connection[tuple[object, ...]], name: str, directory: Path
) -> None:
    connection.execute("SELECT visrec.register_model(%s, %s)", (name, str(directory)))


def pull(name: str, models: Path) -> bool:
    print(f"fetching {name} (some 600 MB, once) ...", flush=True)
    command = ["visrec", "model", "pull", name, "--directory", str(models)]
    patience = {"HF_HUB_ETAG_TIMEOUT": "10", "HF_HUB_DOWNLOAD_TIMEOUT": "20"}
    try:
        done = subprocess.run(command, env=os.environ | patience, check=False)  # noqa: S603
    except OSError as error:
        print(f"  {error}")
        return False
    return done.returncode == 0


def fill(connection: psycopg.Connection[tuple[object, ...]], root: Path, model: str) -> None:
    """Make the table, attach it, insert a row for each picture; nothing if that is done."""
    wanted = [str(path) for path in find_pictures(root)]
    connection.execute(
        "CREATE TABLE IF NOT EXISTS posts (id bigint PRIMARY KEY, image_path text NOT NULL,"
        " title text, category text)"
    )
    rows = connection.execute("SELECT image_path FROM posts ORDER BY id").fetchall()
    attached = connection.execute(
        "SELECT model FROM visrec.attached WHERE relation = 'posts'::regclass"
    ).fetchone()
    if attached == (model,) and rows == [(path,) for path in wanted]:
        print(f"{len(rows)} rows with the model {model}: there from the last run")
        return
    connection.execute("TRUNCATE posts")
    if attached and attached != (model,):
        connection.execute("SELECT visrec.detach('posts', drop_vectors => true)")
    connection.execute(
        "SELECT visrec.attach('posts', model => %s, show_columns => '{category}')", (model,)
    )
    print(f"inserting {len(wanted)} rows with the model {model}: each has its vector at once")
    started = time.monotonic()
    for start in range(0, len(wanted), CHUNK):
        paths = wanted[start : start + CHUNK]
        connection.execute(
            "INSERT INTO posts (id, image_path, title, category)"
            " SELECT %s + n, path, regexp_replace(path, '^.*/|[.][^.]*$', '', 'g'),"
            " nullif(substring(path FROM '^(.*)/'), '')"
            " FROM unnest(%s::text[]) WITH ORDINALITY AS p (path, n)",
            (start, paths),
        )
        done, seconds = start + len(paths), time.monotonic() - started
        print(f"\r  {done} rows, {done / seconds:.0f} a second ", end="", flush=True)
    connection.execute("ANALYZE posts")
    print()
    for state, count in connection.execute("SELECT * FROM visrec.coverage('posts')"):
        print(f"  {state:9} {count}")


def show(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Three posts of different categories, and the five that look most like each."""
    examples = connection.execute(
        "SELECT id, image_path FROM ("
        "  SELECT DISTINCT ON (category) id, image_path, category FROM posts"
        "  WHERE content_vector IS NOT NULL ORDER BY category, md5(id::text)) AS one_each"
        " ORDER BY md5(category) LIMIT 3"
    ).fetchall()
    for key, image in examples:
        started = time.perf_counter()
        rows = connection.execute("SELECT * FROM similar_posts(%s, 5)", (key,)).fetchall()
        milliseconds = (time.perf_counter() - started) * 1000
        print(f"\nSELECT * FROM similar_posts({key}, 5);    -- {image}")
        print_table(["id", "similarity", "image_path", "category"], rows)
        print(f"({len(rows)} rows, {milliseconds:.1f} ms)")


def print_table(header: list[str], rows: list[tuple[object, ...]]) -> None:
    lines = [header] + [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in r] for r in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        print(" " + " | ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)))
        if number == 0:
            print("-" + "-+-".join("-" * width for width in widths) + "-")


def how_alike(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """How often the five most similar posts share the post's category, over all posts."""
    (shared, chance) = connection.execute(
        "SELECT avg((o.category = p.category)::int)::float,"
        " (SELECT sum(n * (n - 1)) / (sum(n) * (sum(n) - 1)) FROM"
        "  (SELECT count(*) AS n FROM posts GROUP BY category) AS c)::float"
        " FROM posts AS p, similar_posts(p.id, 5) AS s JOIN posts AS o ON o.id = s.id"
        " WHERE p.content_vector IS NOT NULL"
    ).fetchone() or (None, None)
    times = []
    for (key,) in connection.execute(
        "SELECT id FROM posts WHERE content_vector IS NOT NULL ORDER BY md5(id::text) LIMIT 100"
    ).fetchall():
        started = time.perf_counter()
        connection.execute("SELECT * FROM similar_posts(%s, 5)", (key,)).fetchall()
        times.append((time.perf_counter() - started) * 1000)
    print()
    if isinstance(shared, float) and isinstance(chance, float):
        print(f"Of the five most similar posts, the share of the same category: {shared:.3f}")
        print(f"  (precision@5 over all posts; by chance it would be {chance:.3f})")
    if times:
        print(f"One call of similar_posts: {statistics.median(times):.1f} ms (median of 100)")


def print_connection() -> None:
    environment = {name: os.environ[name] for name in ("PGPASSFILE",) if name in os.environ}
    prefix = "".join(f"{name}={value} " for name, value in environment.items())
    host, port, user = (os.environ[name] for name in ("PGHOST", "PGPORT", "PGUSER"))
    print("\nAsk it yourself (`make demo-stop` ends it):")
    print(f"  {prefix}psql -h {host} -p {port} -U {user} {DATABASE}")


if __name__ == "__main__":
    main()
