"""What to do about an image that could not be labelled: it depends on whose fault it is."""

import random
from enum import Enum

from secondlook.core.errors import (
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
from secondlook.store.queue import NewItem

MAX_TRIES = 3
"""An image that failed this often for its own reasons is set aside."""


class Unfinished(BadImage):
    """A file that may still be being written: what is wrong with it now may be right soon."""

    @property
    def reason(self) -> str:
        """That of any image that cannot be read."""
        return "bad_image"


class Replaced(Exception):
    """The file is not the one that was listed: ``new`` is what stands there now."""

    def __init__(self, new: NewItem) -> None:
        super().__init__(f"{new.name} was replaced")
        self.new = new


class Course(Enum):
    """How a job goes on after an image failed."""

    ASIDE = "aside"
    """The image will never do: set it aside."""
    AGAIN = "again"
    """It may do later: put it off, and set it aside after ``MAX_TRIES``."""
    WAIT = "wait"
    """Not the image's fault: the job waits until what failed is back."""
    END = "end"
    """Every other image would fail in the same way."""


_COURSES: tuple[tuple[type[Exception], Course], ...] = (
    (Unfinished, Course.AGAIN),
    (BadOntology, Course.END),
    (NotSupported, Course.END),
    (MissingExtra, Course.END),
    (Busy, Course.WAIT),
    (Unavailable, Course.WAIT),
    (StorageFull, Course.WAIT),
    (DeadlineExceeded, Course.WAIT),
    (InvalidInput, Course.ASIDE),
    (NotAllowed, Course.ASIDE),
    (NotFound, Course.AGAIN),
    (Damaged, Course.ASIDE),
)


def course_of(failure: BaseException) -> Course:
    """What to do; anything unknown, such as what a model raises, is tried again."""
    return next((course for kind, course in _COURSES if isinstance(failure, kind)), Course.AGAIN)


def told(failure: BaseException) -> tuple[str, str]:
    """(reason, message) of a failure; short and safe, see ``errors``."""
    if isinstance(failure, SecondlookError):
        return failure.reason, str(failure)
    kind = type(failure).__name__
    return "internal", f"labelling this image failed ({kind}); the server's log has the details"


def backoff_s(tried: int, first_s: float = 1.0, longest_s: float = 60.0) -> float:
    """Seconds before the next try after ``tried`` ones (>= 1): doubling, up to half random.

    Random, or all that failed at one moment would come back at one moment.
    """
    return float(min(longest_s, first_s * 2.0 ** min(tried - 1, 30))) * random.uniform(0.5, 1.0)
