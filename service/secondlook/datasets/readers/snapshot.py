"""A snapshot of a service, pulled into the cache of datasets on this machine."""

from collections.abc import Callable
from pathlib import Path

from secondlook.datasets.readers.annotations import Known, Named, Parts, Tally
from secondlook.datasets.samples import Sample
from secondlook_client.dataset import BoxKind, Example, SnapshotDataset
from secondlook_client.dataset_cache import default_cache


def read_snapshot(
    name: str, server: str, cache: Path | None, told: Callable[[int, int], None] | None = None
) -> Parts:
    """All parts of the snapshot ``name`` at ``server`` (host:port), every box of every kind.

    What the cache has is not fetched again; ``told`` hears (images that are here, all of them).
    Raises a ``ClientError``: no such snapshot, no server, images that the server has lost.
    """
    root = cache or default_cache()
    data: SnapshotDataset[Example] = SnapshotDataset(server, name, cache=root)
    tally = Tally()
    samples: dict[str, list[Sample]] = {}
    for done, example in enumerate(data, start=1):
        samples.setdefault(example.split, []).append(_sample(example, root, tally))
        if told:
            told(done, len(data))
    parts = {split: tuple(found) for split, found in samples.items()}
    ontology = str(data.snapshot.statistics.get("ontology", ""))
    warnings = tally.warnings(root)
    return Parts(name, data.classes, parts, warnings, ontology, data.snapshot.manifest)


def _sample(example: Example, root: Path, tally: Tally) -> Sample:
    def of(kind: BoxKind) -> list[Named]:
        return [(box.xyxy, box.class_index) for box in example.of(kind)]

    # Where the cache keeps an image is part of its documented layout.
    path = root / "images" / example.sha256[:2] / example.sha256
    known = Known(of(BoxKind.LABEL), of(BoxKind.IGNORE), of(BoxKind.HARD_NEGATIVE))
    size = (example.width, example.height)
    return tally.sample(path, example.name, size, known, example.sha256, example.group)
