"""Which examples the demo shows: by the rule that it states."""

import random

from examples import Example, Neighbour, Post, by_category, choose, mean_precision, spread, typical


def example(key: int, category: str | None, hits: int = 5, similarity: float = 0.5) -> Example:
    """An example of which `hits` of five neighbours are of the query's category."""
    found = [category if place < hits else "another" for place in range(5)]
    neighbours = [Neighbour(100 + n, f"{n}.jpg", name, similarity) for n, name in enumerate(found)]
    return Example(Post(key, f"{key}.jpg", category), tuple(neighbours))


def test_precision_is_the_share_of_neighbours_that_are_there() -> None:
    assert example(1, "hat", hits=2).precision == 0.4
    few = Example(Post(1, "a", "hat"), (Neighbour(2, "b", "hat", 0.9),))
    assert few.precision == 1.0


def test_the_typical_one_has_the_median_precision_and_among_equals_the_median_similarity() -> None:
    hats = [example(1, "hat", 0), example(2, "hat", 3), example(3, "hat", 5)]
    assert typical(hats).query.key == 2
    equal = [example(key, "hat", 5, key / 10) for key in (3, 1, 2)]
    assert typical(equal).query.key == 2
    assert typical([*equal, example(4, "hat", 0, 0.9)]).query.key == 1  # 4, 1, 2, 3: the lower


def test_each_category_gives_its_typical_one_and_the_middle_category_comes_first() -> None:
    hits = {"mug": 5, "hat": 1, "bag": 3}
    found = [
        example(10 * place + n, name, number)
        for place, (name, number) in enumerate(hits.items())
        for n in range(3)
    ]
    chosen, rule = choose(found, 7)
    assert [e.query.category for e in chosen] == ["bag", "mug", "hat"]
    assert "median precision@5" in rule


def test_the_choice_does_not_depend_on_the_order_of_the_rows() -> None:
    drawn = random.Random(1)
    found = [example(key, f"c{key % 9}", drawn.randrange(6), drawn.random()) for key in range(90)]
    once = choose(found, 5)
    drawn.shuffle(found)
    assert choose(found, 5) == once


def test_of_many_they_are_evenly_spaced_with_both_ends_from_the_middle_outwards() -> None:
    ranked = [example(key, None) for key in range(13)]
    assert [e.query.key for e in spread(ranked, 7)] == [6, 8, 4, 10, 2, 12, 0]


def test_no_more_than_there_are() -> None:
    assert [e.query.key for e in spread([example(5, None)], 7)] == [5]
    assert [e.query.key for e in spread([example(k, None) for k in (1, 2)], 7)] == [1, 2]
    assert spread([], 7) == []
    assert [e.query.key for e in spread([example(k, None) for k in range(4)], 1)] == [1]


def test_without_categories_they_are_spread_over_similarity() -> None:
    found = [example(key, None, similarity=key / 10) for key in (5, 1, 9)]
    chosen, rule = choose(found, 7)
    assert [e.query.key for e in chosen] == [5, 9, 1]
    assert "similarity" in rule
    assert "precision" not in rule


def test_folders_of_one_picture_each_are_no_categories() -> None:
    found = [example(key, f"folder {key}", 0, key / 10) for key in (1, 2, 3)]
    assert by_category(found) == {}
    assert [e.query.key for e in choose(found, 7)[0]] == [2, 3, 1]


def test_posts_without_a_category_count_for_no_precision() -> None:
    assert mean_precision([example(1, "hat", 2), example(2, None, 5)]) == 0.4
