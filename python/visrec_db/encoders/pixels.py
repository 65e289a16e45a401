"""A picture's colour, layout and gradients in 512 numbers, with no weights to download.

``pixels`` is what stands in where no model can be had: a server without a network, a first try.
It knows colour and shape and NO meaning: a round clock and a plate look alike to it, and a shoe
seen from the side and from above do not. Where CLIP is at hand, use CLIP.

The vector is four blocks. Each is brought to unit length on its own, then weighted with the root
of its share, so that the cosine of two pictures is the share-weighted mean of their four cosines:

    block              grid (rows x columns x channels)           numbers   share
    fine gradients     8 x 4 cells x 8 orientations, at 48 px         256    0.50
    coarse gradients   4 x 2 cells x 8 orientations, at 24 px          64    0.20
    colour layout      8 x 4 cells x L, a, b                           96    0.15
    colour histogram   6 L x 4 a x 4 b, soft bins                      96    0.15
                                                                      512    1.00

Colour is thus 0.30 of the squared norm, gradients 0.70. A picture with next to no gradients (a
plain wall) has those blocks faded out, and colour takes their share.

The four columns are half of a symmetric grid: cells are averaged with their mirror images, since
a product faces left in one photograph and right in the next. A mirrored picture therefore has the
same vector (up to rounding), and each number rests on twice as many pixels. Pictures are stretched
to a square and taken whole: the aspect ratio is not described, and a border added around a picture
moves everything in it. On photographs, the mean cosine with itself is 0.93 or more after a shift or
crop of 5 %, 30 % of brightness or a warm tint; 0.78 after a crop of 10 %, 0.68 in a border of 8 %.

Sources. Oriented gradients: Dalal & Triggs, "Histograms of oriented gradients for human
detection", CVPR 2005. sRGB to linear light: IEC 61966-2-1; to CIE L*a*b* (1976), white D65: CIE 15.
Hellinger (square root) form of histograms: Arandjelovic & Zisserman, "Three things everyone should
know to improve object retrieval", CVPR 2012.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]

FINGERPRINT: Final = "pixels-1"  # changes whenever the numbers change
DIMENSION: Final = 512

SIDE: Final = 48  # px; small on purpose: outlines survive, the weave of a cloth and noise do not
ORIENTATIONS: Final = 8
FINE_CELLS: Final = 8  # per side of the square, before the two halves are folded together
COARSE_CELLS: Final = 4
LAYOUT_CELLS: Final = 8
HISTOGRAM_BINS: Final = (6, 4, 4)  # L, a, b
CHROMA_RANGE: Final = 60.0  # a and b of the outermost bins; few photographed colours lie beyond

FINE_SHARE: Final = 0.50
COARSE_SHARE: Final = 0.20
LAYOUT_SHARE: Final = 0.15
HISTOGRAM_SHARE: Final = 0.15

# A block this long counts half (of its squared norm): noise of 4 levels in 256 at 48 px is as long.
GRADIENT_FLOOR: Final = 2.0  # Lab units per pixel
LAYOUT_FLOOR: Final = 2.0  # Lab units


def _linear_light() -> Floats:
    """The 256 levels of an sRGB channel as linear light, 0..1 (IEC 61966-2-1)."""
    level = np.arange(256) / 255.0
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


def _hat(position: Floats, bins: int) -> Floats:
    """Linear interpolation: each position (any shape, 0..bins-1) shared by its two nearest bins,
    as (bins, *shape)."""
    centre = np.arange(bins, dtype=np.float32).reshape(-1, *[1] * position.ndim)
    near: Floats = np.maximum(1 - np.abs(position - centre), 0)
    return near


def _pooling(cells: int, side: int) -> Floats:
    """Weights (cells, side) of the pixels in each cell: a triangle that reaches the neighbours'
    centres, so that a small shift moves a little weight instead of flipping a cell."""
    position = (np.arange(side, dtype=np.float32) + 0.5) * (cells / side) - 0.5
    weights = _hat(position.astype(np.float32), cells)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


LINEAR_LIGHT: Final = _linear_light()
# Linear sRGB to XYZ, each row divided by its sum: white (D65) is then 1, 1, 1 as Lab wants it.
RGB_TO_XYZ: Final = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ],
    dtype=np.float32,
)
TO_WHITE_XYZ: Final = RGB_TO_XYZ / RGB_TO_XYZ.sum(axis=1, keepdims=True)
FINE_POOLING: Final = _pooling(FINE_CELLS, SIDE)
COARSE_POOLING: Final = _pooling(COARSE_CELLS, SIDE // 2)
LAYOUT_POOLING: Final = _pooling(LAYOUT_CELLS, SIDE)


def _lab(rgb: NDArray[np.uint8]) -> Floats:
    """sRGB bytes (side, side, 3) as CIE L*a*b* (3, side, side): L 0..100, a (green-red) and b
    (blue-yellow) about +-100; equal distances look about equally different."""
    xyz = np.tensordot(TO_WHITE_XYZ, LINEAR_LIGHT[rgb], axes=(1, 2))
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), xyz * np.float32(841 / 108) + np.float32(4 / 29))
    lab = np.stack((116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])))
    return lab.astype(np.float32, copy=False)


def _pool(channels: Floats, pooling: Floats) -> Floats:
    """Weighted means of (k, side, side) over a grid: (k, cells, cells)."""
    return (pooling @ channels @ pooling.T).astype(np.float32, copy=False)


def _fold(cells: Floats, mirrored: Floats) -> Floats:
    """The left half (k, cells, cells/2) of the grid's mean with that of the mirrored picture."""
    half = cells.shape[-1] // 2
    return ((cells[..., :half] + mirrored[..., :half]) / 2).astype(np.float32, copy=False)


