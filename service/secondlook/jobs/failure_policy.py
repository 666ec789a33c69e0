"""What becomes of an attempt: a result, another try, a place aside, or a wait for all.

What fails for an image's own reasons is tried a few times and set aside. What fails for all (the
store, a model's server, the folder) counts against no image, unless others came through in the
meantime: then it was this image after all.
"""

import logging
import time
from collections.abc import Callable

from secondlook.core.errors import ShuttingDown
from secondlook.core.types import Labelled
from secondlook.jobs.failures import MAX_TRIES, Course, Replaced, backoff_s, course_of, told
from secondlook.jobs.in_flight import Attempt, Done
from secondlook.jobs.result_writer import Commits
from secondlook.store.queue import Item, NewItem

# Something that all images need is away: since when, and when to look again.

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


log = logging.getLogger(__name__)

MAX_WAITS = 10
"""Tries of an image for which something was away while other images came through."""
FREE_S = 900.0
"""After this long an outage counts as tries, or the last images would wait for ever."""


class Triage:
    """Judges ended attempts of one job; belongs to one thread."""

    def __init__(
        self,
        commits: Commits,
        again: Callable[[Item], None],
        replace: Callable[[Item, NewItem], None],
    ) -> None:
        """``again`` takes items to be tried at once, ``replace`` those whose file is another."""
        self.outage = Outage()
        """Of what is needed to label: models, blob store, folder."""
        self._commits = commits
        self._again = again
        self._replace = replace
        self._succeeded_at = 0.0

    def take(self, attempt: Attempt) -> None:
        """Decide. Raises the failure that would be the same for every image."""
        outcome = attempt.outcome
        if isinstance(outcome, Done):
            self._labelled(attempt, outcome)
        elif isinstance(outcome, ShuttingDown):
            self._again(attempt.item)
        elif isinstance(outcome, Replaced):
            self._replace(attempt.item, outcome.new)
        else:
            self._failed(attempt, outcome)

    def _labelled(self, attempt: Attempt, done: Done) -> None:
        silence = unanswered(done.labelled)
        if silence and not self._is_its_own(attempt):
            self._wait(attempt, f"the verifier does not answer: {silence}")
        elif silence and attempt.item.tries + 1 < MAX_TRIES:
            self._put_off(attempt, "verifier_failed", silence)
        else:  # a question that is never answered leaves its box unsure, and says why
            if not silence:
                self._succeeded_at = time.monotonic()
                self.outage.over()
            self._commits.done(attempt.item, done)

    def _failed(self, attempt: Attempt, failure: BaseException) -> None:
        course, (reason, message) = course_of(failure), told(failure)
        if course is Course.END:
            raise failure
        if reason == "internal":
            log.error("an image failed", extra={"item": attempt.item.name}, exc_info=failure)
        if course is Course.WAIT and not self._is_its_own(attempt):
            self._wait(attempt, message)
            return
        tries = MAX_WAITS if course is Course.WAIT else MAX_TRIES
        if course is Course.ASIDE or attempt.item.tries + 1 >= tries:
            self._commits.aside(attempt.item, reason, message)
        else:
            self._put_off(attempt, reason, message)

    def _is_its_own(self, attempt: Attempt) -> bool:
        return self._succeeded_at > attempt.began or self.outage.lasted_s > FREE_S

    def _wait(self, attempt: Attempt, message: str) -> None:
        self.outage.hit(message)
        self._again(attempt.item)

    def _put_off(self, attempt: Attempt, reason: str, message: str) -> None:
        wait_s = backoff_s(attempt.item.tries + 1)
        self._commits.later(attempt.item, reason, message, wait_s)


def unanswered(labelled: Labelled) -> str:
    """Why a question of the second look has no answer at all; empty when each has one."""
    answers = (verdict.answer for verdict in labelled.evidence.verdicts.values())
    return next((answer.error for answer in answers if answer.error), "")
