"""Which frames are worth a teacher's look. Pure: the same frames and seed give the same choices.

Four reasons, the rarest first where several hold:

    rare        a class that was seen in few of the frames of late
    novel       a frame that looks like none of those sent before
    uncertain   a detection whose calibrated probability is neither high nor low
    random      a fixed share of all frames, whatever is on them: what keeps statistics honest

A budget an hour bounds them all. Random frames have a part of it to themselves; of the rest, the
commoner reasons must leave some for the rarer ones. Near duplicates of what was just sent are
never sent again, except at random.
"""

import json
import logging
import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from secondlook.core.errors import BadSetting, SecondlookError
from secondlook.core.files import replacing
from secondlook.core.images import distance
from secondlook.detector.frames import Detection

# How many frames may be sent an hour: a token bucket on a clock that never jumps.

log = logging.getLogger(__name__)

BUDGET_FILE = "budget.json"


class TokenBucket:
    """Fills by ``an_hour`` tokens an hour up to ``capacity``; each frame sent takes one.

    Times are seconds of a monotonic clock. One that goes backwards all the same adds nothing and
    takes nothing away, and a leap forward fills the bucket once: no jump gives a burst beyond
    ``capacity``, and none makes the bucket wait for the old time to come again.
    """

    def __init__(self, an_hour: float, capacity: float, tokens: float | None = None) -> None:
        """``an_hour`` may be ``math.inf``: no limit. Full at first, unless ``tokens`` are left."""
        if an_hour < 0 or capacity < 1:
            raise ValueError(f"expected a rate ≥ 0 and room for a token, got {an_hour}, {capacity}")
        self._a_second = an_hour / 3600
        self.capacity = capacity
        left = capacity if tokens is None or not math.isfinite(tokens) else tokens
        self._tokens = min(max(left, 0.0), capacity)
        self._last: float | None = None

    @property
    def tokens(self) -> float:
        """What is left, as of the last ``take``."""
        return self._tokens

    def take(self, now: float, leaving: float = 0.0) -> bool:
        """Take one token at the time ``now``, if at least ``leaving`` tokens remain after it."""
        if math.isinf(self._a_second):
            return True
        self._fill(now)
        # Sums of floats: a token that is there but for a rounding error is there.
        if self._tokens - 1 < leaving - 1e-9:
            return False
        self._tokens = max(self._tokens - 1, 0.0)
        return True

    def _fill(self, now: float) -> None:
        if not math.isfinite(now):
            return
        passed = max(now - self._last, 0.0) if self._last is not None else 0.0
        self._last = now
        self._tokens = min(self._tokens + passed * self._a_second, self.capacity)


