"""The report's diagrams, drawn as SVG. Colours and strokes are classes of ``report.css``."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from secondlook.evaluation.calibration import Bin

MAX_POINTS = 240
"""Of a curve; more would not be seen."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axes:
    """A frame of ``width`` × ``height`` units around data in ``x`` and ``y`` (low, high)."""

    width: int
    height: int
    x: Point
    y: Point
    left: int = 34
    bottom: int = 30
    top: int = 8
    right: int = 10

    def place(self, x: float, y: float) -> Point:
        """Where a value is drawn, units from the top left."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0] or 1)
        up = (y - self.y[0]) / (self.y[1] - self.y[0] or 1)
        wide, high = self.width - self.left - self.right, self.height - self.top - self.bottom
        return self.left + across * wide, self.height - self.bottom - up * high

    def line(self, points: Iterable[Point], kind: str) -> str:
        """A curve through ``points``."""
        return f'<polyline class="{kind}" points="{self._path(points)}"/>'

    def area(self, points: Sequence[Point], kind: str) -> str:
        """What lies under a curve."""
        if not points:
            return ""
        low = self.y[0]
        around = [(points[0][0], low), *points, (points[-1][0], low)]
        return f'<polygon class="{kind}" points="{self._path(around)}"/>'

    def dot(self, x: float, y: float, kind: str, radius: float = 3.5, title: str = "") -> str:
        """A mark at a value; ``title`` is shown when it is pointed at."""
        at_x, at_y = self.place(x, y)
        shown = f"<title>{escape(title)}</title>" if title else ""
        return (
            f'<circle class="{kind}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="{radius:.1f}">'
            f"{shown}</circle>"
        )

    def bar(self, x: Point, y: float, kind: str) -> str:
        """A column from the bottom up to ``y``."""
        (low, top), (high, bottom) = self.place(x[0], y), self.place(x[1], self.y[0])
        size = f'width="{max(high - low - 1.5, 0.5):.1f}" height="{max(bottom - top, 0):.1f}"'
        return f'<rect class="{kind}" x="{low:.1f}" y="{top:.1f}" {size}/>'

    def grid(self, x: Sequence[float], y: Sequence[float], names: tuple[str, str]) -> str:
        """Lines and numbers at the values ``x`` and ``y``, and what the axes are called."""
        parts = []
        for value in y:
            parts.append(self.line([(self.x[0], value), (self.x[1], value)], "grid"))
            at_x, at_y = self.place(self.x[0], value)
            parts.append(_text(at_x - 5, at_y + 3.5, number(value), "end"))
        for value in x:
            parts.append(self.line([(value, self.y[0]), (value, self.y[1])], "grid"))
            at_x, at_y = self.place(value, self.y[0])
            parts.append(_text(at_x, at_y + 13, number(value), "middle"))
        middle = (self.left + self.width - self.right) / 2
        parts.append(_text(middle, self.height - 3, names[0], "middle", "name"))
        return "".join(parts) + self._named_up(names[1])

    def image(self, label: str, *parts: str) -> Markup:
        """The whole diagram; ``label`` says in words what it shows."""
        size = f'viewBox="0 0 {self.width} {self.height}"'
        role = f'role="img" aria-label="{escape(label)}"'
        return Markup(f"<svg {size} {role}>{''.join(parts)}</svg>")

    def _named_up(self, name: str) -> str:
        if not name:
            return ""
        middle = (self.top + self.height - self.bottom) / 2
        turned = f'transform="translate(9 {middle:.0f}) rotate(-90)"'
        return f'<text class="name" text-anchor="middle" {turned}>{escape(name)}</text>'

    def _path(self, points: Iterable[Point]) -> str:
        placed = (self.place(x, y) for x, y in points)
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)


def precision_recall(
    curve: NDArray[np.float64], at: tuple[float | None, float | None], label: str
) -> Markup:
    """A class's precision over recall, (101,); ``at`` is its precision and recall at the
    threshold."""
    axes = Axes(220, 168, (0, 1), (0, 1))
    heights = enumerate(curve.tolist())
    points = _without_straight([(place / 100, height) for place, height in heights if height > 0])
    if points:
        points.append((points[-1][0], 0.0))
    parts = [axes.grid((0, 0.5, 1), (0, 0.5, 1), ("recall", "precision"))]
    parts += [axes.area(points, "under"), axes.line(points, "curve")]
    precision, recall = at
    if precision is not None and recall is not None:
        text = f"at the threshold: precision {precision:.2f}, recall {recall:.2f}"
        parts.append(axes.dot(recall, precision, "operating", title=text))
    return axes.image(label, *parts)


def risk_coverage(
    errors: Sequence[Point], allowed: float, at: tuple[Point, float] | None, label: str
) -> Markup:
    """Share that is wrong over the share that is kept, both estimated from answers.

    ``errors`` are (kept, wrong) at falling limits, ``allowed`` is the share of errors that is
    promised at most. ``at`` is the point at the limit that is used, and the bound that is proven
    there; None where nothing is guaranteed.
    """
    bound = at[1] if at else 0.0
    highest = _round_up(max([2 * allowed, bound, *(wrong for _, wrong in errors)]))
    axes = Axes(520, 250, (0, 1), (0, highest), left=44)
    ticks = [highest * n / 4 for n in range(5)]
    parts = [axes.grid((0, 0.25, 0.5, 0.75, 1), ticks, ("share that is kept", "share wrong"))]
    parts += [axes.area(errors, "under"), axes.line(errors, "curve")]
    parts.append(axes.line([(0, allowed), (1, allowed)], "raw"))
    if at:
        (kept, wrong), _ = at
        parts.append(axes.line([(kept, 0), (kept, highest)], "limit"))
        text = f"kept {kept:.3f}: estimated {wrong:.3f} wrong, at most {bound:.3f} by the bound"
        parts.append(axes.dot(kept, bound, "raw", 4.5, text))
        parts.append(axes.dot(kept, wrong, "operating", title=text))
    return axes.image(label, *parts)


FEWEST_KEPT = 0.05
RISK_LINES = ("raw", "curve", "limit", "ideal")
"""Strokes of several curves in one diagram, in their order."""


def risk_curves(curves: Mapping[str, Sequence[Point]], label: str) -> Markup:
    """Share that is wrong over the share that is kept, for at most four ways to choose.

    ``curves`` are (kept, wrong) by name, at falling limits; the first is the dashed one. Where less
    than ``FEWEST_KEPT`` is kept a single error counts much, so what lies above the frame is cut.
    """
    shares = (wrong for points in curves.values() for kept, wrong in points if kept >= FEWEST_KEPT)
    highest = _round_up(max(shares, default=0.0))
    axes = Axes(520, 250, (0, 1), (0, highest), left=44)
    ticks = [highest * n / 4 for n in range(5)]
    parts = [axes.grid((0, 0.25, 0.5, 0.75, 1), ticks, ("share that is kept", "share wrong"))]
    for place, (name, points) in enumerate(curves.items()):
        kind, at = RISK_LINES[place % len(RISK_LINES)], highest * (0.96 - 0.07 * place)
        inside = [(kept, min(wrong, highest)) for kept, wrong in thinned(points)]
        parts.append(axes.line(inside, kind))
        parts.append(axes.line([(0.02, at), (0.07, at)], kind))
        x, y = axes.place(0.085, at)
        parts.append(_text(x, y + 3.5, name, "start"))
    return axes.image(label, *parts)


def reliability(raw: Sequence[Bin], calibrated: Sequence[Bin], label: str) -> Markup:
    """Share that is right over the probability that was given, before and after calibration."""
    axes = Axes(360, 330, (0, 1), (0, 1), left=40, bottom=34)
    ticks = (0, 0.2, 0.4, 0.6, 0.8, 1)
    parts = [axes.grid(ticks, ticks, ("what the student gives", "share that is right"))]
    parts.append(axes.line([(0, 0), (1, 1)], "ideal"))
    for bins, kind in ((raw, "raw"), (calibrated, "calibrated")):
        known = [b for b in bins if b.probability is not None and b.right is not None]
        parts.append(axes.line([(b.probability or 0, b.right or 0) for b in known], kind))
        most = max((b.count for b in known), default=1)
        for b in known:
            radius = 2 + 4 * math.sqrt(b.count / most)
            text = f"{b.count:,} detections: given {b.probability:.2f}, right {b.right:.2f}"
            parts.append(axes.dot(b.probability or 0, b.right or 0, kind, radius, text))
    return axes.image(label, *parts)


def histogram(calibrated: Sequence[Bin], label: str) -> Markup:
    """How many detections were given each probability."""
    most = max((b.count for b in calibrated), default=0) or 1
    axes = Axes(360, 96, (0, 1), (0, most), left=40, bottom=34)
    bars = [axes.bar((b.low, b.high), b.count, "column") for b in calibrated if b.count]
    ticks = (0, 0.2, 0.4, 0.6, 0.8, 1)
    names = ("detections by calibrated probability", "")
    return axes.image(label, axes.grid(ticks, (0, most), names), *bars)


def training(
    points: Sequence[Point], name: str, kind: str, label: str, share: bool = False
) -> Markup:
    """A figure over the steps of the training; ``share``: it lies in [0, 1]."""
    drawn = thinned(points)
    last = max((x for x, _ in drawn), default=1)
    highest = max((y for _, y in drawn), default=1)
    axes = Axes(520, 210, (0, last), (0, 1) if share else (0, _round_up(highest)), left=44)
    ticks = (0, 0.25, 0.5, 0.75, 1) if share else [axes.y[1] * n / 4 for n in range(5)]
    parts = [axes.grid(_steps(last), ticks, ("step", name)), axes.line(drawn, kind)]
    if share:
        best = max(drawn, key=lambda point: point[1])
        for x, y in drawn:
            top = (x, y) == best
            text = f"step {x:,.0f}: {y:.3f}" + (" (the best)" if top else "")
            parts.append(axes.dot(x, y, f"{kind} best" if top else kind, 5 if top else 2.5, text))
    return axes.image(label, *parts)


@dataclass(frozen=True)
class IntervalPoint:
    """A measured value with its interval."""

    x: float
    value: float
    low: float
    high: float


def interval_curve(points: Sequence[IntervalPoint], names: tuple[str, str], label: str) -> Markup:
    """Values in [0, 1] with their intervals over ``x`` from 0; ``names`` of both axes."""
    last = max((one.x for one in points), default=1) or 1
    axes = Axes(520, 250, (0, last), (0, 1), left=44)
    parts = [axes.grid(_steps(last), (0, 0.25, 0.5, 0.75, 1), names)]
    parts.append(axes.line([(one.x, one.value) for one in points], "curve"))
    for one in points:
        parts.append(axes.line([(one.x, one.low), (one.x, one.high)], "limit"))
        text = f"{one.x:,.1f}: {one.value:.3f} ({one.low:.3f} to {one.high:.3f})"
        parts.append(axes.dot(one.x, one.value, "operating", title=text))
    return axes.image(label, *parts)


def number(value: float) -> str:
    """A short decimal for a tick: 0, 0.25, 12, 3k."""
    if abs(value) >= 1000:
        return f"{value / 1000:.3g}k"
    return f"{value:.3g}"


def _text(x: float, y: float, words: str, anchor: str, kind: str = "tick") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(words)}</text>'


def _without_straight(points: Sequence[Point]) -> list[Point]:
    """Without the points in the middle of a level stretch."""
    kept = []
    for place, point in enumerate(points):
        around = points[max(place - 1, 0) : place + 2]
        if len(around) < 3 or len({y for _, y in around}) > 1:
            kept.append(point)
    return kept


def thinned(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """At most ``most``, each the mean of its neighbours."""
    if len(points) <= most:
        return list(points)
    parts = np.array_split(np.array(points, dtype=np.float64), most)
    return [(float(x), float(y)) for x, y in (part.mean(axis=0) for part in parts)]


def _round_up(value: float) -> float:
    """The next round number."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((power * f for f in (1, 2, 3, 4, 5, 6, 8) if power * f >= value), power * 10)


def _steps(last: float) -> list[float]:
    """About five round whole numbers up to ``last``."""
    step = max(1.0, _round_up(last / 5))
    return [step * n for n in range(int(last // step) + 1)]
