"""Draw product-like pictures, so that the demo runs without any downloaded data.

Every picture shows one object on a studio background. Shape, colour, pattern, proportions and
light vary with a seeded generator: the same seed draws the same pictures again.
"""

import argparse
import math
import pathlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Grid = npt.NDArray[np.floating[Any]]  # of points, of colours (0 to 255 each) or of shares (0 to 1)
OVERSAMPLE = 3


def rgb(codes: str) -> list[Grid]:
    """The colours of hexadecimal codes."""
    return [np.array(list(bytes.fromhex(code)), np.float32) for code in codes.split()]


NAMES = ["red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown"]
NAMES += ["black", "white", "grey"]
CODES = "c8262c ec7e26 f2c638 3e8c48 1c9294 2c5ab2 76429c ec84a8 7c5030 28282c f0efeb 8a8d93"
COLOURS: dict[str, Grid] = dict(zip(NAMES, rgb(CODES), strict=True))
PATTERNS: dict[str, int] = {"plain": 4, "stripes": 2, "dots": 2, "checks": 2, "two-tone": 2}
WHITE, INK, STEEL, BRASS, NIGHT = rgb("f8f7f3 1e1c1e b6babf d6b262 222630")
TRIMS, WOODS = rgb("603c26 343236 aa7a4c cec4b2"), rgb("966840 c49868 4a3428 3c3c40")


def blend(first: Grid, second: Grid, share: float | Grid) -> Grid:
    """The colours that lie `share` of the way from `first` to `second`."""
    return first + (second - first) * share


def contrast(first: Grid, second: Grid) -> float:
    """How far two colours lie apart in brightness, 0 to 255."""
    return abs(float((first - second) @ np.array((0.30, 0.59, 0.11))))


def outlines(text: str, closed: bool) -> list[Grid]:
    """Rounded outlines through corners "x,y x,y,radius ...", as the first character says.

    "+" takes them as they are, "=" once more on the other side, "|" as the right half of one shape.
    "o" draws an ellipse from its centre and its radii.
    """
    corners = np.array([[*map(float, c.split(",")), 2.0][:3] for c in text[1:].split()])
    other = corners * (-1, 1, 1)
    if text[0] == "o":
        turn = np.linspace(0, 2 * math.pi, 60)[:, None]
        return [corners[0, :2] + np.hstack([np.cos(turn), np.sin(turn)]) * corners[1, :2]]
    if text[0] == "|":
        shapes = [np.concatenate([corners, other[::-1][other[::-1, 0] != 0]])]
    else:
        shapes = [corners, other] if text[0] == "=" else [corners]
    t, rounded = np.linspace(0, 1, 9)[:, None], []
    for shape in shapes:
        here, radius = shape[:, None, :2], shape[:, 2:, None]
        if not closed:
            radius[[0, -1]] = 0
        ways = [np.roll(here, step, 0) - here for step in (1, -1)]
        ways = [w * np.minimum(0.5, radius / np.linalg.norm(w, axis=2)[..., None]) for w in ways]
        rounded.append((here + (1 - t) ** 2 * ways[0] + t**2 * ways[1]).reshape(-1, 2))
    return rounded


