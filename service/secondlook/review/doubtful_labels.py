"""What was accepted under a guarantee that then ended, and may be worse than it promised.

A guarantee is broken by answers, some time after the precision has fallen. In doubt is what its
jobs accepted since nothing spoke against it for the last time: the estimate of the moment of a
change that goes with a test of the CUSUM kind (Page, "Continuous inspection schemes", 1954).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from secondlook.core.cancellation import check_cancelled
from secondlook.store import Store
from secondlook_client.errors import InvalidInput
from secondlook_client.values import Outcome

PAGE = 200


@dataclass(frozen=True)
class DoubtfulLabel:
    """A label that a job accepted when the guarantee may not have held any more."""

    label: str
    """For ``secondlook explain``."""
    run: str
    """The job."""
    image: str
    """SHA-256, 64 hex digits."""
    name: str
    """Of the image."""
    class_name: str
    box: tuple[float, float, float, float]
    """Pixel xyxy."""
    probability: float
    """That it is right, [0, 1], as far as the models know."""
    decided_at: float
    """Seconds since 1970."""
    reviewed: bool
    """Whether a person has said that it is right, so that it is in doubt no more."""


def doubtful_labels(store: Store, name: str) -> Iterator[DoubtfulLabel]:
    """What is in doubt under the guarantee ``name``, in the order in which it was accepted.

    Boxes that a person has rejected meanwhile are no labels and left out. Raises ``NotFound``, and
    ``InvalidInput`` for a guarantee that has not ended.
    """
    since = store.guarantees.doubtful_since(name)
    if since is None:
        raise InvalidInput(
            f"guarantee '{name}' is neither broken nor withdrawn, so nothing that was accepted "
            "under it is in doubt"
        )
    jobs, after = store.guarantees.jobs(name), 0
    while page := store.results.page_of(jobs, since, after, PAGE):
        after = page[-1][1].cursor
        check_cancelled()
        for run, result in page:
            for place, one in enumerate(result.labelled.judgements):
                if one.decision.outcome is not Outcome.ACCEPT:
                    continue
                yield DoubtfulLabel(
                    result.label_id(place),
                    run.name,
                    result.labelled.sha256,
                    result.labelled.name,
                    one.class_name,
                    one.box,
                    one.decision.probability,
                    result.decided_at,
                    place in result.reviewed,
                )
