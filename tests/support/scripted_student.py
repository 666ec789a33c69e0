"""A student that answers from a script, for tests of the cascade's trust and paths."""

from collections.abc import Callable, Sequence

import numpy as np
from fakes import make_image
from numpy.typing import NDArray

from secondlook.cascade.student import StudentAdapter, StudentPrediction
from secondlook.cascade.threshold import MIN_COMPARISONS
from secondlook.config.settings import PipelineSettings
from secondlook.core.types import Labelled, Pixels
from secondlook.detector.detections import Detections
from secondlook.detector.manifest import StudentManifest
from secondlook.labeling.pipeline import Task
from secondlook_client.ontology import ClassSpec, Ontology

Found = tuple[tuple[float, float, float, float], str, float]
"""A box, its class and the probability that it is right."""
DOGS = Ontology((ClassSpec("dog"),))
MIDDLE = (10.0, 7.5, 30.0, 22.5)
"""Where the scripted proposer finds everything on 40×30 pixels."""
TRUSTED_AFTER = MIN_COMPARISONS + 70
"""Images after which a student that agrees is trusted."""


def right(pixels: Pixels) -> list[Found]:
    """The same as the scripted teachers find."""
    return [(MIDDLE, "dog", 0.97)]


def manifest(classes: Sequence[str], ontology: str = "", name: str = "street") -> StudentManifest:
    """Of a student without files."""
    count = len(classes)
    return StudentManifest(
        name=name,
        architecture="deimv2",
        size="pico",
        classes=tuple(classes),
        input_size=(64, 64),
        thresholds=(0.5,) * count,
        calibration=((1.0, 0.0),) * count,
        ontology=ontology,
        snapshot="0" * 64,
        split="val",
        metrics={},
        files={},
        created_at=0.0,
    )


class ScriptedStudent:
    """``script(pixels)`` returns what is found on one image, or raises; ``seen`` counts images."""

    def __init__(
        self,
        classes: Sequence[str],
        script: Callable[[Pixels], Sequence[Found]],
        ontology: str = "",
    ) -> None:
        self.manifest = manifest(classes, ontology)
        self.script = script
        self.seen = 0

    def detect(self, images: Sequence[Pixels], floor: float = 0.05) -> list[Detections]:
        """The script's boxes on each image."""
        self.seen += len(images)
        return [detections(self.manifest.classes, self.script(pixels)) for pixels in images]

    def probability(self, found: Detections) -> NDArray[np.float32]:
        """Scores are probabilities already."""
        return found.scores


def detections(classes: Sequence[str], found: Sequence[Found]) -> Detections:
    """In a detector's form."""
    return Detections(
        np.array([box for box, _, _ in found], dtype=np.float32).reshape(-1, 4),
        np.array([p for _, _, p in found], dtype=np.float32),
        np.array([classes.index(name) for _, name, _ in found], dtype=np.int64),
    )


def prediction(
    found: Sequence[Found],
    ontology: Ontology,
    name: str = "street",
    classes: Sequence[str] | None = None,
) -> StudentPrediction:
    """The prediction of a student that finds this on a plain image of 40×30 pixels."""
    known = manifest(classes or ontology.names)
    adapter = StudentAdapter(known, PipelineSettings(score_floor=0.1))
    seen = detections(known.classes, found)
    return adapter.predict(Task(make_image(name), ontology), seen, seen.scores, ms=1.0)


def by_student(found: Sequence[Found], ontology: Ontology, name: str = "street") -> Labelled:
    """The labels of such a student."""
    return prediction(found, ontology, name).labelled