def read_budget(spool: Path) -> dict[str, float]:
    """What an earlier life left of its budget; empty where nothing sound is known."""
    try:
        with (spool / BUDGET_FILE).open("rb") as file:
            found = json.loads(file.read(10_000))
        return {str(name): float(left) for name, left in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def write_budget(spool: Path, left: Mapping[str, float]) -> None:
    """Keep it for the next life; without room on the disk that one begins with a full budget."""
    try:
        with replacing(spool / BUDGET_FILE) as part:
            part.write_text(json.dumps(left))
    except (OSError, SecondlookError) as cause:
        log.debug("the budget is not kept: %s", cause)


BURST_S = 1200
"""What a quiet time saves up is at most this long a part of the budget."""
LEAVING = {"rare": 0.0, "novel": 0.25, "uncertain": 0.5}
"""Share of a full budget that a reason leaves to those before it."""
MEMORY = 2000.0
"""Frames after which a sighting counts 1/e: what "of late" means for rare classes."""
ENOUGH = 50.0
"""Sightings before any class can be called rare: at first, all are."""
SURE = 0.5
"""Probability from which a detection counts as a sighting of its class."""


class Reason(StrEnum):
    """Why a frame is sent."""

    RARE = "rare"
    NOVEL = "novel"
    UNCERTAIN = "uncertain"
    RANDOM = "random"


@dataclass(frozen=True)
class ChoosingRules:
    """What is chosen. Raises ``BadSetting`` for a band or share that makes no sense."""

    low: float = 0.3
    """Calibrated probabilities in [low, high] are uncertain."""
    high: float = 0.7
    novel_bits: int = 16
    """Bits of 64 in which a frame's hash must differ from each of the last frames sent."""
    near_bits: int = 6
    """A frame within so many bits of one just sent is the same image again."""
    remembered: int = 256
    """Frames sent that a new one is compared with."""
    rare_share: float = 0.02
    """A class in a smaller share of the late sightings is rare."""
    random_share: float = 0.001
    """Of all frames, [0, 1]."""
    budget: float = 60.0
    """Frames an hour; ``math.inf`` for no limit."""
    random_reserve: float = 0.2
    """Share of the budget that only random frames may use, [0, 1]."""

    def __post_init__(self) -> None:
        shares = (self.low, self.high, self.rare_share, self.random_share, self.random_reserve)
        if not all(0 <= share <= 1 for share in shares) or self.low > self.high:
            raise BadSetting(
                "expected shares from 0 to 1 and an uncertain band from low to high, got "
                f"{self.low:g} to {self.high:g}"
            )
        if not self.budget >= 0 or not 0 <= self.near_bits <= self.novel_bits <= 64:
            raise BadSetting("expected a budget of at least 0 and near_bits ≤ novel_bits ≤ 64")
        if self.remembered < 1:
            raise BadSetting("expected at least one frame to compare with")


class Chooser:
    """Decides frame by frame; memory is bounded by the rules and the number of classes."""

    def __init__(
        self, rules: ChoosingRules, seed: int = 0, left: Mapping[str, float] | None = None
    ) -> None:
        """``left``: the ``left`` of an earlier life, so that restarts do not refill the budget."""
        left = left or {}
        self.rules = rules
        self._random = random.Random(seed)
        self._sent: deque[int] = deque(maxlen=rules.remembered)
        self._sightings: dict[str, float] = {}
        self._weight = 1.0
        """Of a sighting now; those in the table have the weight of their time."""
        reserve = rules.random_reserve
        self._chosen = _bucket(rules.budget, 1 - reserve, left.get("chosen"))
        self._fair = _bucket(rules.budget, reserve, left.get("random"))

    @property
    def left(self) -> dict[str, float]:
        """Tokens left in both parts of the budget."""
        parts = {"chosen": self._chosen, "random": self._fair}
        return {name: bucket.tokens for name, bucket in parts.items() if bucket is not None}

    def choose(self, found: Sequence[Detection], perceptual_hash: int, now: float) -> Reason | None:
        """Why this frame is to be sent, or None.

        ``found`` are all detections, also doubtful ones; ``perceptual_hash`` is the image's hash;
        ``now`` monotonic seconds.
        """
        seen = {d.class_name for d in found if d.probability >= SURE}
        reason = self._reason(found, seen, perceptual_hash, now)
        self._count(seen)
        if reason is not None:
            self._sent.append(perceptual_hash)
        return reason

    def _reason(
        self, found: Sequence[Detection], seen: set[str], perceptual_hash: int, now: float
    ) -> Reason | None:
        # Drawn for every frame, so that no other reason shifts the random ones.
        drawn = self._random.random() < self.rules.random_share
        if drawn and self._fair is not None and self._fair.take(now):
            return Reason.RANDOM
        nearest = min((distance(perceptual_hash, other) for other in self._sent), default=64)
        if nearest <= self.rules.near_bits or self._chosen is None:
            return None
        if any(self._is_rare(name) for name in seen):
            reason = Reason.RARE
        elif nearest >= self.rules.novel_bits:
            reason = Reason.NOVEL
        elif any(self.rules.low <= d.probability <= self.rules.high for d in found):
            reason = Reason.UNCERTAIN
        else:
            return None
        leaving = math.floor(LEAVING[reason] * (self._chosen.capacity - 1))
        return reason if self._chosen.take(now, leaving) else None

    def _is_rare(self, name: str) -> bool:
        total = sum(self._sightings.values())
        enough = total >= ENOUGH * self._weight
        return enough and self._sightings.get(name, 0.0) < self.rules.rare_share * total

    def _count(self, seen: set[str]) -> None:
        """A sighting weighs a little more with every frame, which is to say that old ones fade."""
        self._weight *= math.exp(1 / MEMORY)
        for name in seen:
            self._sightings[name] = self._sightings.get(name, 0.0) + self._weight
        if self._weight > 1000:  # bring the scale back, and forget what has faded away
            scaled = {name: count / self._weight for name, count in self._sightings.items()}
            self._sightings = {name: count for name, count in scaled.items() if count > 1e-3}
            self._weight = 1.0


def _bucket(budget: float, share: float, tokens: float | None) -> TokenBucket | None:
    """A part of the budget; None when nothing is in it. Room for one token at least."""
    if budget * share <= 0:
        return None
    an_hour = budget * share
    capacity = max(1.0, an_hour * BURST_S / 3600) if math.isfinite(an_hour) else 1.0
    return TokenBucket(an_hour, capacity, tokens)
