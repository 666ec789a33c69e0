"""Work that nobody waits for any more is given up."""

import threading

import pytest

from secondlook.core.cancellation import (
    Cancellation,
    cancelled_by,
    check_cancelled,
    current_cancellation,
)
from secondlook_client.errors import Cancelled


def test_work_is_given_up_once_it_is_cancelled_and_not_before_or_after() -> None:
    cancellation = Cancellation()
    check_cancelled()
    with cancelled_by(cancellation):
        check_cancelled()
        assert current_cancellation() is cancellation
        cancellation.cancel()
        assert cancellation.cancelled
        with pytest.raises(Cancelled, match="given up"):
            check_cancelled()
    check_cancelled()
    assert current_cancellation() is None


def test_it_concerns_the_thread_that_does_the_work() -> None:
    cancellation, outcomes = Cancellation(), []

    def work(mine: Cancellation) -> None:
        with cancelled_by(mine):
            try:
                check_cancelled()
            except Cancelled:
                outcomes.append("given up")
            else:
                outcomes.append("done")

    cancellation.cancel()
    with cancelled_by(cancellation):
        for mine in (Cancellation(), cancellation):
            thread = threading.Thread(target=work, args=(mine,))
            thread.start()
            thread.join()
    assert outcomes == ["done", "given up"]


def test_what_waits_is_called() -> None:
    cancellation, called = Cancellation(), []
    with cancellation.calling(lambda: called.append("inside")):
        cancellation.cancel()
    with cancellation.calling(lambda: called.append("later")):
        pass
    assert called == ["inside"]
