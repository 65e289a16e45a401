"""One picture of the examples: the queries on the left, beside each what is most similar."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from examples import Example, Post

Font = ImageFont.FreeTypeFont
Open = Callable[[str], Image.Image | None]  # None where the picture cannot be shown

PAPER, PANEL, BORDER = "#ffffff", "#f3f4f6", "#d5d8de"
INK, QUIET, OTHER = "#16191f", "#5d6675", "#b3470c"


class Style(NamedTuple):
    """How a line is written: its size in pixels, and its colour."""

    size: int
    colour: str


TITLE, LARGE, SMALL, MISS = Style(30, INK), Style(20, INK), Style(17, QUIET), Style(17, OTHER)
LEGEND = "in this colour: of another category than the query"
LINE = 24  # from one line of text to the next

TILE = 200
GAP = 16
MARGIN = 40
QUERY_GAP = 56  # between the query and what was found for it
FIRST = MARGIN + TILE + QUERY_GAP  # where the neighbours begin
ROW = TILE + 78  # with two lines beneath a picture
TOP = MARGIN + 128
NARROWEST = 800
LARGEST_SCALE = 4  # beyond that a tiny picture is a blur

# The first that has every character of a text; Pillow's own, which has ASCII, is always there.
FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "NotoSansArabic-Regular.ttf",
)  # fmt: skip


def draw_sheet(
    examples: Sequence[Example], open_picture: Open, title: str, about: str, rule: str
) -> Image.Image:
    """The sheet, in RGB: as wide as the longest row of neighbours, as high as there are rows."""
    longest = max((len(example.neighbours) for example in examples), default=0)
    width = max(FIRST + longest * (TILE + GAP) - GAP + MARGIN, NARROWEST)
    inner = width - 2 * MARGIN
    notes = list(wrapped(rule, SMALL, inner))
    end = TOP + len(examples) * ROW
    sheet = Image.new("RGB", (width, end + len(notes) * LINE + MARGIN - LINE // 4), PAPER)
    pen = ImageDraw.Draw(sheet)
    write(pen, (MARGIN, MARGIN - 6), title, TITLE, inner)
    for number, line in enumerate([*wrapped(about, SMALL, inner)][:2]):
        write(pen, (MARGIN, MARGIN + 36 + number * LINE), line, SMALL, inner)
    write(pen, (MARGIN, TOP - 32), "query", SMALL, TILE)
    write(pen, (FIRST, TOP - 32), "most similar, best first", SMALL, 2 * TILE)
    if any(n.category != e.query.category for e in examples for n in e.neighbours):
        length = int(font_for(LEGEND, SMALL.size).getlength(LEGEND))
        write(
            pen, (max(width - MARGIN - length, FIRST + TILE + GAP), TOP - 32), LEGEND, MISS, inner
        )
    for number, example in enumerate(examples):
        draw_row(sheet, TOP + number * ROW, example, open_picture)
    for number, line in enumerate(notes):
        write(pen, (MARGIN, end + number * LINE), line, SMALL, inner)
    return sheet


def draw_row(sheet: Image.Image, y: int, example: Example, open_picture: Open) -> None:
    """A query, a line, and its neighbours, their tops at ``y``."""
    pen, query = ImageDraw.Draw(sheet), example.query
    place(sheet, open_picture(query.path), (MARGIN, y))
    pen.rectangle((MARGIN - 3, y - 3, MARGIN + TILE + 2, y + TILE + 2), outline=INK, width=2)
    write(pen, (MARGIN, y + TILE + 5), label(query), LARGE, TILE)
    write(pen, (MARGIN, y + TILE + 30), f"similar_posts({query.key}, 5)", SMALL, TILE)
    middle = FIRST - QUERY_GAP // 2
    pen.line((middle, y, middle, y + TILE), fill=BORDER, width=2)
    for column, neighbour in enumerate(example.neighbours):
        x = FIRST + column * (TILE + GAP)
        place(sheet, open_picture(neighbour.path), (x, y))
        write(pen, (x, y + TILE + 5), f"{neighbour.similarity:.3f}", LARGE, TILE)
        style = SMALL if neighbour.category == query.category else MISS
        write(pen, (x, y + TILE + 30), label(neighbour), style, TILE)


def label(post: Post) -> str:
    """What a post is called beneath its picture: its category, else its file's name."""
    return post.category or post.path.rpartition("/")[2]


def place(sheet: Image.Image, picture: Image.Image | None, corner: tuple[int, int]) -> None:
    """Puts the whole picture in the middle of its tile, however large and long it is."""
    panel = Image.new("RGB", (TILE, TILE), PANEL)
    if picture is None:
        write(ImageDraw.Draw(panel), (12, TILE // 2 - 10), "cannot be shown", SMALL, TILE - 24)
    else:
        scale = min(TILE / max(picture.size), LARGEST_SCALE)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        fitted = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        panel.paste(fitted, ((TILE - fitted.width) // 2, (TILE - fitted.height) // 2))
    sheet.paste(panel, corner)


def write(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, style: Style, width: int
) -> None:
    """Writes one line, shortened to ``width``; characters that no font has become "?"."""
    font = font_for(text, style.size)
    pen.text(at, shortened(drawable(text, font), font, width), fill=style.colour, font=font)


def shortened(text: str, font: Font, width: int) -> str:
    """The text, or as much of it as fits into ``width`` with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def wrapped(text: str, style: Style, width: int) -> Iterator[str]:
    """The text in lines of at most ``width``."""
    font, line = font_for(text, style.size), ""
    for word in text.split():
        if line and font.getlength(f"{line} {word}") > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    if line:
        yield line


def drawable(text: str, font: Font) -> str:
    """The text with "?" for what the font lacks."""
    return "".join(c if has_glyph(font, c) else "?" for c in printable(text))


def printable(text: str) -> str:
    """The text in composed characters, on one line."""
    return "".join(c if c.isprintable() else " " for c in unicodedata.normalize("NFC", text))


def font_for(text: str, size: int) -> Font:
    """The font that has most of the text's characters; the first among equals."""
    characters = set(printable(text))
    return max(fonts(size), key=lambda font: sum(has_glyph(font, c) for c in characters))


@cache
def fonts(size: int) -> tuple[Font, ...]:
    """This machine's fonts of FONTS, and Pillow's own."""
    found = []
    for name in FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    default = ImageFont.load_default(size)
    assert isinstance(default, ImageFont.FreeTypeFont)  # noqa: S101 - with a size it always is
    return (*found, default)


@cache
def has_glyph(font: Font, character: str) -> bool:
    """Whether the font draws this character, and not the box that stands for what it lacks."""
    return character.isspace() or bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))