class Sketch:
    """One object in the making: parts laid over each other, in units of which it spans about 80."""

    def __init__(self, category: str, rng: random.Random) -> None:
        self.rng, self.between = rng, rng.uniform
        shape, self.standing, aspect, tilt = TABLE[category]
        self.name = rng.choice(NAMES)
        self.kind = rng.choices(list(PATTERNS), list(PATTERNS.values()))[0]
        jitter = np.array([rng.uniform(0.93, 1.07) for _ in "rgb"], np.float32)
        self.base: Grid = np.clip(COLOURS[self.name] * jitter, 24, 250)
        light, dark = blend(self.base, WHITE, 0.6), blend(self.base, INK, 0.6)
        others = (WHITE, WHITE, light, dark, COLOURS["yellow"])
        self.second = rng.choice([other for other in others if contrast(other, self.base) > 55])
        self.trim = rng.choice([other for other in TRIMS if contrast(other, self.base) > 25])
        high = rng.randrange(272, 345, 8)
        wide = round(high * aspect * rng.uniform(0.95, 1.05))
        self.size, scale = (wide, high), math.sqrt(wide * high) / 100 * rng.uniform(0.97, 1.09)
        self.pixel, self.flip, angle = 1 / scale, rng.choice((-1, 1)), rng.uniform(-tilt, tilt)
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        self.axes: Grid = scale * np.array([[self.flip * cos, -sin], [self.flip * sin, cos]])
        self.taper, self.bulge = rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12)
        self.colour: Grid = np.zeros((high, wide, 3), np.float32)  # times alpha
        self.alpha: Grid = np.zeros((high, wide), np.float32)
        grid = np.mgrid[0:high, 0:wide][::-1] - np.array([wide / 2, high / 2])[:, None, None]
        self.u, self.v = np.tensordot(np.linalg.inv(self.axes), grid, 1).astype(np.float32)
        self.slant, self.period = rng.choice((0, 0, 90, 90, 45)), rng.uniform(7, 12)
        self.split: float | None = None
        shape(self)

    def fill(self, text: str, paint: Grid | None = None, *finish: float) -> None:
        """Lay on filled outlines, in the object's own pattern unless a paint is given."""
        for outline in outlines(text, closed=True):
            if self.split is None and paint is None:
                self.split = float(np.mean(outline[:, 1])) + self.between(-4, 4)
            mask, placed = self.place(outline)
            ImageDraw.Draw(mask).polygon(placed, fill=255)
            self.lay(mask, paint, *finish)

    def line(self, text: str, width: float, paint: Grid, *finish: float) -> None:
        """Lay on lines with round ends."""
        for outline in outlines(text, closed=False):
            mask, placed = self.place(outline)
            pen, thick = ImageDraw.Draw(mask), width * OVERSAMPLE / self.pixel
            pen.line(placed, fill=255, width=round(thick), joint="curve")
            for end in (placed[0], placed[-1]):
                pen.circle(end, thick / 2, fill=255)
            self.lay(mask, paint, *finish)

    def seam(self, text: str, width: float = 0.6) -> None:
        """Lay on a fine dark line: a seam, a fold, a gap."""
        self.line(text, width, blend(self.base, INK, 0.75), 0, 0.55)

    def place(self, outline: Grid) -> tuple[Image.Image, list[tuple[float, float]]]:
        """An empty mask, and where on it the points of an outline lie, proportions varied."""
        x, y = outline.T
        x = x * (1 + self.taper * y / 40 + self.bulge * (0.5 - (y / 40) ** 2))
        placed = (np.stack([x, y], 1) @ self.axes.T + np.array(self.size) / 2) * OVERSAMPLE
        mask = Image.new("L", (self.size[0] * OVERSAMPLE, self.size[1] * OVERSAMPLE))
        return mask, [(float(x), float(y)) for x, y in placed]

    def lay(
        self, mask: Image.Image, paint: Grid | None, relief: float = 1.0, opacity: float = 1.0
    ) -> None:
        """Lay one part over the others, lit from the upper left; a translucent one only on them."""
        cover = mask.reduce(OVERSAMPLE)
        box = cover.getbbox() or (0, 0, 1, 1)
        area = (slice(box[1], box[3]), slice(box[0], box[2]))
        u, v, cover = self.u[area], self.v[area], cover.crop(box)
        colour = blend(self.base, self.second, self.pattern(u, v)) if paint is None else paint
        if relief:
            step = round(2.5 / self.pixel)
            around = (-2 * step, -2 * step, cover.width + 2 * step, cover.height + 2 * step)
            soft = cover.crop(around).filter(ImageFilter.GaussianBlur(4 / self.pixel))
            body = np.asarray(soft, np.float32)[step:-step, step:-step, None] / 255
            lit = body[2 * step :, 2 * step :] - body[: -2 * step, : -2 * step]
            slope = 0.0015 * (u * self.flip + v)[..., None]
            shade = 0.34 * body[step:-step, step:-step] - 0.3 + 0.22 * lit - slope
            colour = colour * (1 + relief * shade) + 26 * relief * np.maximum(lit, 0)
        over = np.asarray(cover, np.float32) / 255 * opacity
        over = over * self.alpha[area] if opacity < 1 else over
        self.colour[area] = blend(self.colour[area], colour, over[..., None])
        self.alpha[area] = blend(self.alpha[area], np.ones_like(over), over)

    def pattern(self, u: Grid, v: Grid) -> Grid:
        """The share of the second colour at each point, 0 to 1 with soft edges."""
        if self.kind == "plain":
            return np.zeros((1, 1, 1), np.float32)
        angle = math.radians(self.slant if self.kind == "stripes" else self.slant % 90)
        p = (u * math.cos(angle) + v * math.sin(angle)) / self.period
        q = (v * math.cos(angle) - u * math.sin(angle)) / self.period
        if self.kind == "two-tone":
            distances = [v - (self.split or 0)]
        elif self.kind == "dots":
            p += np.floor(q) % 2 / 2
            distances = [(0.26 - np.hypot(p % 1 - 0.5, q % 1 - 0.5)) * self.period]
        else:
            axes = [p] if self.kind == "stripes" else [p, q]
            distances = [(0.25 - abs(axis % 1 - 0.5)) * self.period for axis in axes]
        shares = [np.clip(0.5 + distance / self.pixel, 0, 1) for distance in distances]
        share: Grid = np.mean(shares, axis=0)[..., None]
        return share

    def photograph(self) -> Image.Image:
        """The finished object, centred, with its shadow, in front of the background."""
        wide, high = self.size
        shape = Image.fromarray((self.alpha * 255).astype(np.uint8))
        left, top, right, bottom = shape.getbbox() or (0, 0, wide, high)
        down, across = (high - top - bottom) // 2, (wide - left - right) // 2
        colour, alpha = (np.roll(g, (down, across), (0, 1)) for g in (self.colour, self.alpha))
        rows = np.linspace(-1, 1, high, dtype=np.float32)[:, None]
        columns = np.linspace(-1, 1, wide, dtype=np.float32)
        light = 0.985 - 0.035 * (columns**2 + rows**2) - 0.03 * rows
        shadow = Image.new("L", self.size)
        if self.standing:
            light -= 0.06 * np.clip((rows - self.between(0.25, 0.45)) * 5, 0, 1)
            flat, floor = (right - left) // 18, bottom + down
            box = (left + across + flat, floor - 2 * flat, right + across - flat, floor + flat // 2)
            ImageDraw.Draw(shadow).ellipse(box, fill=150)
        else:
            shadow.paste(100, (across + wide // 60, down + wide // 40), shape)
        dark = np.asarray(shadow.filter(ImageFilter.GaussianBlur(wide / 50)), np.float32) / 320
        hue = blend(COLOURS[self.rng.choice(NAMES)], WHITE, self.between(0.84, 0.93))
        scene = hue * (light * (1 - dark) * (1 - alpha))[..., None] + colour
        return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))


def _bag(s: Sketch) -> None:
    flap, rise = s.rng.random() < 0.5, s.between(-36, -30)
    s.line(f"+-14,-6 -13,{rise - 4},14 13,{rise - 4},14 14,-6", 3, blend(s.trim, INK, 0.4))
    s.fill(f"|0,-9 25,-9,{8 if flap else 1} {s.between(27, 33)},{s.between(24, 31)},7 0,29")
    s.fill("|0,-9 26,-9 26,-5 0,-5", s.trim)
    if flap:
        s.fill("|0,-10 26,-10,8 29,6,9 0,14,14")
        s.fill("o0,9 3,3", BRASS)
    else:
        s.line(f"+-14,-6 -13,{rise},14 13,{rise},14 14,-6", 3, s.trim)


def _boot(s: Sketch) -> None:
    top, heel, laced = s.between(-38, -18), s.between(31, 37), s.rng.random() < 0.5
    s.fill(f"+-20,{top} 4,{top + 1} 5,4,8 14,13,8 31,17,9 33,28 -21,28 -22,18,4 -18,2,12")
    s.fill(f"+-22,27 34,27 34,31 -3,31 -5,{heel} -21,{heel}", blend(s.trim, INK, 0.3))
    s.fill(f"+-20.5,{top - 1} 4.5,{top} 4.5,{top + 3.5} -20,{top + 3}", s.trim)
    if not laced:
        s.fill(f"+-13,{top} -3,{top} -5,8,3 -10,8,3", s.trim)
    for y in np.linspace(top + 8, 11, 6 if laced else 0):
        s.line(f"+{max(4, y + 2) - 7},{y + 2} {max(4, y + 2)},{y}", 1.5, WHITE)


def _bottle(s: Sketch) -> None:
    neck, turn, wide = s.rng.choice((3.5, 4.5, 8, 8)), s.between(-22, -6), s.between(10, 14)
    s.fill(f"|0,-36 {neck},-36 {neck},{turn - 8},8 {wide},{turn + 4},9 {wide},40,3 0,40")
    s.fill(f"|0,-41 {neck + 0.8},-41 {neck + 0.8},-31 0,-31", s.trim)
    if neck < 5:
        s.fill(f"|0,8 {wide},8,0 {wide},28,0 0,28", WHITE, 0.7)
        s.line(f"=0,15 {wide * 0.5},15", 1.5, s.trim, 0)
        s.line(f"=0,20 {wide * 0.6},20", 1, s.trim, 0)
    s.line(f"+{-wide * 0.55},{turn + 8} {-wide * 0.55},34", 1.6, WHITE, 0, 0.45)


def _chair(s: Sketch) -> None:
    wood, top, arms = s.rng.choice(WOODS), s.between(-40, -32), s.rng.random() < 0.4
    wide, low = (24, 30) if arms else (18, s.between(-14, -6))
    s.line(f"={wide - 3},{top + 8} {wide - 2},{28 if arms else 8}", 3, blend(wood, INK, 0.3))
    s.line(f"={wide},8 {wide + 4},39", 3.4, wood)
    s.fill(f"|0,{top} {wide},{top + 1},{s.between(3, 9)} {wide - 1},{low},5 0,{low}")
    s.fill(f"|0,{2} {wide - 1},2 {wide + 4},10,3 {wide + 3},15,3 0,15")
    if arms:
        s.fill(f"={wide - 4},-8,5 {wide + 8},-8,5 {wide + 7},31,3 {wide - 3},31,3")


def _dress(s: Sketch) -> None:
    hem, flare, sleeves = s.between(26, 40), s.between(15, 31), s.rng.random() < 0.5
    if sleeves:
        s.fill("=9,-37 21,-28,4 17,-20 10,-25")
    else:
        s.line("=7,-28 5.5,-39", 1.8, s.base)
    s.fill(f"|0,-6 10,-6,1 {flare * 0.72},{hem * 0.3},16 {flare},{hem} 0,{hem + 3},30")
    shoulder = "0,-30,9 6,-38 13,-35,3" if sleeves else "0,-26 7,-30,3"
    s.fill(f"|{shoulder} 12,-23,5 10,-5,9 0,-5")
    for share in (0.2, 0.55):
        s.seam(f"={10 * share},-2 {flare * share},{hem - 3}")
    s.fill("|0,-7.5 10.4,-7.5 10.4,-4 0,-4", s.trim)


def _hat(s: Sketch) -> None:
    style, top, brim = s.rng.choice(("cap", "knit", "brim")), s.between(-28, -20), s.between(34, 42)
    if style == "brim":
        s.fill(f"|0,-2,40 {brim},8 {brim - 3},15,8 0,24,40")
        s.fill(f"|0,{top + 4},8 9,{top - 4},8 18,{top + 2},7 21,12 0,17,20")
        s.fill("|0,8.5,20 20,4 21,11 0,16.5,20", s.trim)
    elif style == "cap":
        s.fill("+10,12 26,8,9 44,17,6 40,21,6 22,16,12 6,18", blend(s.base, INK, 0.25))
        s.fill(f"+-27,16 -28,{top},22 2,{top - 6},20 23,{top + 2},18 22,13 0,18,20")
        s.seam(f"+-2,{top - 1} 8,{top + 8},12 9,15")
        s.fill(f"o-2,{top - 1.5} 3,1.6", s.trim)
    else:
        s.fill(f"|0,{top - 4} 24,{top - 2},22 26,14 0,14")
        s.fill("|0,9 28,9,4 28,22,4 0,23", s.trim)
        s.fill(f"o0,{top - 6} 7,7", blend(s.trim, WHITE, 0.25))


def _lamp(s: Sketch) -> None:
    top, low, belly = s.between(8, 17), s.between(18, 27), s.rng.choice((1.5, 9, 16))
    foot = s.rng.choice((*WOODS, STEEL, BRASS))
    s.fill(f"|0,-6 1.5,-6 {min(4, belly)},4,5 {belly},20,14 {belly * 0.6},36 0,36", foot)
    s.fill("|0,35 12,35 13,39 0,39", foot)
    s.fill(f"|0,-38 {top},-38 {low},-6 0,-4,30")


def _mug(s: Sketch) -> None:
    top, low, deep = s.between(20, 24), s.between(14, 23), s.between(22, 31)
    grip, turn = s.between(31, 36), s.between(6, 10)
    s.line(f"+19,-14 {grip},-15,{turn} {grip - 2},14,{turn} 17,15", 4.6, s.base)
    s.fill(f"|0,-24 {top},-24,1 {s.between(18, 26)},4,14 {low},{deep},6 0,{deep + 2},20")
    s.fill(f"o0,-24 {top},5", blend(s.base, WHITE, 0.35), 0.5)
    s.fill(f"o0,-23.6 {top - 1.8},4", blend(s.base, INK, 0.45), 0.6)
    s.line(f"+{-top * 0.64},-13 {-low * 0.7},{deep - 8}", 2, WHITE, 0, 0.3)


def _shirt(s: Sketch) -> None:
    hem, collar = s.between(30, 37), s.rng.random() < 0.6
    s.fill(f"|0,-30 8,-34 20,-29,4 18,-8,8 20,{hem} 0,{hem + 1}")
    arm = s.rng.choice(("27,-24,8 36,26 28,28 19,-8", "28,-24,6 38,-8 28,-1 18,-12"))
    s.fill(f"=17,-31,5 {arm}")
    s.fill("|0,-38 8,-36 7,-29,6 0,-27,6", blend(s.base, INK, 0.55), 0.3)
    shade = blend(s.base, s.second, 0.4)
    if not collar:
        s.line("=8.5,-35 7,-29,6 0,-27.5", 2.2, shade)
        return
    s.fill("=8,-37 11,-29 5,-22 0,-28", shade)
    low = s.rng.choice((hem - 1, -9))
    s.line(f"+0,-26 0,{low}", 3.2, shade, 0.4)
    for y in np.arange(-21, low, 8):
        s.fill(f"o0,{y} 1.1,1.1", s.trim)


def _sneaker(s: Sketch) -> None:
    top, sole, side = s.between(-24, -9), s.between(22, 26), blend(s.second, s.trim, 0.3)
    s.fill(f"+-35,{top} -27,{top + 4},6 -12,{top + 1} 0,-3,10 16,6,12 37,8,11 40,19 -36,19 -38,6,8")
    s.fill("+22,5.5 37,8,10 40,19 25,19 27,11,6", WHITE)
    s.fill(f"+-35,{top} -30,{top + 3} -29,18 -36,18 -38,6,8", s.trim)
    for x in range(-22, s.rng.choice((-18, -12, -6)), 6):
        s.line(f"+{x},17 {x + 8},10,6 {x + 18},2", 2.4, side)
    for x in np.linspace(-9, 13.4, 5):
        y = top + 5 + (x + 9) * (1.5 - top) / 25.8
        s.line(f"+{x - 3.5},{y + 4} {x + 2},{y}", 1.9, WHITE)
    s.fill(f"+-38,16 0,18,20 41,16 41,{sole},4 -37,{sole},3", WHITE)
    s.seam(f"+-37,{sole - 3} 40,{sole - 3}", 0.9)


def _trousers(s: Sketch) -> None:
    hem, out = s.rng.choice((4, 36, 38, 40)), s.between(16, 23)
    inner = out - s.between(9, 14) if hem > 4 else 4
    s.fill(f"|0,-38 14,-38 18,-18,12 {out},{hem} {inner},{hem + 1} 1,-9,1")
    s.fill("|0,-39.5 14.3,-39.5 14.8,-35 0,-35", s.trim)
    s.seam("+0,-35 0,-10")
    s.seam("=9,-35 10,-26,6 17,-25")
    s.seam(f"={inner},{hem - 2} {out},{hem - 3}")
    s.fill("o0,-37.2 1.4,1.4", BRASS)


def _watch(s: Sketch) -> None:
    s.taper = s.bulge = 0.0
    size, strap, square = s.between(15, 18), s.between(8, 10), s.rng.random() < 0.35
    case, face = s.rng.choice((STEEL, BRASS, NIGHT)), s.rng.choice((WHITE, WHITE, NIGHT, s.base))
    s.fill(f"|0,-42 {strap - 2},-42,3 {strap},-12 {strap},12 {strap - 2},42,5 0,43")
    s.fill(f"+{size},-2 {size + 3},-2 {size + 3},2 {size},2", case)
    for r, paint in ((size, case), (size - 2.6, face)):
        s.fill(f"|0,{-r} {r},{-r},5 {r},{r},5 0,{r}" if square else f"o0,0 {r},{r}", paint)
    marks = [(hour / 6, 0.64, 0.76, 0.9) for hour in range(12)]
    hands = [(s.between(0, 2), 0, 0.42, 1.5), (s.between(0, 2), 0, 0.62, 1)]
    for turn, start, end, width in marks + hands:
        x, y = size * math.sin(turn * math.pi), size * math.cos(turn * math.pi)
        text = f"+{x * start},{y * start} {x * end},{y * end}"
        s.line(text, width, INK if contrast(face, INK) > 90 else WHITE, 0)


# For each category: how it is drawn, whether it stands on a floor, width over height, tilt.
TABLE: dict[str, tuple[Callable[[Sketch], None], bool, float, float]] = {
    "bag": (_bag, True, 1.0, 2),
    "boot": (_boot, True, 0.95, 2),
    "bottle": (_bottle, True, 0.75, 2),
    "chair": (_chair, True, 0.85, 1),
    "dress": (_dress, False, 0.85, 5),
    "hat": (_hat, False, 1.15, 7),
    "lamp": (_lamp, True, 0.85, 1),
    "mug": (_mug, True, 1.1, 2),
    "shirt": (_shirt, False, 1.0, 6),
    "sneaker": (_sneaker, True, 1.2, 2),
    "trousers": (_trousers, False, 0.85, 5),
    "watch": (_watch, False, 0.85, 12),
}
CATEGORIES: tuple[str, ...] = tuple(TABLE)


def draw(category: str, rng: random.Random) -> Image.Image:
    """Draw one RGB picture of the category; everything about it comes from `rng`."""
    return Sketch(category, rng).photograph()


def draw_all(
    directory: pathlib.Path, count: int = 360, seed: int = 7, each: Callable[[], object] = int
) -> list[pathlib.Path]:
    """Write `count` pictures as directory/CATEGORY/NNN-COLOUR-PATTERN.jpg, even over categories.

    The same seed writes the same files again; others stay. `each` is called after each picture.
    """
    paths = []
    for number in range(count):
        category, place = CATEGORIES[number % len(CATEGORIES)], number // len(CATEGORIES)
        sketch = Sketch(category, random.Random(f"{seed}/{category}/{place}"))
        path = directory / category / f"{place:03d}-{sketch.name}-{sketch.kind}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        sketch.photograph().save(path, quality=88)
        paths.append(path)
        each()
    return paths


def main() -> None:
    """Draw the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(description="Draw product-like pictures for the demo.")
    parser.add_argument("directory", type=pathlib.Path, help="where the pictures go")
    parser.add_argument("--count", type=int, default=360, help="how many (default: 360)")
    parser.add_argument("--seed", type=int, default=7, help="which pictures (default: 7)")
    options = parser.parse_args()
    print(f"drew {len(draw_all(options.directory, options.count, options.seed))} pictures")


if __name__ == "__main__":
    main()
