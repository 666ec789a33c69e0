"""The boxes that the embedded proposer really gives, for the verifier to learn from.

Boxes shaken at random are kinder than a detector's own: those stand on two neighbours at once, end
where something hides the feet, or hold a bin that looks like a person.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from secondlook.core import boxes as box_ops
from secondlook.core.boxes import Xyxy
from secondlook.core.types import Image
from secondlook.demo.world import NOUNS
from secondlook.labeling.proposer import Proposer

FLOOR = 0.1
"""Lowest score of a box that is shown."""
SAME_BOX = 0.6
"""Boxes of one noun that overlap more are one box."""
OTHERS = 0.4
"""Share of the boxes of other things than persons that is shown."""


def proposed(rng: np.random.Generator, proposer: Proposer, image: Image) -> Iterator[Xyxy]:
    """Boxes of ``image``, pixel xyxy: every one of a person, and OTHERS of the rest."""
    found = proposer.propose([image], NOUNS, FLOOR)[0]
    boxes = box_ops.clip(found.boxes, image.width, image.height)
    for column, noun in enumerate(NOUNS):
        scores = found.scores[:, column]
        rows = np.flatnonzero((scores >= FLOOR) & (box_ops.area(boxes) > 0))
        for kept in box_ops.nms(boxes[rows], scores[rows], SAME_BOX):
            if noun == "person" or rng.random() < OTHERS:
                x0, y0, x1, y1 = (float(side) for side in boxes[rows[kept]])
                yield x0, y0, x1, y1
