"""What similar_posts finds for the posts of the demo, and how good and how fast that is."""

import statistics
import time

import examples
from examples import Example, Neighbour, Post
from picture_files import Connection
from progress import bar

MOST = 3000  # posts that are measured: of more, these by chance
CHUNK = 50
TIMED = 100


def measure(connection: Connection) -> list[Example]:
    """The five most similar for each post that has a vector, or for MOST of them."""
    found = connection.execute(
        "SELECT id, image_path, category FROM posts WHERE content_vector IS NOT NULL"
        " ORDER BY md5(id::text) LIMIT %s",
        (MOST,),
    ).fetchall()
    posts = {row[0]: Post(*row) for row in found}
    keys = list(posts)
    neighbours: dict[int, list[Neighbour]] = {key: [] for key in posts}
    with bar(f"asking similar_posts for {len(keys)} posts", len(keys)) as shown:
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            for query, *neighbour in connection.execute(
                "SELECT query, s.id, s.image_path, s.category, s.similarity"
                " FROM unnest(%s::bigint[]) AS query, similar_posts(query, 5) AS s"
                " ORDER BY query, s.similarity DESC, s.id",
                (chunk,),
            ):
                neighbours[query].append(Neighbour(*neighbour))
            shown.update(len(chunk))
    return [Example(posts[key], tuple(found)) for key, found in neighbours.items() if found]


def embedded(connection: Connection) -> int:
    """How many posts have a vector."""
    query = "SELECT count(*) FROM posts WHERE content_vector IS NOT NULL"
    (count,) = connection.execute(query).fetchone() or (0,)
    return int(count)


def figures(connection: Connection, measured: list[Example]) -> list[str]:
    """Sentences: how often neighbours are of the query's category, and how long a call takes."""
    said = []
    if len(examples.by_category(measured)) > 1:
        precision = examples.mean_precision(measured)
        said.append(
            f"Of the five most similar, the share of the query's category is {precision:.3f}"
            f" (precision@5 over {len(measured):,} posts; by chance {chance(connection):.3f})."
        )
    times = [seconds(connection, example.query.key) for example in measured[:TIMED]]
    said.append(
        f"One call takes {statistics.median(times) * 1000:.1f} ms (median of {len(times)})."
    )
    return said


def chance(connection: Connection) -> float:
    """The precision of neighbours drawn at random."""
    row = connection.execute(
        "SELECT (sum(n * (n - 1)) / (sum(n) * (max(everyone) - 1)))::float FROM"
        " (SELECT count(*) AS n, (SELECT count(*) FROM posts WHERE content_vector IS NOT NULL)"
        "  AS everyone, category FROM posts WHERE content_vector IS NOT NULL GROUP BY category)"
        " AS c WHERE category IS NOT NULL"
    ).fetchone()
    return float(row[0]) if row else 0.0


def seconds(connection: Connection, key: int) -> float:
    """How long one call of similar_posts takes, as the client sees it."""
    started = time.perf_counter()
    connection.execute("SELECT * FROM similar_posts(%s, 5)", (key,)).fetchall()
    return time.perf_counter() - started
