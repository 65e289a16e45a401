"""Which posts the demo shows: chosen by a rule, never by how good they look."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

RULE = (
    "How the queries were chosen: in each category the post with the median precision@5 (among"
    " equals, the median similarity); of these, evenly spaced from the category that is told apart"
    " best to the worst; the middle one first."
)
RULE_WITHOUT_CATEGORIES = (
    "How the queries were chosen: all posts by the mean similarity of their five most similar,"
    " and of these, evenly spaced from the highest to the lowest; the middle one first."
)


@dataclass(frozen=True)
class Post:
    """A row of the demo's table; its path is relative to the pictures' directory."""

    key: int
    path: str
    category: str | None


@dataclass(frozen=True)
class Neighbour(Post):
    """A post that similar_posts found; ``similarity`` is the cosine, -1 to 1."""

    similarity: float


@dataclass(frozen=True)
class Example:
    """A post and what similar_posts found for it, most similar first; never nothing."""

    query: Post
    neighbours: tuple[Neighbour, ...]

    @property
    def precision(self) -> float:
        """The share of neighbours in the query's category, 0 to 1."""
        return fmean(n.category == self.query.category for n in self.neighbours)

    @property
    def similarity(self) -> float:
        """The neighbours' mean similarity."""
        return fmean(n.similarity for n in self.neighbours)


def choose(examples: Sequence[Example], count: int) -> tuple[list[Example], str]:
    """Returns at most ``count`` examples, the typical one first, and the rule in words."""
    categories = by_category(examples)
    if len(categories) < 2:
        return spread(
            sorted(examples, key=lambda e: (e.similarity, e.query.key)), count
        ), RULE_WITHOUT_CATEGORIES
    told_apart = sorted(
        categories.values(), key=lambda c: (fmean(e.precision for e in c), c[0].query.category)
    )
    return spread([typical(category) for category in told_apart], count), RULE


def mean_precision(examples: Sequence[Example]) -> float:
    """The mean precision of the queries that have a category."""
    return fmean(e.precision for e in examples if e.query.category is not None)


def by_category(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The examples of each category that has two at least."""
    categories: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example.query.category is not None:
            categories[example.query.category].append(example)
    return {name: found for name, found in categories.items() if len(found) > 1}


def typical(examples: Sequence[Example]) -> Example:
    """The example with the median precision; among equals, the one of median similarity."""
    ranked = sorted(examples, key=lambda e: (e.precision, e.similarity, e.query.key))
    return ranked[(len(ranked) - 1) // 2]


def spread(ranked: Sequence[Example], count: int) -> list[Example]:
    """At most ``count`` of them, evenly spaced with both ends; from the middle outwards."""
    last, count = len(ranked) - 1, min(count, len(ranked))
    places = [round(i * last / (count - 1)) if count > 1 else last // 2 for i in range(count)]
    middle = (count - 1) // 2
    outwards = sorted(range(count), key=lambda i: (abs(i - middle), -i))
    return [ranked[places[i]] for i in outwards]
