"""What is known of a box that was judged for a class, as numbers that a calibrator can weigh.

Everything is computed from one image's own boxes, scores and answers, element by element, so the
numbers of an image are the same, to the last bit, alone and among others. A logit is the log odds
of a probability. A calibrator names the features that it weighs: one may be added here, but what
stands in ``FEATURES`` keeps its name and meaning.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import area
from secondlook.core.types import Boxes
from secondlook_client.ontology import Ontology, normal

LOGIT_MARGIN = 1e-5
"""Probabilities are kept this far from 0 and 1 before the logit: beyond it models say little."""
EDGE = 0.01
"""A box touches an edge that is nearer than this share of the image."""
INSIDE, LARGER = 0.9, 1.5
"""A box contains one that has this share of its area in it, if it is this much larger: a smaller
one is rather the same object once more."""
NEAR, SAME_PLACE = 0.3, 0.5
"""IoU from which two boxes are near, and from which they are at one place."""
_PAIRS_AT_ONCE = 500_000
"""Pairs of boxes, and scores, that are looked at in one step."""

FEATURES = (
    "score",  # logit of the proposer's score for the class
    "score_margin",  # that, less the logit of the box's best score for a class of other phrases
    "p_yes",  # logit of the verifier's P(yes); NaN without an answer
    "product",  # logit of score × P(yes); NaN without an answer
    "other_side",  # logit of the largest P(yes) of another side of the contrast; 0 without one
    "other_class",  # logit of the largest score × P(yes) at this place for a class of other phrases
    "size",  # log of the box's share of the image's area
    "aspect",  # log of width ÷ height
    "centre_x",  # of the box, as a share of the image's width
    "centre_y",  # of the box, as a share of the image's height
    "edge_left",  # 1 where the box touches the left edge of the image, else 0
    "edge_top",  # the same of the upper edge
    "edge_right",  # of the right one
    "edge_bottom",  # of the lower one
    "contained",  # 1 where a larger box contains this one, else 0
    "container",  # log of (area of the smallest one that does ÷ area of this one); 0 without one
    "overlap_scored",  # largest IoU with a box that the proposer scores higher for the class
    "overlap_better",  # largest IoU with one of a higher score × P(yes); NaN without an answer
    "overlap_other",  # largest IoU with a box that has a higher score for a class of other phrases
    "covered",  # largest share of the box inside one that is scored higher for the class
    "near",  # log(1 + number of near boxes)
    "boxes",  # log(number of boxes on the image)
)
"""Names of the features, in the order of the columns."""
VERIFIER_FEATURES = ("p_yes", "product", "other_side", "other_class", "overlap_better")
"""Those that come from the verifier's answers; the others are known before it is asked."""


@dataclass(frozen=True, eq=False)
class ScoredBoxes:
    """Every box found on P images, T in all, with its scores and answers for C classes."""

    starts: NDArray[np.intp]
    """(P + 1,): image p has the boxes from ``starts[p]`` up to ``starts[p + 1]``."""
    sizes: NDArray[np.float32]
    """(P, 2) width and height of the images, pixels."""
    boxes: Boxes
    """(T, 4) pixel xyxy."""
    scores: NDArray[np.float32]
    """(T, C) the proposer's, in [0, 1]."""
    p_yes: NDArray[np.float64]
    """(T, C) the verifier's answers to the classes' questions, in [0, 1]; NaN: there is none."""


def box_features(
    found: ScoredBoxes, ontology: Ontology, boxes: NDArray[np.intp], classes: NDArray[np.intp]
) -> NDArray[np.float64]:
    """(J, F) the ``FEATURES`` of J boxes, each for one class.

    ``boxes`` (J,) are places in ``found.boxes`` and ``classes`` (J,) indices of ``ontology``. All
    boxes of an image count as neighbours, whether they are among ``boxes`` or not. Raises
    ``ValueError`` where ``found`` has not one column a class.
    """
    if found.scores.shape[1] != len(ontology.classes):
        raise ValueError(
            f"{found.scores.shape[1]} scores a box for {len(ontology.classes)} classes"
        )
    images = np.searchsorted(found.starts, boxes, side="right") - 1
    order = np.argsort(images, kind="stable")
    others, sides = _relations(ontology)
    columns = np.empty((len(boxes), len(FEATURES)))
    for rows in _pieces(found, order, images):
        piece = _Piece(found, images[rows], boxes[rows], classes[rows], others)
        known = piece.scored(sides) | piece.placed() | piece.beside_others()
        for column, name in enumerate(FEATURES):
            columns[rows, column] = known[name]
    return columns


