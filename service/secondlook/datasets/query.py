"""What a snapshot shall hold, as a checked value."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from secondlook.core.errors import InvalidInput

SPLIT_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
DIGEST = re.compile(r"[0-9a-f]{16}")


class GroupBy(StrEnum):
    """What keeps images on the same side of a split."""

    AUTO = "auto"
    """Frames of one stream belong together, and so do near duplicates."""
    FOLDER = "folder"
    """Images of one folder belong together, and so do near duplicates."""
    SIMILARITY = "similarity"
    """Near duplicates alone."""
    TIME = "time"
    """Images of one stream, or of one job, belong together while they come one shortly after the
    other, and near duplicates do not: before a fixed camera most images are."""


@dataclass(frozen=True)
class SplitShare:
    """A part of the snapshot, and its weight among the parts."""

    name: str
    weight: float

    def __post_init__(self) -> None:
        if not SPLIT_NAME.fullmatch(self.name):
            raise InvalidInput(
                f"expected a split's name of 1 to 40 letters, digits, '-' or '_', got {self.name!r}"
            )
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise InvalidInput(
                f"split '{self.name}': expected a share above 0, got {self.weight}; to have no "
                "such part, leave it out"
            )


DEFAULT_SPLIT = (SplitShare("train", 0.8), SplitShare("val", 0.2))


@dataclass(frozen=True)
class Query:
    """Which images and boxes a snapshot holds. Raises ``InvalidInput`` for a contradiction."""

    runs: tuple[str, ...] = ()
    """The later counts where several judged a class of an image. Empty: all of ``ontology``."""
    ontology: str = ""
    """Digest that every run must have, 16 hex digits; empty: any."""
    classes: tuple[str, ...] = ()
    """Kept, in this order; empty: every class of the runs' ontologies."""
    since: float | None = None
    """Decided at this time or later, seconds since 1970."""
    until: float | None = None
    """Decided before this time."""
    min_probability: float = 0.0
    """An accepted box below it becomes an ignore region, [0, 1]."""
    empties: bool = True
    """Keep images on which nothing was accepted and nothing is unsure."""
    ignore: bool = True
    """Keep images that have an ignore region. A region cannot be left out alone: an object that
    is not labelled would be learnt as background."""
    hard_negatives: bool = False
    """Keep rejected boxes."""
    split: tuple[SplitShare, ...] = DEFAULT_SPLIT
    group_by: GroupBy = GroupBy.AUTO

    def __post_init__(self) -> None:
        if not self.runs and not self.ontology:
            raise InvalidInput("say which labels to take: name a run, or an ontology by its digest")
        if self.ontology and not DIGEST.fullmatch(self.ontology):
            raise InvalidInput(
                f"expected an ontology's digest of 16 hex digits, got {self.ontology!r}"
            )
        for what, names in (
            ("run", self.runs),
            ("class", self.classes),
            ("split", tuple(share.name for share in self.split)),
        ):
            twice = [name for place, name in enumerate(names) if name in names[:place]]
            if twice:
                raise InvalidInput(f"{what} '{twice[0]}' is given twice; name it once")
        if not self.split:
            raise InvalidInput("the split has no part; give at least one, for example train=1")
        if not 0 <= self.min_probability <= 1:  # also refuses NaN
            raise InvalidInput(f"expected a probability in [0, 1], got {self.min_probability}")
        if self.since is not None and self.until is not None and not self.since < self.until:
            raise InvalidInput("the time ends before it begins; swap since and until")

    def to_json(self) -> str:
        """Canonical JSON; ``query_of`` reads it back."""
        return json.dumps(asdict(self), sort_keys=True)


def query_of(text: str) -> Query:
    """Read what ``Query.to_json`` wrote."""
    plain: Mapping[str, Any] = json.loads(text)
    return Query(
        **{
            **plain,
            "runs": tuple(plain["runs"]),
            "classes": tuple(plain["classes"]),
            "split": tuple(SplitShare(**share) for share in plain["split"]),
            "group_by": GroupBy(plain["group_by"]),
        }
    )
