"""Failures of attempts at an image: what a job does about each, and when it retries."""

import time
from enum import Enum

from secondlook.store.queue import NewItem
from secondlook_client.errors import (
    BadImage,
    BadOntology,
    Busy,
    Damaged,
    DeadlineExceeded,
    InvalidInput,
    MissingExtra,
    NotAllowed,
    NotFound,
    NotSupported,
    SecondlookError,
    StorageFull,
    Unavailable,
)
from secondlook_client.retry import RetryPolicy

MAX_ATTEMPTS = 3
"""At an image that fails for its own reasons; then it counts as failed."""
IMAGE_RETRY = RetryPolicy(first_s=1.0, longest_s=60.0)
"""Waits between attempts at one image."""
PROBE_RETRY = RetryPolicy(first_s=0.25, longest_s=30.0)
"""Waits between attempts while something that all images need is unavailable."""


class Unfinished(BadImage):
    """A file that may still be being written, and be readable soon."""

    reason = "bad_image"


class Replaced(Exception):
    """The file is not the one that was listed; ``new`` is the present one."""

    def __init__(self, new: NewItem) -> None:
        super().__init__(f"{new.name} was replaced")
        self.new = new


class FailureAction(Enum):
    """What a job does after an attempt failed."""

    FAIL = "fail"
    """The image can never be labelled: it fails."""
    RETRY = "retry"
    """Retry the image later; it fails after ``MAX_ATTEMPTS``."""
    WAIT = "wait"
    """Not the image's fault: the job waits until the cause is gone."""
    END = "end"
    """Every other image would fail in the same way: the job fails."""


_ACTIONS: tuple[tuple[type[Exception], FailureAction], ...] = (
    (Unfinished, FailureAction.RETRY),
    (BadOntology, FailureAction.END),
    (NotSupported, FailureAction.END),
    (MissingExtra, FailureAction.END),
    (Busy, FailureAction.WAIT),
    (Unavailable, FailureAction.WAIT),
    (StorageFull, FailureAction.WAIT),
    (DeadlineExceeded, FailureAction.WAIT),
    (InvalidInput, FailureAction.FAIL),
    (NotAllowed, FailureAction.FAIL),
    (NotFound, FailureAction.RETRY),
    (Damaged, FailureAction.FAIL),
)


def action_for(failure: BaseException) -> FailureAction:
    """What to do; anything unknown, such as what a model raises, is retried."""
    return next(
        (action for kind, action in _ACTIONS if isinstance(failure, kind)), FailureAction.RETRY
    )


def describe_failure(failure: BaseException) -> tuple[str, str]:
    """(stable code, message) of a failure; short and safe to send."""
    if isinstance(failure, SecondlookError):
        return failure.reason, str(failure)
    kind = type(failure).__name__
    return "internal", f"labelling this image failed ({kind}); the server's log has the details"


class CircuitBreaker:
    """Stops attempts while something that all images need is unavailable, with growing pauses.

    Opened by the first ``trip`` and closed by ``reset``.
    """

    def __init__(self) -> None:
        self.message = ""
        """What is unavailable and what to do; empty while closed."""
        self._since = self._until = 0.0
        self._trips = 0

    def trip(self, message: str) -> None:
        """Note a failure. Those of attempts that were running together count as one."""
        now = time.monotonic()
        self.message = message
        if now < self._until:
            return
        self._since = self._since if self._trips else now
        self._trips += 1
        self._until = now + PROBE_RETRY.backoff_s(self._trips)

    def reset(self) -> None:
        """Close: what was unavailable is back."""
        self.message = ""
        self._since = self._until = 0.0
        self._trips = 0

    @property
    def open(self) -> bool:
        """Whether something is unavailable."""
        return self._trips > 0

    @property
    def pausing(self) -> bool:
        """Whether it is too early for another attempt."""
        return time.monotonic() < self._until

    @property
    def open_s(self) -> float:
        """Seconds since it opened; 0 while closed."""
        return time.monotonic() - self._since if self._trips else 0.0
