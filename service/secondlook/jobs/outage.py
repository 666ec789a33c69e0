"""Something that all pictures need is away: since when, and when to look again."""

import time

from secondlook.jobs.faults import backoff_s

LONGEST_S = 30.0
"""Between two looks at whether it is back."""


class Outage:
    """Begins with the first ``hit`` and ends with ``over``."""

    def __init__(self) -> None:
        self.message = ""
        """What is away and what to do; empty while nothing is."""
        self._since = self._until = 0.0
        self._hits = 0

    def hit(self, message: str) -> None:
        """Another failure. Those of attempts that were under way together count as one."""
        now = time.monotonic()
        self.message = message
        if now < self._until:
            return
        self._since = self._since if self._hits else now
        self._hits += 1
        self._until = now + backoff_s(self._hits, first_s=0.25, longest_s=LONGEST_S)

    def over(self) -> None:
        """It is back."""
        self.message = ""
        self._since = self._until = 0.0
        self._hits = 0

    @property
    def on(self) -> bool:
        """Whether it is away."""
        return self._hits > 0

    @property
    def holds(self) -> bool:
        """Whether it is too early to look again."""
        return time.monotonic() < self._until

    @property
    def lasted_s(self) -> float:
        """Seconds since it began; 0 while nothing is away."""
        return time.monotonic() - self._since if self._hits else 0.0
