"""The demo's contact sheet, page and text: what they show, whatever pictures and names they get."""

from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import contact_sheet
from contact_sheet import FIRST, GAP, MARGIN, ROW, TILE, TOP, draw_sheet
from examples import Example, Neighbour, Post
from page import build_page
from text_table import as_text

COLOURS = {"query.jpg": (200, 0, 0), "near.jpg": (0, 200, 0), "far.jpg": (0, 0, 200)}
ODD_NAMES = (
    'it\'s "quoted" <b>&amp;</b>.jpg',
    "naïve schön Ωμέγα картина 日本語 عربي 👟.png",
    "two\nlines\tand a bell\a.png",
    "cafe\u0301 with a combining accent.jpg",
    "x" * 300 + ".jpg",
)


def example(*names: str, category: str | None = "hat") -> Example:
    query, *others = names
    neighbours = [Neighbour(2 + n, name, category, 0.9 - n / 10) for n, name in enumerate(others)]
    return Example(Post(1, query, category), tuple(neighbours))


def coloured(path: str) -> Image.Image:
    return Image.new("RGB", (300, 200), COLOURS[path])


def sheet_of(*examples: Example) -> Image.Image:
    return draw_sheet(examples, coloured, "title", "about", "rule")


def test_the_query_lies_left_and_its_neighbours_in_their_order() -> None:
    sheet = sheet_of(example("query.jpg", "near.jpg", "far.jpg"))
    middles = [MARGIN + TILE // 2, FIRST + TILE // 2, FIRST + TILE + GAP + TILE // 2]
    seen = [sheet.getpixel((x, TOP + TILE // 2)) for x in middles]
    assert seen == [COLOURS[name] for name in ("query.jpg", "near.jpg", "far.jpg")]


def test_each_example_has_a_row_and_the_margins_stay_empty() -> None:
    one = sheet_of(example("query.jpg", *["near.jpg"] * 5))
    three = sheet_of(*[example("query.jpg", *["near.jpg"] * 5)] * 3)
    assert three.height - one.height == 2 * ROW
    pixels = np.asarray(three)
    edges = (pixels[:20], pixels[-20:], pixels[:, :30], pixels[:, -30:])
    assert all((edge == 255).all() for edge in edges)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (4000, 30), (16, 16), (2000, 3000)])
def test_a_picture_of_any_size_is_whole_and_in_its_tile(size: tuple[int, int]) -> None:
    sheet = Image.new("RGB", (TILE + 40, TILE + 40), "white")
    contact_sheet.place(sheet, Image.new("RGB", size, "red"), (20, 20))
    red = np.asarray(sheet)[..., 1] < 100
    rows, columns = np.nonzero(red)
    wide, high = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert abs(rows.mean() - columns.mean()) <= 1  # in the middle
    assert max(wide, high) == min(TILE, 4 * max(size))
    assert (wide > high) == (size[0] > size[1])
    sheet.paste("white", (20, 20, 20 + TILE, 20 + TILE))
    assert (np.asarray(sheet) == 255).all()  # nothing outside it


def test_a_picture_that_cannot_be_read_leaves_a_tile_that_says_so() -> None:
    shown = draw_sheet([example("a", "b")], lambda path: None, "", "", "")
    tile = np.asarray(shown.crop((FIRST, TOP, FIRST + TILE, TOP + TILE)))
    assert tile.min() < 150
    assert (tile[:40] == tile[0, 0]).all()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_is_written_on_one_line_inside_its_column(name: str) -> None:
    sheet = draw_sheet([example(name, name, category=None)], lambda path: None, "", "", "")
    below = np.asarray(sheet)[TOP + TILE + 4 : TOP + ROW]
    assert (below[:, : MARGIN - 2] == 255).all()
    assert (below[:, FIRST - 50 : FIRST - 2] == 255).all()
    assert (below[:, FIRST + TILE + 2 :] == 255).all()
    assert (below < 128).any()


def test_a_long_text_is_shortened_and_a_short_one_is_not() -> None:
    font = contact_sheet.font_for("abc", 17)
    assert contact_sheet.shortened("abc", font, 100) == "abc"
    short = contact_sheet.shortened("abc " * 40, font, 100)
    assert short.endswith("…")
    assert 60 < font.getlength(short) <= 100


def test_characters_that_no_font_has_do_not_become_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet, "FONTS", ())
    contact_sheet.fonts.cache_clear()
    try:
        font = contact_sheet.font_for("日本", 20)
        assert not contact_sheet.has_glyph(font, "日")
        assert contact_sheet.has_glyph(font, "a")
        assert contact_sheet.has_glyph(font, " ")
        assert contact_sheet.drawable("日 a", font) == "? a"
    finally:
        contact_sheet.fonts.cache_clear()


def test_a_neighbour_of_another_category_is_written_in_another_colour() -> None:
    other = Example(Post(1, "query.jpg", "hat"), (Neighbour(2, "near.jpg", "mug", 0.5),))

    def reddish(sheet: Image.Image) -> bool:
        below = np.asarray(sheet.crop((FIRST, TOP + TILE, FIRST + TILE, TOP + ROW))).astype(int)
        return bool((below[..., 0] - below[..., 2] > 100).any())

    assert reddish(sheet_of(other))
    assert not reddish(sheet_of(example("query.jpg", "near.jpg")))


class Reader(HTMLParser):
    """The page as a browser has it: tags that were opened, the sources, all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str | None] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(*examples: Example, title: str = "title") -> Reader:
    return Reader(build_page(examples, "the sheet.png", title, "about", "the rule"))


def test_the_page_links_to_the_picture_beside_it_and_to_nothing_else() -> None:
    assert page_of(example("query.jpg", "near.jpg")).sources == ["the%20sheet.png"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_page_shows_any_name_as_it_is_and_runs_none_of_it(name: str) -> None:
    hostile = f"{name}<script>alert(1)</script>"
    page = page_of(example(hostile, hostile, category=hostile), title=hostile)
    assert page.text.count(hostile) == 5  # the title twice, the query, a neighbour, its category
    assert not {"script", "b"} & set(page.tags)


def test_the_page_has_a_line_for_each_neighbour() -> None:
    page = page_of(example("query.jpg", "near.jpg", "far.jpg"), example("query.jpg", "far.jpg"))
    assert page.tags.count("table") == 2
    assert page.tags.count("tr") == 2 + 3
    assert "0.900" in page.text
    assert "SELECT * FROM similar_posts(1, 5);" in page.text


def test_the_category_has_a_column_only_where_there_are_some() -> None:
    assert "category" in page_of(example("a", "b")).text
    assert "category" not in page_of(example("a", "b", category=None)).text


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_text_has_one_line_for_each_neighbour_whatever_its_name(name: str) -> None:
    text = as_text(example(name, name, f"\x1b[2J{name}", category=name))
    assert text.count("\n") == 5  # an empty line, the statement, the header, a rule, two rows
    assert all(character.isprintable() for character in text.replace("\n", ""))
    assert max(map(len, text.split("\n"))) < 180


def test_the_text_is_a_table_as_psql_has_it() -> None:
    assert as_text(example("a.jpg", "near.jpg", "b.jpg")).split("\n") == [
        "",
        "SELECT * FROM similar_posts(1, 5);    -- a.jpg",
        " id | similarity | image_path | category",
        "----+------------+------------+----------",
        " 2  | 0.900      | near.jpg   | hat",
        " 3  | 0.800      | b.jpg      | hat",
    ]
