"""How many frames may be sent an hour: a token bucket on a clock that never jumps."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

from secondlook.atomic import replacing
from secondlook.errors import SecondlookError

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
