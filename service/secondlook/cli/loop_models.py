"""What a learning loop does with models on this machine: embed, vote, train, detect."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secondlook.cli.distill import training_progress
from secondlook.cli.select import Looks, ask_committee, opened_pool, with_changes
from secondlook.cli.uncertainty import opened_detector
from secondlook.config.settings import Settings
from secondlook.selection.choices import Measure, Strategy
from secondlook.training.settings import TrainingSettings
from secondlook_client.errors import Cancelled

if TYPE_CHECKING:
    from secondlook.datasets.samples import Sample, TrainingSet
    from secondlook.detector.detections import Detections
    from secondlook.review.image_pool import RunPool
    from secondlook.store import Store
    from secondlook.store.runs import Run

ROUNDS = "rounds"
"""Folder of the students, below the loop's."""
NO_VALIDATION = 10**6
"""Steps between two validations: of weights that are chosen on the held-out images, the loop would
measure how well they were chosen."""
AT_ONCE = 8


@dataclass(frozen=True)
class LocalLoopModels:
    """The ``LoopModels`` of ``secondlook loop``."""

    store: "Store"
    run: "Run"
    folder: Path
    """Of the loop."""
    settings: Settings
    training: TrainingSettings
    embedder: str
    measure: Measure
    stopped: Callable[[], bool]

    def pool(
        self, strategy: Strategy, students: Sequence[str], left_out: Collection[str]
    ) -> "RunPool":
        """See ``LoopModels``. Raises ``Cancelled``."""
        folders = [str(self.folder / one) for one in students]
        store, run, settings, stopped = self.store, self.run, self.settings, self.stopped
        measure = self.measure
        if strategy is Strategy.COMMITTEE and len(folders) > 1:
            if ask_committee(store, run, folders, settings, stopped).stopped:
                raise _stopped()
            measure = Measure.COMMITTEE
        looks = Looks(self.embedder, by_boxes=False) if strategy.needs_vectors else None
        found = opened_pool(store, run, measure, looks, settings, stopped, left_out)
        if found and found.images and strategy is Strategy.EXPECTED_CHANGE:
            found = with_changes(store, run, found, folders[-1], settings, stopped)
        if found is None:
            raise _stopped()
        return found

    def train(self, number: int, data: "TrainingSet") -> str:
        """See ``LoopModels``; goes on where it was stopped. Raises as ``distill``."""
        from secondlook.training.distill import distill

        name = f"{ROUNDS}/{number}"
        out = self.folder / name
        out.mkdir(parents=True, exist_ok=True)
        settings = self.training.replace(validate_every=NO_VALIDATION)
        with training_progress(out, "bar") as tell:
            distill(data, settings, out, tell, self.stopped, int8="never")
        return name

    def detect(self, student: str, samples: "Sequence[Sample]") -> "list[Detections]":
        """See ``LoopModels``. Raises ``Damaged`` for a student whose files have changed."""
        from secondlook.datasets.image_cache import read_pixels

        found: list[Detections] = []
        with opened_detector(str(self.folder / student)) as (detect, _, _):
            for at in range(0, len(samples), AT_ONCE):
                found += detect([read_pixels(one) for one in samples[at : at + AT_ONCE]])
        return found


def _stopped() -> Cancelled:
    return Cancelled("stopped; what was computed is kept")
