"""Which images and boxes a snapshot holds, as a checked value."""

import json
import math
import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from secondlook_client.errors import InvalidInput
from secondlook_client.values import BACKGROUND, EmptyReason, GroupBy

SPLIT_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
DIGEST = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class SplitShare:
    """A split of the snapshot, and its weight among the splits."""

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
                "such split, leave it out"
            )


DEFAULT_SPLIT = (SplitShare("train", 0.8), SplitShare("val", 0.2))


@dataclass(frozen=True)
class Query:
    """Which images and boxes a snapshot holds. Raises ``InvalidInput`` for a contradiction."""

    runs: tuple[str, ...] = ()
    """Where several judged a class of an image, the last one counts. Empty: all of ``ontology``."""
    ontology: str = ""
    """Digest that every run must have, 16 hex digits; empty: any."""
    classes: tuple[str, ...] = ()
    """The classes kept, in this order; empty: every class of the runs' ontologies."""
    since: float | None = None
    """Only images decided at this time or later, seconds since 1970."""
    until: float | None = None
    """Only images decided before this time."""
    min_probability: float = 0.0
    """An accepted box below it becomes an ignore region, [0, 1]."""
    empty: tuple[EmptyReason, ...] = BACKGROUND
    """Which images with neither an accepted nor an unsure box are kept. What nobody looked at twice
    is no background: of an image on which nothing was proposed, objects may have been missed."""
    ignore: bool = True
    """Keep images that have an ignore region. Leaving out only the region is no choice: an object
    that is not labelled would be learnt as background."""
    hard_negatives: bool = False
    """Keep rejected boxes."""
    split: tuple[SplitShare, ...] = DEFAULT_SPLIT
    group_by: GroupBy = GroupBy.AUTO
    guarantee: str = ""
    """Name of a guarantee that was applied: its run and its classes are taken, and no others.
    Empty: none."""
    certificate: str = ""
    """JSON of its certificate when the snapshot was made; ``create_snapshot`` fills it in."""

    def __post_init__(self) -> None:
        if not (self.runs or self.ontology or self.guarantee):
            raise InvalidInput(
                "say which labels to take: name a run, a guarantee, or an ontology by its digest"
            )
        if self.ontology and not DIGEST.fullmatch(self.ontology):
            raise InvalidInput(
                f"expected an ontology's digest of 16 hex digits, got {self.ontology!r}"
            )
        for what, names in (
            ("run", self.runs),
            ("class", self.classes),
            ("empty", self.empty),
            ("split", tuple(share.name for share in self.split)),
        ):
            if len(set(names)) < len(names):
                twice, _ = Counter(names).most_common(1)[0]
                raise InvalidInput(f"{what} '{twice:.200}' is given twice; name it once")
        if not self.split:
            raise InvalidInput("there is no split; give at least one, for example train=1")
        if not 0 <= self.min_probability <= 1:  # also refuses NaN
            raise InvalidInput(f"expected a probability in [0, 1], got {self.min_probability}")
        if self.since is not None and self.until is not None and not self.since < self.until:
            raise InvalidInput("the time ends before it begins; swap since and until")

    def to_json(self) -> str:
        """Canonical JSON; ``query_of`` reads it back."""
        return json.dumps(asdict(self), sort_keys=True)


def query_of(text: str) -> Query:
    """Read what ``Query.to_json`` wrote, and ``empties`` (all or none) of earlier versions."""
    fields: dict[str, Any] = json.loads(text)
    every = tuple(EmptyReason) if fields.pop("empties", True) else ()
    return Query(
        **{
            **fields,
            "empty": tuple(EmptyReason(reason) for reason in fields.get("empty", every)),
            "runs": tuple(fields["runs"]),
            "classes": tuple(fields["classes"]),
            "split": tuple(SplitShare(**share) for share in fields["split"]),
            "group_by": GroupBy(fields["group_by"]),
        }
    )
