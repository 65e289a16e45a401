"""The demo's HTML page: the contact sheet, and what it shows as text."""

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from examples import Example

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ max-width: 85rem; margin: 2rem auto; padding: 0 1.5rem; color: #16191f; background: #fff;
  font: 1rem/1.5 system-ui, sans-serif; }}
img {{ display: block; width: 100%; height: auto; border: 1px solid #d5d8de; }}
table {{ border-collapse: collapse; margin: 0.5rem 0 2rem; }}
th, td {{ padding: 0.2rem 1.2rem 0.2rem 0; text-align: left; border-bottom: 1px solid #d5d8de;
  overflow-wrap: anywhere; }}
th {{ color: #667080; font-weight: normal; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.other {{ color: #b3470c; }}
code {{ font-size: 1rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{about}</p>
<img src="{sheet}" alt="Each row: a query, and the pictures most similar to it">
<p>{rule}</p>
<h2>The same as text</h2>
{tables}
</body>
</html>
"""

TABLE = """<h3><code>SELECT * FROM similar_posts({key}, 5);</code></h3>
<p>{query}</p>
<table>
<tr><th class="number">id</th><th class="number">similarity</th><th>image_path</th>{head}</tr>
{rows}
</table>"""

ROW = """<tr{mark}><td class="number">{key}</td><td class="number">{similarity:.3f}</td>\
<td>{path}</td>{category}</tr>"""


def build_page(examples: Sequence[Example], sheet: str, title: str, about: str, rule: str) -> str:
    """Returns the page; ``sheet`` is the contact sheet's path from where the page will lie."""
    return PAGE.format(
        title=escape(title),
        about=escape(about),
        rule=escape(rule),
        sheet=escape(quote(sheet)),
        tables="\n".join(map(_table, examples)),
    )


def _table(example: Example) -> str:
    posts = (example.query, *example.neighbours)
    categories = any(post.category is not None for post in posts)
    rows = [
        ROW.format(
            mark="" if n.category == example.query.category else ' class="other"',
            key=n.key,
            similarity=n.similarity,
            path=escape(n.path),
            category=f"<td>{escape(n.category or '')}</td>" if categories else "",
        )
        for n in example.neighbours
    ]
    return TABLE.format(
        key=example.query.key,
        query=escape(example.query.path),
        head="<th>category</th>" if categories else "",
        rows="\n".join(rows),
    )
