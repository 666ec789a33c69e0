"""The names by which images are chosen; nothing here needs numpy."""

from enum import StrEnum


class Strategy(StrEnum):
    """How images are chosen."""

    MIXED = "mixed"
    """Uncertain, more so for difficult classes, then unlike each other: the default."""
    UNCERTAINTY = "uncertainty"
    """The highest sum of the boxes' uncertainties."""
    COMMITTEE = "committee"
    """Where proposer and verifier disagree most; with students where they were measured."""
    EXPECTED_CHANGE = "expected-change"
    """What would change a student most, if it learnt the labels that it would give."""
    DIVERSITY = "diversity"
    """Unlike each other and what people have reviewed: k-centre greedy."""
    DENSITY = "density"
    """Each is typical of many that are like it, none of them reviewed: medoids of clusters."""
    TRANSFER = "transfer"
    """Like the images of a target, each of which gets its turn."""
    BALANCE = "balance"
    """Rare classes and rare modes (place, light, device …, found by clustering) as often as
    others."""
    KEYFRAMES = "keyframes"
    """The few frames that show each track, and what happens to it: greedy set cover."""
    RANDOM = "random"

    @property
    def needs_vectors(self) -> bool:
        """Whether it compares images by their embeddings."""
        return self not in WITHOUT_VECTORS


WITHOUT_VECTORS = (
    Strategy.UNCERTAINTY,
    Strategy.COMMITTEE,
    Strategy.EXPECTED_CHANGE,
    Strategy.KEYFRAMES,
    Strategy.RANDOM,
)
"""Strategies that do not ask what looks alike."""


class Measure(StrEnum):
    """What counts as uncertain."""

    LEAST_CONFIDENCE = "least-confidence"
    """What the most probable reading of a box lacks to certainty, doubled, at most 1."""
    MARGIN = "margin"
    """What the most probable reading lacks to leading the second one by 1."""
    ENTROPY = "entropy"
    """Of the distribution over the readings, in bits, at most 1."""
    MONTE_CARLO = "monte-carlo"
    """What `secondlook uncertainty` measured by this method; so are the next two."""
    COMMITTEE = "committee"
    DISTRIBUTION = "distribution"

    @property
    def kept(self) -> bool:
        """Whether it has to be measured first, by `secondlook uncertainty`."""
        return self in (Measure.MONTE_CARLO, Measure.COMMITTEE, Measure.DISTRIBUTION)
