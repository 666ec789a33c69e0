"""What becomes of an attempt: a result, another try, a place aside, or a wait for all.

What fails for a picture's own reasons is tried a few times and set aside. What fails for all (the
store, a model's server, the folder) counts against no picture, unless others came through in the
meantime: then it was this picture after all.
"""

import logging
import time
from collections.abc import Callable

from secondlook.errors import ShuttingDown
from secondlook.jobs.attempts import Attempt, Done
from secondlook.jobs.commits import Commits
from secondlook.jobs.faults import MAX_TRIES, Course, Replaced, backoff_s, course_of, told
from secondlook.jobs.outage import Outage
from secondlook.labels import Labelled
from secondlook.store.queue import Item, NewItem

log = logging.getLogger(__name__)

MAX_WAITS = 10
"""Tries of a picture for which something was away while other pictures came through."""
FREE_S = 900.0
"""After this long an outage counts as tries, or the last pictures would wait for ever."""


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
        """Decide. Raises the failure that would be the same for every picture."""
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
            log.error("a picture failed", extra={"item": attempt.item.name}, exc_info=failure)
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
