"""When a student may label without its teachers: a sequential rule, free of clock and I/O.

Three questions are asked continuously, of one stream of images.

*Where is it certain?* ``threshold`` learns that from every image that both sides have labelled.
What follows is about the images above the threshold.

*Does it agree?* Each audit gives an agreement in [0, 1]; ``core.sequential_test`` tests a claim
about its mean.

Trust is won when the evidence against "the mean agreement is at most ``agreement``" has reached
``EVIDENCE`` and there were ``MIN_AUDITS``; for 0.85 and 100 that takes 37 audits with perfect
agreement, some 55 at 0.95 and 110 at 0.9; at 0.85 at least 100, and below it hardly ever happens.
Trust is lost when the evidence against "it is at least ``agreement − SLACK``" has reached
``COUNTER_EVIDENCE``: three audits that disagree wholly, four at 0.5. The slack keeps a student at
the bound from flickering.

*Is it still the same scene?* At an audit share of 0.1, fifty images bring five audits: too few to
notice a change. ``DriftDetector`` therefore follows features that need no teacher (the agreement
that the student expects, how much it found, its mean probability, the brightness of the image's
parts): a short exponentially weighted moving average of each against a long one, as in an EWMA
control chart (Roberts, Technometrics 1, 1959), in units of how far the short one usually strays.
Measuring the spread of the very average that is tested takes care of frames that resemble the ones
before them, for which the chart's textbook limits, made for independent samples, are too narrow.
Its limit carries no guarantee; the tests measure it on simulated streams. Beyond ``DRIFT_LIMIT``
units (of one feature, or half of that of all together) everything is audited until
``DRIFT_AUDITS`` audits have come in, with the new scene learnt meanwhile, or trust is lost.

A false alarm costs some tens of images for the teachers and nothing else. What neither notices: a
student that goes wrong in the same way as its teachers, and one that goes wrong while the image and
its own answers look as before, until the audits show it (at a share of 0.1 and wholly wrong, 40
images on average).
"""

import random
from collections.abc import Sequence

import numpy as np

from secondlook.cascade.threshold import AdaptiveThreshold
from secondlook.config.settings import CascadeSettings
from secondlook.core.sequential_test import SequentialTest
from secondlook_client.values import LabelPath

SLACK = 0.05
"""Trust is lost below ``agreement − SLACK``."""
MIN_AUDITS = 30
"""Audits before a student is trusted."""
EVIDENCE = 100.0
"""Evidence that wins trust, > 1: at least so many audits, on average, until a false trust."""
COUNTER_EVIDENCE = 20.0
"""Evidence that ends it, > 1. Less, because trust lost wrongly costs little."""
DRIFT_LIMIT = 4.0
"""Usual deviations beyond which the scene counts as changed."""
DRIFT_AUDITS = 10
"""Audits before such an alarm can end."""


class DriftDetector:
    """Notices when features leave the range that they usually keep.

    It reports nothing during the first ``WARM_UP`` rows.
    """

    WARM_UP = 30
    SHORT, LONG = 1 / 8, 1 / 400
    """Weights of a new row in the short and in the long average."""
    ADAPT = 1 / 20
    """In place of ``LONG`` while a change is being audited."""
    JOINT = 2.0
    """Factor on the root mean square over all features: they seldom stray together by chance."""

    def __init__(self, tolerances: Sequence[float]) -> None:
        """``tolerances`` > 0: how far each feature may stray at least without any alarm."""
        self._tolerances = np.asarray(tolerances, dtype=np.float64)
        self._short = np.zeros_like(self._tolerances)
        self._long = np.zeros_like(self._tolerances)
        self._variance = np.zeros_like(self._tolerances)
        self.count = 0

    def update(self, row: Sequence[float], adapt: bool = False) -> float:
        """How unusual the stream has become with this row, in usual deviations, ≥ 0.

        ``adapt`` learns the row quickly, so that the new scene becomes the usual one.
        """
        self.count += 1
        first = 1 / self.count
        if self.count == 1:  # the first row cannot be unusual
            self._long = np.array(row, dtype=np.float64)
        self._short += max(first, self.SHORT) * (np.asarray(row) - self._short)
        strays = self._short - self._long
        usual = np.sqrt(self._variance + self._tolerances**2)
        weight = max(first, self.ADAPT if adapt else self.LONG)
        self._long += weight * strays
        self._variance += weight * (strays**2 - self._variance)
        if self.count <= self.WARM_UP:
            return 0.0
        deviations = np.abs(strays) / usual
        return float(max(deviations.max(), self.JOINT * np.sqrt((deviations**2).mean())))