def _relations(ontology: Ontology) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(C, C) which classes have no phrase in common, and which are sides of one contrast."""
    count = len(ontology.classes)
    others, sides = np.ones((count, count), dtype=bool), np.zeros((count, count), dtype=bool)
    of_phrase: dict[str, list[int]] = {}
    for place, spec in enumerate(ontology.classes):
        for phrase in spec.phrases:
            of_phrase.setdefault(normal(phrase), []).append(place)
    for members in of_phrase.values():
        others[np.ix_(members, members)] = False
    for group in ontology.groups.values():
        sides[np.ix_(group, group)] = True
    np.fill_diagonal(sides, False)
    return others, sides


def _pieces(
    found: ScoredBoxes, order: NDArray[np.intp], images: NDArray[np.intp]
) -> Iterator[NDArray[np.intp]]:
    """Judged boxes, image by image, in pieces that bound the memory."""
    effort = np.diff(found.starts)[images[order]] + found.scores.shape[1]
    total = np.cumsum(effort)
    cuts = np.searchsorted(total, np.arange(_PAIRS_AT_ONCE, total[-1:].sum(), _PAIRS_AT_ONCE))
    for rows in np.split(order, np.unique(cuts)):
        if len(rows):
            yield rows


class _Piece:
    """J judged boxes of a few images, with all boxes of these images."""

    def __init__(
        self,
        found: ScoredBoxes,
        images: NDArray[np.intp],
        boxes: NDArray[np.intp],
        classes: NDArray[np.intp],
        others: NDArray[np.bool_],
    ) -> None:
        """``images`` (J,) ascend; ``others`` (C, C) says which classes share no phrase."""
        first, last = int(images[0]), int(images[-1]) + 1
        start, end = found.starts[first], found.starts[last]
        self.starts = found.starts[first : last + 1] - start
        self.images, self.own, self.classes = images - first, boxes - start, classes
        self.sizes = found.sizes[first:last].astype(np.float64)
        self.boxes = found.boxes[start:end]
        self.scores = found.scores[start:end].astype(np.float64)
        self.p_yes = found.p_yes[start:end]
        self.products = self.scores * self.p_yes
        self.others = others
        self.score = self.scores[self.own, classes]
        self.product = self.products[self.own, classes]
        self.best_scores = _BestOther(self.scores, others)
        self.best_products = _BestOther(np.nan_to_num(self.products, nan=0.0), others)

    def scored(self, sides: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
        """What scores and answers of the box itself say."""
        asked = np.where(sides[self.classes], self.p_yes[self.own], np.nan)
        other_side = np.nan_to_num(asked, nan=-1.0).max(axis=1, initial=-1.0)
        other_score = self.best_scores.of(self.own, self.classes)
        return {
            "score": _logit(self.score),
            "score_margin": _logit(self.score) - _logit(other_score),
            "p_yes": _logit(self.p_yes[self.own, self.classes]),
            "product": _logit(self.product),
            "other_side": np.where(other_side < 0, 0.0, _logit(other_side)),
        }

    def placed(self) -> dict[str, NDArray[np.float64]]:
        """Size and place of the box in its image."""
        width, height = np.maximum(self.sizes[self.images], 1.0).T
        x1, y1, x2, y2 = self.boxes[self.own].astype(np.float64).T
        across, down = np.maximum(x2 - x1, 0.5), np.maximum(y2 - y1, 0.5)  # half a pixel at least
        touches = {
            "edge_left": x1 <= EDGE * width,
            "edge_top": y1 <= EDGE * height,
            "edge_right": x2 >= (1 - EDGE) * width,
            "edge_bottom": y2 >= (1 - EDGE) * height,
        }
        return {
            "size": np.log(across * down / (width * height)),
            "aspect": np.log(across / down),
            "centre_x": (x1 + x2) / 2 / width,
            "centre_y": (y1 + y2) / 2 / height,
            "boxes": np.log(np.diff(self.starts)[self.images].astype(np.float64)),
            **{name: touch.astype(np.float64) for name, touch in touches.items()},
        }

    def beside_others(self) -> dict[str, NDArray[np.float64]]:
        """How the box lies among the others of its image."""
        row, other = self._touching()
        of_class, own = self.classes[row], self.own[row]
        shared, areas = _shared(self.boxes[own], self.boxes[other]), area(self.boxes)
        overlap = shared / (areas[own] + areas[other] - shared)
        inside, ratio = shared / areas[own], areas[other] / areas[own]
        scored = _beats(self.scores[other, of_class], self.score[row], other, own)
        products = np.nan_to_num(self.products[other, of_class], nan=-1.0)
        better = _beats(products, self.product[row], other, own)
        rival = self.best_scores.of(other, of_class) > self.score[row]
        here = overlap >= SAME_PLACE
        at_place = self._largest(row[here], self.best_products.of(other[here], of_class[here]))
        contains = (inside >= INSIDE) & (ratio >= LARGER)
        container = np.full(len(self.own), np.inf)
        np.minimum.at(container, row[contains], ratio[contains].astype(np.float64))
        contained = np.isfinite(container)
        near = np.bincount(row[overlap >= NEAR], minlength=len(self.own))
        answered = np.where(np.isnan(self.product), np.nan, 0.0)
        own_other = self.best_products.of(self.own, self.classes)
        return {
            "other_class": _logit(np.maximum(at_place, own_other)),
            "contained": contained.astype(np.float64),
            "container": np.log(np.where(contained, container, 1.0)),
            "overlap_scored": self._largest(row[scored], overlap[scored]),
            "overlap_better": self._largest(row[better], overlap[better]) + answered,
            "overlap_other": self._largest(row[rival], overlap[rival]),
            "covered": self._largest(row[scored], inside[scored]),
            "near": np.log1p(near.astype(np.float64)),
        }

    def _touching(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Pairs of a judged box (its row) and another box of the image that shares area with it."""
        boxes, which = np.unique(self.own, return_inverse=True)
        images = np.searchsorted(self.starts, boxes, side="right") - 1
        amounts = np.diff(self.starts)[images]
        mine = np.repeat(boxes, amounts)
        other = _counted(amounts) + np.repeat(self.starts[images], amounts)
        a, b = self.boxes[mine], self.boxes[other]
        touch = (np.minimum(a[:, 2:], b[:, 2:]) > np.maximum(a[:, :2], b[:, :2])).all(axis=1)
        touch &= other != mine
        # The box of several classes has the same pairs for each.
        ends = np.cumsum(touch)[np.cumsum(amounts) - 1]
        amounts = np.diff(ends, prepend=0)
        first = (ends - amounts)[which]
        row = np.repeat(np.arange(len(which)), amounts[which])
        pair = _counted(amounts[which]) + np.repeat(first, amounts[which])
        return row, other[touch][pair]

    def _largest(
        self, row: NDArray[np.intp], values: NDArray[np.float32] | NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(J,) the largest of the values at each row; 0 where there is none."""
        largest = np.zeros(len(self.own))
        np.maximum.at(largest, row, values.astype(np.float64))
        return largest


class _BestOther:
    """The best of a box's values over the classes that share no phrase with a given one."""

    def __init__(self, values: NDArray[np.float64], others: NDArray[np.bool_]) -> None:
        # The best that is no namesake is among as many of the best as there are namesakes, and one.
        count = min(int((~others).sum(axis=1).max()) + 1, values.shape[1])
        self._best = np.argpartition(-values, count - 1, axis=1)[:, :count]
        self._values = values
        self._others = others

    def of(self, rows: NDArray[np.intp], classes: NDArray[np.intp]) -> NDArray[np.float64]:
        """(N,) of N boxes and classes; 0 where every class shares a phrase."""
        largest = np.zeros(len(rows))
        for place in self._best[rows].T:
            known = np.where(self._others[classes, place], self._values[rows, place], 0.0)
            np.maximum(largest, known, out=largest)
        return largest


def _counted(amounts: NDArray[np.intp]) -> NDArray[np.intp]:
    """0, 1, … for each of the amounts, one after another."""
    ends = np.cumsum(amounts)
    return np.arange(ends[-1]) - np.repeat(ends - amounts, amounts)


def _shared(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """(N,) area that two boxes have in common, square pixels."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    sides = np.maximum(sides, 0)
    return sides[:, 0] * sides[:, 1]


def _beats(
    theirs: NDArray[np.float64],
    mine: NDArray[np.float64],
    their_place: NDArray[np.intp],
    my_place: NDArray[np.intp],
) -> NDArray[np.bool_]:
    """Whose value is higher; of equal ones the box that comes first."""
    return (theirs > mine) | ((theirs == mine) & (their_place < my_place))


def _logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(probability, LOGIT_MARGIN, 1 - LOGIT_MARGIN)
    return np.log(inside) - np.log1p(-inside)
