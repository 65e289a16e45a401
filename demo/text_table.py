"""An example as text, for the terminal."""

from examples import Example

LONGEST = 64


def as_text(example: Example) -> str:
    """The statement and its result, as psql would show it."""
    lines = [("id", "similarity", "image_path", "category")]
    lines += [
        (str(n.key), f"{n.similarity:.3f}", plain(n.path), plain(n.category or ""))
        for n in example.neighbours
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        " " + " | ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)) for line in lines
    ]
    rule = "-" + "-+-".join("-" * width for width in widths) + "-"
    query = example.query
    call = f"similar_posts({query.key}, 5)"
    title = f"SELECT * FROM {call};    -- {plain(query.path)}"  # noqa: S608 - shown, not run
    return "\n".join(["", title, *map(str.rstrip, [rows[0], rule, *rows[1:]])])


def plain(text: str) -> str:
    """The text without what would move the terminal's cursor, and not too long."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    if len(printable) <= LONGEST:
        return printable
    return f"{printable[: LONGEST // 2]}…{printable[1 - LONGEST // 2 :]}"
