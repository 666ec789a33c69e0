"""A snapshot of a service, downloaded into the dataset cache of this machine."""

from collections.abc import Callable
from pathlib import Path

from secondlook.datasets.readers.annotations import ClassBox, ImageBoxes, ParsedDataset, SampleMaker
from secondlook.datasets.samples import Sample
from secondlook_client.dataset import SnapshotDataset
from secondlook_client.dataset_cache import default_cache
from secondlook_client.values import BoxKind, Example


def read_snapshot(
    name: str, server: str, cache: Path | None, progress: Callable[[int, int], None] | None = None
) -> ParsedDataset:
    """All splits of the snapshot ``name`` at ``server`` (host:port), with boxes of every kind.

    Only what the cache lacks is downloaded; ``progress`` is called with (images done, all images).
    Raises a ``SecondlookError``: no such snapshot, no server, images that the server has lost.
    """
    root = cache or default_cache()
    data: SnapshotDataset[Example] = SnapshotDataset(server, name, cache=root, transform=None)
    maker = SampleMaker()
    samples: dict[str, list[Sample]] = {}
    for done, example in enumerate(data, start=1):
        samples.setdefault(example.split, []).append(_sample(example, root, maker))
        if progress:
            progress(done, len(data))
    splits = {split: tuple(found) for split, found in samples.items()}
    ontology = str(data.snapshot.statistics.get("ontology", ""))
    warnings = maker.warnings()
    return ParsedDataset(name, data.classes, splits, warnings, ontology, data.snapshot.manifest)


def _sample(example: Example, root: Path, maker: SampleMaker) -> Sample:
    def of(kind: BoxKind) -> list[ClassBox]:
        return [(box.xyxy, box.class_index) for box in example.of(kind)]

    # Where the cache keeps an image is part of its documented layout.
    path = root / "images" / example.sha256[:2] / example.sha256
    boxes = ImageBoxes(of(BoxKind.LABEL), of(BoxKind.IGNORE), of(BoxKind.HARD_NEGATIVE))
    size = (example.width, example.height)
    return maker.sample(path, example.name, size, boxes, example.sha256, example.group)
