"""What becomes of an attempt: a result, a retry, a failed image, or a pause of the whole job.

What fails for an image's own reasons is retried a few times and then fails. What fails for all (the
store, a model's server, the folder) counts against no image, unless others succeeded in the
meantime: then this image was the cause after all.
"""

import logging
import time
from collections.abc import Callable

from secondlook.core.types import Labelled
from secondlook.jobs.abstentions import AbstentionCheck
from secondlook.jobs.failures import (
    IMAGE_RETRY,
    MAX_ATTEMPTS,
    CircuitBreaker,
    FailureAction,
    Replaced,
    action_for,
    describe_failure,
)
from secondlook.jobs.in_flight import Attempt, LabelledItem
from secondlook.jobs.result_writer import ResultWriter
from secondlook.store.queue import Item, NewItem
from secondlook_client.errors import ShuttingDown

log = logging.getLogger(__name__)

MAX_WAITS = 10
"""Attempts at an image for which something was unavailable while other images succeeded."""
MAX_FREE_S = 900.0
"""After this long an outage counts against images, or the last ones would wait for ever."""


class FailurePolicy:
    """Decides about ended attempts of one job; belongs to one thread."""

    def __init__(
        self,
        results: ResultWriter,
        retry: Callable[[Item], None],
        replace: Callable[[Item, NewItem], None],
    ) -> None:
        """``retry`` takes items to be tried again at once, ``replace`` those with a new file."""
        self.breaker = CircuitBreaker()
        """For what is needed to label: models, blob store, folder."""
        self._results = results
        self._retry = retry
        self._replace = replace
        self._succeeded_at = 0.0
        self._abstentions = AbstentionCheck()

    def handle(self, attempt: Attempt) -> None:
        """Decide about an attempt. Raises a failure that would be the same for every image."""
        outcome = attempt.outcome
        if isinstance(outcome, LabelledItem):
            self._handle_result(attempt, outcome)
        elif isinstance(outcome, ShuttingDown):
            self._retry(attempt.item)
        elif isinstance(outcome, Replaced):
            self._replace(attempt.item, outcome.new)
        else:
            self._handle_failure(attempt, outcome)

    def _handle_result(self, attempt: Attempt, result: LabelledItem) -> None:
        error = verification_error(result.labelled)
        problem = "" if error else self._abstentions.problem(attempt.item.id, result.labelled)
        if problem and self.breaker.open_s <= MAX_FREE_S:
            self._pause(attempt, problem)
            return
        if problem:
            self._abstentions.waive()
        if error and not self._is_own_fault(attempt):
            self._pause(attempt, f"the verifier does not answer: {error}")
        elif error and attempt.item.attempts + 1 < MAX_ATTEMPTS:
            self._retry_later(attempt, "verifier_failed", error)
        else:  # a question that is never answered leaves its box unsure, and says why
            if not error:
                self._succeeded_at = time.monotonic()
                self.breaker.reset()
            self._results.done(attempt.item, result)

    def _handle_failure(self, attempt: Attempt, failure: BaseException) -> None:
        action, (reason, message) = action_for(failure), describe_failure(failure)
        if action is FailureAction.END:
            raise failure
        if reason == "internal":
            log.error("an image failed", extra={"item": attempt.item.name}, exc_info=failure)
        if action is FailureAction.WAIT and not self._is_own_fault(attempt):
            self._pause(attempt, message)
            return
        limit = MAX_WAITS if action is FailureAction.WAIT else MAX_ATTEMPTS
        if action is FailureAction.FAIL or attempt.item.attempts + 1 >= limit:
            self._results.failed(attempt.item, reason, message)
        else:
            self._retry_later(attempt, reason, message)

    def _is_own_fault(self, attempt: Attempt) -> bool:
        return self._succeeded_at > attempt.began or self.breaker.open_s > MAX_FREE_S

    def _pause(self, attempt: Attempt, message: str) -> None:
        self.breaker.trip(message)
        self._retry(attempt.item)

    def _retry_later(self, attempt: Attempt, reason: str, message: str) -> None:
        wait_s = IMAGE_RETRY.backoff_s(attempt.item.attempts + 1)
        self._results.retry(attempt.item, reason, message, wait_s)


def verification_error(labelled: Labelled) -> str:
    """Why a question to the verifier has no answer at all; empty when each has one."""
    evidence = labelled.evidence
    verdicts = (*evidence.verdicts.values(), *evidence.image_verdicts)
    return next((v.answer.error for v in verdicts if v.answer.error), "")
