"""Contrast groups in what a student found, resolved as a device resolves them.

The classes of a group are compared by the probability that a detection is right before any is
dropped. What is left is right more often than that, as its rivals have lost: it has a calibration
of its own, made as without groups. (One calibration for both would be made from its own choices. It
drifts: of a student that cannot tell two classes apart it prefers the rarer one.)
"""

from collections.abc import Sequence

from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections, calibrated, resolve_contrasts
from secondlook.evaluation.calibration import Fit, fit_classes
from secondlook.evaluation.matching import judge_classes


def group_calibration(
    samples: Sequence[Sample], found: Sequence[Detections], groups: Sequence[str]
) -> list[Fit]:
    """The fit of each class by which those of one group are compared.

    ``found[i]`` on ``samples[i]``, class by class; ``groups`` as in a student's manifest. Raises
    ``MissingExtra`` without scipy.
    """
    return fit_classes(judge_classes(samples, found, len(groups)))


def without_contradictions(
    found: Sequence[Detections], groups: Sequence[str], fits: Sequence[Fit]
) -> list[Detections]:
    """What ``resolve_contrasts`` leaves on each image, by the probabilities of ``fits``."""
    return [resolve_contrasts(one, calibrated(one, fits), groups) for one in found]
