"""Display lists: the primitives of a figure, rasterised once as colour and once as identity.

Every outline ends as a polygon or a stroke in canvas pixels. The colour image and the identity
buffer come from the same primitives, so the truth always matches the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from secondlook.demo.palette import Colour

SUPERSAMPLE = 2
"""Canvas pixels along one side of an image pixel."""

# Parts of a figure that the truth distinguishes. CLUTTER hides what is behind it, SHADOW hides
# nothing; neither has an identity.
SHADOW, CLUTTER, BODY, FACE, GLASSES, HELMET = -2, -1, 0, 1, 2, 3
PARTS = 4

Point = tuple[float, float]

_ANGLES = np.linspace(0.0, 2.0 * math.pi, 28, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


@dataclass(frozen=True)
class Primitive:
    """One primitive: a filled polygon, or a stroke when `width` is not 0.

    points: (N, 2) float64 canvas pixels; fill: RGB or RGBA; part: one of the part numbers above.
    """

    points: np.ndarray
    fill: Colour
    part: int
    width: int = 0


class Pen:
    """Collects the primitives of one figure, given in the figure's own units.

    The origin is where the figure stands, y points down, and 1.0 is `scale` canvas pixels.
    """

    def __init__(
        self, origin: Point, scale: float, *, flip: bool = False, tilt: float = 0.0
    ) -> None:
        """Start at `origin` (canvas pixels); `flip` mirrors, `tilt` (radians) rotates about it."""
        self.primitives: list[Primitive] = []
        cos, sin = math.cos(tilt) * scale, math.sin(tilt) * scale
        sign = -1.0 if flip else 1.0
        self._matrix = np.array([[cos * sign, sin * sign], [-sin, cos]])
        self._origin = np.asarray(origin, dtype=np.float64)
        self._scale = scale

    def local(self, at: Point, wide: float, tall: float | None = None) -> Pen:
        """A pen for the same figure, with its origin `at` and the units `wide` and `tall`.

        Stroke widths are in units of `wide`; `tall` is `wide` unless given.
        """
        pen = Pen((0.0, 0.0), 1.0)
        pen.primitives = self.primitives
        pen._matrix = self._matrix * np.array([wide, wide if tall is None else tall])
        pen._origin = self._place([at])[0]
        pen._scale = self._scale * wide
        return pen

    def polygon(self, points: Iterable[Point] | np.ndarray, fill: Colour, part: int = BODY) -> None:
        """Fill the outline through `points`, (N, 2) in figure units."""
        self.primitives.append(Primitive(self._place(points), fill, part))

    def stroke(
        self,
        points: Iterable[Point] | np.ndarray,
        width: float,
        fill: Colour,
        part: int = BODY,
        least: int = 1,
    ) -> None:
        """Draw an open line, `width` figure units thick and at least `least` canvas pixels."""
        pixels = max(least, round(width * self._scale))
        self.primitives.append(Primitive(self._place(points), fill, part, pixels))

    def ellipse(self, at: Point, radii: Point, fill: Colour, part: int = BODY) -> None:
        """Fill an ellipse with centre `at` and the two radii."""
        self.polygon(ellipse(at, radii), fill, part)

    def rect(
        self, box: Sequence[float], fill: Colour, part: int = BODY, corner: float = 0.0
    ) -> None:
        """Fill the rectangle x0, y0, x1, y1; `corner` is the radius of its corners."""
        self.polygon(rounded(box, corner), fill, part)

    def limb(self, points: Sequence[Point], width: float, fill: Colour, part: int = BODY) -> None:
        """A stroke with round ends."""
        self.stroke(points, width, fill, part)
        for end in (points[0], points[-1]):
            self.ellipse(end, (width / 2, width / 2), fill, part)

    def _place(self, points: Iterable[Point] | np.ndarray) -> np.ndarray:
        array = (
            points if isinstance(points, np.ndarray) else np.array(list(points), dtype=np.float64)
        )
        return array @ self._matrix.T + self._origin


def ellipse(at: Point, radii: Point) -> np.ndarray:
    """The outline of an ellipse: (28, 2) points."""
    return _CIRCLE * np.asarray(radii) + np.asarray(at)


def rounded(box: Sequence[float], corner: float) -> np.ndarray:
    """The outline of the rectangle x0, y0, x1, y1 with corners of radius `corner`."""
    x0, y0, x1, y1 = box
    corner = min(corner, (x1 - x0) / 2, (y1 - y0) / 2)
    if corner <= 0:
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)
    turn = np.where(_CIRCLE >= 0, 1.0, -1.0)
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    reach = np.array([(x1 - x0) / 2, (y1 - y0) / 2]) - corner
    return middle + turn * reach + _CIRCLE * corner


def arc(at: Point, radii: Point, start: float, stop: float, count: int = 14) -> np.ndarray:
    """`count` points of an ellipse from angle `start` to `stop`.

    Degrees, clockwise on the screen from the right; (count, 2).
    """
    angles = np.radians(np.linspace(start, stop, count))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.asarray(radii) + np.asarray(at)


def extent(primitives: Iterable[Primitive]) -> tuple[float, float, float, float]:
    """The xyxy extent in canvas pixels, stroke widths included, not cut by the border.

    There must be at least one shape.
    """
    chosen = list(primitives)
    points = np.concatenate([primitive.points for primitive in chosen])
    half = np.repeat(
        [primitive.width / 2 for primitive in chosen],
        [len(primitive.points) for primitive in chosen],
    )[:, None]
    low, high = (points - half).min(axis=0), (points + half).max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def paint(image: Image.Image, primitives: Iterable[Primitive]) -> None:
    """Draw `primitives` onto an RGB image; a fourth channel in a fill is its opacity."""
    opaque, glaze = ImageDraw.Draw(image), ImageDraw.Draw(image, "RGBA")
    for primitive in primitives:
        _draw(glaze if len(primitive.fill) == 4 else opaque, primitive, primitive.fill)


def paint_identities(buffer: Image.Image, primitives: Iterable[Primitive], first: int) -> None:
    """Draw identities onto an 8-bit buffer: `first` + part for parts, 0 for clutter."""
    draw = ImageDraw.Draw(buffer)
    for primitive in primitives:
        if primitive.part != SHADOW:
            _draw(draw, primitive, 0 if primitive.part == CLUTTER else first + primitive.part)


def _draw(draw: ImageDraw.ImageDraw, primitive: Primitive, fill: Colour | int) -> None:
    flat = primitive.points.ravel().tolist()
    if primitive.width:
        draw.line(
            flat, fill=fill, width=primitive.width, joint="curve" if primitive.width > 2 else None
        )
    else:
        draw.polygon(flat, fill=fill)
