"""Which frames of a camera to send for labelling, within an hourly budget.

Four reasons, the rarest first where several hold:

    rare        a class that was detected in few of the recent frames
    novel       a frame whose perceptual hash is far from those of the frames sent before
    uncertain   a detection whose calibrated probability is neither high nor low
    random      a fixed share of all frames, whatever they show: an unbiased sample

A token bucket of frames per hour bounds them all. Random frames have a part of it to
themselves; of the rest, the commoner reasons must leave some for the rarer ones. Near duplicates
of what was just sent are never sent again, except at random.

The choice is pure: the same frames and seed select the same frames. Only ``read_budget`` and
``write_budget`` touch the disk, so that a restart does not refill the budget.
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

from secondlook.config.spec import SettingGroup, setting
from secondlook.core.files import replacing
from secondlook.core.perceptual_hash import hamming_distance
from secondlook.detector.frames import Detection
from secondlook_client.errors import BadSetting, SecondlookError

log = logging.getLogger(__name__)

BUDGET_FILE = "budget.json"
BURST_S = 1200
"""Unused budget accumulates for at most this long."""
RESERVED_SHARE = {"rare": 0.0, "novel": 0.25, "uncertain": 0.5}
"""Share of a full budget that a reason leaves to those before it."""
DECAY_FRAMES = 2000.0
"""Frames after which a sighting counts 1/e: what "recent" means for rare classes."""
MIN_SIGHTINGS = 50.0
"""Sightings before any class can be called rare: at first, all are."""
SIGHTING_PROBABILITY = 0.5
"""Probability from which a detection counts as a sighting of its class."""


class SelectionReason(StrEnum):
    """Why a frame is sent."""

    RARE = "rare"
    NOVEL = "novel"
    UNCERTAIN = "uncertain"
    RANDOM = "random"


@dataclass(frozen=True)
class SelectionSettings(SettingGroup):
    """Which frames are selected. Raises ``BadSetting``."""

    title = "Frames to send"

    budget: float = setting(
        60.0,
        "Maximum frames sent per hour, on average.",
        low=0,
        high=1e9,
        unit="frames",
        words={"none": math.inf, "unlimited": math.inf, "inf": math.inf},
        common=True,
    )
    uncertain_low: float = setting(
        0.3, "Lowest calibrated probability of an uncertain detection.", low=0, high=1
    )
    uncertain_high: float = setting(
        0.7, "Highest calibrated probability of an uncertain detection.", low=0, high=1
    )
    novel_bits: int = setting(
        16,
        "A frame is novel when its 64-bit perceptual hash differs by at least so many bits from "
        "those of all frames sent recently.",
        unit="bits",
        low=0,
        high=64,
    )
    near_bits: int = setting(
        6,
        "A frame is a near duplicate, and not sent, when it differs by at most so many bits.",
        unit="bits",
        low=0,
        high=64,
    )
    recent_frames: int = setting(
        256, "How many of the last frames sent a new one is compared with.", low=1, high=10**6
    )
    rare_share: float = setting(
        0.02, "A class is rare below this share of the recent detections.", low=0, high=1
    )
    random_share: float = setting(0.001, "Share of all frames sent at random.", low=0, high=1)
    random_reserve: float = setting(
        0.2, "Share of the budget reserved for random frames.", low=0, high=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uncertain_low > self.uncertain_high:
            raise BadSetting(
                "expected an uncertain band from low to high, got "
                f"{self.uncertain_low:g} to {self.uncertain_high:g}"
            )
        if self.near_bits > self.novel_bits:
            raise BadSetting(
                f"expected near_bits ≤ novel_bits, got {self.near_bits} and {self.novel_bits}"
            )


class FrameSelector:
    """Decides frame by frame; memory is bounded by the settings and the number of classes."""

    def __init__(
        self, settings: SelectionSettings, seed: int = 0, tokens: Mapping[str, float] | None = None
    ) -> None:
        """``tokens``: those of an earlier process, so that restarts do not refill the budget."""
        tokens = tokens or {}
        self.settings = settings
        self._random = random.Random(seed)
        self._sent: deque[int] = deque(maxlen=settings.recent_frames)
        self._sightings: dict[str, float] = {}
        self._weight = 1.0
        """Of a sighting now; those in the table have the weight of their time."""
        reserve = settings.random_reserve
        self._selected_bucket = _bucket(settings.budget, 1 - reserve, tokens.get("chosen"))
        self._random_bucket = _bucket(settings.budget, reserve, tokens.get("random"))

    @property
    def tokens(self) -> dict[str, float]:
        """What is left of both parts of the budget, by the names in ``BUDGET_FILE``."""
        parts = {"chosen": self._selected_bucket, "random": self._random_bucket}
        return {name: bucket.tokens for name, bucket in parts.items() if bucket is not None}

    def select(
        self, found: Sequence[Detection], perceptual_hash: int, now: float
    ) -> SelectionReason | None:
        """Why this frame is to be sent, or None.

        ``found`` are all detections, those below their thresholds too; ``perceptual_hash`` is that
        of the image; ``now`` monotonic seconds.
        """
        classes = {d.class_name for d in found if d.probability >= SIGHTING_PROBABILITY}
        reason = self._reason(found, classes, perceptual_hash, now)
        self._count(classes)
        if reason is not None:
            self._sent.append(perceptual_hash)
        return reason

    def _reason(
        self, found: Sequence[Detection], classes: set[str], perceptual_hash: int, now: float
    ) -> SelectionReason | None:
        # A number for every frame, so that no other reason shifts the random ones.
        sampled = self._random.random() < self.settings.random_share
        if sampled and self._random_bucket is not None and self._random_bucket.take(now):
            return SelectionReason.RANDOM
        nearest = min(
            (hamming_distance(perceptual_hash, other) for other in self._sent), default=64
        )
        if nearest <= self.settings.near_bits or self._selected_bucket is None:
            return None
        if any(self._is_rare(name) for name in classes):
            reason = SelectionReason.RARE
        elif nearest >= self.settings.novel_bits:
            reason = SelectionReason.NOVEL
        elif any(
            self.settings.uncertain_low <= d.probability <= self.settings.uncertain_high
            for d in found
        ):
            reason = SelectionReason.UNCERTAIN
        else:
            return None
        reserve = math.floor(RESERVED_SHARE[reason] * (self._selected_bucket.capacity - 1))
        return reason if self._selected_bucket.take(now, reserve) else None

    def _is_rare(self, name: str) -> bool:
        total = sum(self._sightings.values())
        enough = total >= MIN_SIGHTINGS * self._weight
        return enough and self._sightings.get(name, 0.0) < self.settings.rare_share * total

    def _count(self, classes: set[str]) -> None:
        """Exponential decay: instead of shrinking old counts, each frame's weight grows."""
        self._weight *= math.exp(1 / DECAY_FRAMES)
        for name in classes:
            self._sightings[name] = self._sightings.get(name, 0.0) + self._weight
        if self._weight > 1000:  # rescale, and forget what has decayed to nothing
            scaled = {name: count / self._weight for name, count in self._sightings.items()}
            self._sightings = {name: count for name, count in scaled.items() if count > 1e-3}
            self._weight = 1.0


