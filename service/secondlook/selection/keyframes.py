"""Which few frames show everything about the tracks of a run that a person should look at.

What there is to see are ``Moment``s: a track where it shows best, where it looks otherwise, where
it was cut, joined or filled. Each is visible in some frames. The frames are chosen greedily, each
the one that shows most of what was not seen yet: of all frames of that number the best show at most
1 / (1 - 1/e) = 1.58 times as much (Nemhauser, Wolsey and Fisher, "An analysis of approximations for
maximizing submodular set functions", 1978).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Moment:
    """Something about a track that is to be seen once."""

    track: int
    why: str
    """In words, such as ``at its best``."""
    frames: Mapping[int, float]
    """By place of a frame that shows it, how well, (0, 1]."""
    weight: float = 1.0
    """What it counts beside others, > 0."""


@dataclass(frozen=True)
class Keyframe:
    """A frame to look at."""

    place: int
    moments: tuple[int, ...]
    """Places of the moments that it shows and no frame before it did, the heaviest first."""
    value: float
    """Their weights, each times how well it shows."""


def choose_keyframes(moments: Sequence[Moment], count: int) -> list[Keyframe]:
    """At most ``count`` frames, the one that shows most first; fewer where these show everything.

    Of equal frames the first one is taken.
    """
    shown: dict[int, list[int]] = defaultdict(list)
    for number, moment in enumerate(moments):
        for place in moment.frames:
            shown[place].append(number)
    places = sorted(shown)
    at = {place: row for row, place in enumerate(places)}
    gains = np.zeros(len(places))
    for moment in moments:
        for place, well in moment.frames.items():
            gains[at[place]] += moment.weight * well
    open_ = set(range(len(moments)))
    chosen: list[Keyframe] = []
    while len(chosen) < count and any(moments[number].frames for number in open_):
        place = places[int(gains.argmax())]
        new = sorted(open_.intersection(shown[place]), key=lambda n: (-moments[n].weight, n))
        chosen.append(Keyframe(place, tuple(new), float(gains[at[place]])))
        for number in new:
            for other, well in moments[number].frames.items():
                gains[at[other]] -= moments[number].weight * well
        gains[at[place]] = -1.0  # rounding may leave it a little
        open_ -= {*new}
    return chosen
