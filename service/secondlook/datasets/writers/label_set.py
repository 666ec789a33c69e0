"""What a writer of a format is given."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from secondlook_client.values import LabelResult


@dataclass(frozen=True)
class Labels:
    """Every image's result, readable as often as a format needs."""

    root: Path
    """Where the images lie."""
    classes: Sequence[str]
    """Of the ontology, in order."""
    results: Callable[[], Iterator[tuple[str, LabelResult]]]
    """Gives (path relative to ``root``, with forward slashes; result) anew at each call."""
    hard_negatives: bool = False
    """Whether rejected boxes are wanted, where the format has a place for them."""
    image_bytes: Callable[[str], bytes] | None = None
    """Gives the bytes of an image by its sha256, for formats that hold the images themselves."""