class Trust:
    """Whether one student may label one stream of images alone. Not thread-safe.

    For each image ask ``should_run``; where it is true, run the student and ask ``route``; pass
    the agreement of each image that the teachers labelled in the end to ``observe``.
    """

    def __init__(
        self, settings: CascadeSettings, tolerances: Sequence[float], seed: int | str = 0
    ) -> None:
        """``tolerances`` belong to the features that ``route`` is given; see ``DriftDetector``."""
        self.settings = settings
        self._tolerances = tuple(tolerances)
        self._random = random.Random(seed)  # audits are a sample, not a secret
        self._reset()

    def _reset(self) -> None:
        """Forget the student's record: at the start, and when trust is lost."""
        self.trusted = False
        self.drifted = False
        """Whether everything is audited because the scene seems to have changed."""
        self._audits_since_drift = 0
        self._drift = DriftDetector(self._tolerances)
        self._threshold = AdaptiveThreshold(self.settings.agreement)
        self._for, self._against = self._test_for_trust(), self._test_against_trust()

    @property
    def teachers_label_all(self) -> bool:
        """Whether the student labels nothing alone at present."""
        return self.drifted or not self.trusted or self._threshold.value is None

    def should_run(self) -> bool:
        """Whether the student shall run on the next image."""
        return self.trusted or self._random.random() < self.settings.shadow_share

    def route(self, expected: float, features: Sequence[float]) -> LabelPath:
        """Who labels an image on which the student ran.

        ``expected``: the agreement that the student expects of its labels, [0, 1]. ``features``:
        what drift is detected from.
        """
        deviation = self._drift.update(features, adapt=self.drifted)
        if self.trusted and deviation > DRIFT_LIMIT:
            self.drifted, self._audits_since_drift = True, 0
        elif self.drifted and self._audits_since_drift >= DRIFT_AUDITS:
            self.drifted = False
        if not self._threshold.accepts(expected):
            return LabelPath.TEACHERS
        if self.teachers_label_all or self._random.random() < self.settings.audit_share:
            return LabelPath.AUDIT
        return LabelPath.STUDENT

    def observe(self, path: LabelPath, expected: float, agreement: float) -> None:
        """Record how far the student's labels agree with the teachers' on one image, [0, 1].

        ``path`` is how it was routed. Images below the threshold say nothing for or against trust;
        they only move the threshold.
        """
        sampled = path is LabelPath.AUDIT and not self.teachers_label_all
        weight = 1 / self.settings.audit_share if sampled else 1.0
        self._threshold.update(expected, agreement, weight)
        if path is LabelPath.AUDIT:
            self._audited(agreement)

    def _audited(self, agreement: float) -> None:
        self._audits_since_drift += 1
        self._for.update(agreement)
        if not self.trusted:
            convinced = self._for.evidence >= EVIDENCE
            if convinced and self._for.count >= MIN_AUDITS:
                self.trusted = True
                self._against = self._test_against_trust()
            return
        self._against.update(agreement)
        if self._against.evidence >= COUNTER_EVIDENCE:
            self._reset()

    def _test_for_trust(self) -> SequentialTest:
        return SequentialTest(self.settings.agreement, claim="at most")

    def _test_against_trust(self) -> SequentialTest:
        return SequentialTest(self.settings.agreement - SLACK, claim="at least")