def _gradients(lab: Floats, pooling: Floats) -> Floats:
    """Oriented gradients of (3, side, side), folded: (ORIENTATIONS, cells, cells/2).

    As Dalal & Triggs: centred differences, the channel with the strongest one at each pixel,
    unsigned orientation (a dark shirt on a light wall is the same shape as a light one on a dark
    wall), votes interpolated between bins and cells. Votes here are the squared magnitude, for
    outlines to outvote texture, and cells hold its root mean. From each cell the mean over
    orientations is taken off: what points everywhere alike is noise and says nothing of shape.
    The block is normalised once, as a whole: at 48 px, normalising each cell ranked no better.
    """
    padded = np.pad(lab, ((0, 0), (1, 1), (1, 1)), mode="edge")
    dx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    dy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    squared = dx * dx + dy * dy
    strongest = squared.argmax(axis=0)[None]
    dx, dy, squared = (np.take_along_axis(v, strongest, axis=0)[0] for v in (dx, dy, squared))
    orientation = np.arctan2(dy, dx) * np.float32(ORIENTATIONS / np.pi) % ORIENTATIONS
    shares = _hat(orientation, ORIENTATIONS + 1)
    shares[0] += shares[ORIENTATIONS]  # orientations are a circle: pi is 0 again
    votes = _pool(shares[:ORIENTATIONS] * squared, pooling)
    mirrored = votes[-np.arange(ORIENTATIONS) % ORIENTATIONS, :, ::-1]
    root = np.sqrt(_fold(votes, mirrored))
    root -= root.mean(axis=0)
    return root


def _layout(lab: Floats) -> Floats:
    """Mean colour of each cell against the whole picture's: (3, cells, cells/2), Lab units.

    Relative, so that a darker exposure or a warmer lamp moves little but the histogram."""
    cells = _pool(lab, LAYOUT_POOLING)
    folded = _fold(cells, cells[..., ::-1])
    folded -= folded.mean(axis=(1, 2), keepdims=True)
    return folded


def _histogram(lab: Floats) -> Floats:
    """Share of the pixels in each Lab bin (6, 4 * 4), each pixel spread over its 8 nearest bins;
    its root, so that the dot product is the Bhattacharyya coefficient. Unit length as it is."""
    chroma = (lab[1:].reshape(2, -1) + CHROMA_RANGE) / (2 * CHROMA_RANGE)
    unit = np.clip(np.stack((lab[0].ravel() / 100, *chroma)), 0, 1)
    lightness, a, b = (_hat(unit[i] * (n - 1), n) for i, n in enumerate(HISTOGRAM_BINS))
    pairs = (a[:, None] * b).reshape(-1, unit.shape[1])
    share: Floats = lightness @ pairs.T / unit.shape[1]
    return np.sqrt(share)


def _weighted(block: Floats, share: float, floor: float) -> Floats:
    """The block flattened, with `share` as its squared norm; fading to zero below `floor`."""
    flat = block.ravel()
    return flat * np.float32(np.sqrt(share / (float(flat @ flat) + floor * floor)))


def describe(picture: Image.Image) -> Floats:
    """The picture's vector: (512,) float32 of unit norm, the same for the same pixels.

    `picture` is RGB, of any size from 1 x 1; turning it upright and putting transparency on a
    background are the caller's, who knows which."""
    if picture.mode != "RGB":
        raise ValueError(f"pixels describes RGB pictures, not {picture.mode}: convert it first")
    small = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    lab = _lab(np.asarray(small))
    half_size = lab.reshape(3, SIDE // 2, 2, SIDE // 2, 2).mean(axis=(2, 4))
    blocks = (
        _weighted(_gradients(lab, FINE_POOLING), FINE_SHARE, GRADIENT_FLOOR),
        _weighted(_gradients(half_size, COARSE_POOLING), COARSE_SHARE, GRADIENT_FLOOR),
        _weighted(_layout(lab), LAYOUT_SHARE, LAYOUT_FLOOR),
        _weighted(_histogram(lab), HISTOGRAM_SHARE, 0.0),
    )
    vector = np.concatenate(blocks)
    unit: Floats = vector / np.linalg.norm(vector)
    return unit