class TokenBucket:
    """Fills by ``per_hour`` tokens an hour up to ``capacity``; each frame sent takes one.

    Times are seconds of a monotonic clock. One that goes backwards all the same adds nothing and
    takes nothing away, and a jump forward fills the bucket once: no jump gives a burst beyond
    ``capacity``, and none makes the bucket wait for the old time to come again.
    """

    def __init__(self, per_hour: float, capacity: float, tokens: float | None = None) -> None:
        """``per_hour`` may be ``math.inf``: no limit. Full at first, unless ``tokens`` is given."""
        if per_hour < 0 or capacity < 1:
            raise ValueError(f"expected a rate ≥ 0 and a capacity ≥ 1, got {per_hour}, {capacity}")
        self._per_second = per_hour / 3600
        self.capacity = capacity
        left = capacity if tokens is None or not math.isfinite(tokens) else tokens
        self._tokens = min(max(left, 0.0), capacity)
        self._last: float | None = None

    @property
    def tokens(self) -> float:
        """What is left, as of the last ``take``."""
        return self._tokens

    def take(self, now: float, reserve: float = 0.0) -> bool:
        """Take one token at the time ``now``, if at least ``reserve`` tokens remain after it."""
        if math.isinf(self._per_second):
            return True
        self._fill(now)
        # Sums of floats: a token that is there but for a rounding error is there.
        if self._tokens - 1 < reserve - 1e-9:
            return False
        self._tokens = max(self._tokens - 1, 0.0)
        return True

    def _fill(self, now: float) -> None:
        if not math.isfinite(now):
            return
        passed = max(now - self._last, 0.0) if self._last is not None else 0.0
        self._last = now
        self._tokens = min(self._tokens + passed * self._per_second, self.capacity)


def _bucket(budget: float, share: float, tokens: float | None) -> TokenBucket | None:
    """A part of the budget; None when it is nothing. Its capacity is one token at least."""
    per_hour = budget * share
    if per_hour <= 0:
        return None
    capacity = max(1.0, per_hour * BURST_S / 3600) if math.isfinite(per_hour) else 1.0
    return TokenBucket(per_hour, capacity, tokens)


def read_budget(spool: Path) -> dict[str, float]:
    """The tokens that an earlier process left; empty where the file is missing or damaged."""
    try:
        with (spool / BUDGET_FILE).open("rb") as file:
            found = json.loads(file.read(10_000))
        return {str(name): float(left) for name, left in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def write_budget(spool: Path, tokens: Mapping[str, float]) -> None:
    """Keep the tokens for the next process; on a full disk that one starts with a full budget."""
    try:
        with replacing(spool / BUDGET_FILE) as part:
            part.write_text(json.dumps(tokens))
    except (OSError, SecondlookError) as cause:
        log.debug("the budget is not kept: %s", cause)
