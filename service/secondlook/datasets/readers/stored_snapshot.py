"""A snapshot of a store on this disk, without a server; its images are the store's own files."""

from collections.abc import Callable
from pathlib import Path

from secondlook.datasets.manifest import Entry, entries, load_manifest
from secondlook.datasets.readers.annotations import ClassBox, ImageBoxes, ParsedDataset, SampleMaker
from secondlook.datasets.samples import Sample
from secondlook.store import BLOBS_FOLDER, Store
from secondlook.store.blobs import blob_path
from secondlook_client.values import BoxKind


def read_stored_snapshot(
    store: Store,
    data: Path,
    name: str,
    split_of: Callable[[Entry], str],
) -> ParsedDataset:
    """The snapshot ``name`` of the store in the folder ``data``, with boxes of every kind.

    ``split_of`` says into which split an image goes; empty leaves it out. Raises ``NotFound`` and
    ``Damaged``.
    """
    row = store.snapshots.get(name)
    manifest = load_manifest(store.blobs, row.manifest)
    maker = SampleMaker()
    samples: dict[str, list[Sample]] = {}
    for _, entry in entries(store.blobs, manifest):
        if split := split_of(entry):
            path = data / BLOBS_FOLDER / blob_path(entry.sha256)
            samples.setdefault(split, []).append(_sample(entry, path, maker))
    return ParsedDataset(
        name,
        manifest.classes,
        {split: tuple(found) for split, found in samples.items()},
        maker.warnings(),
        str(row.statistics.get("ontology", "")),
        row.manifest,
    )


def _sample(entry: Entry, path: Path, maker: SampleMaker) -> Sample:
    def of(kind: BoxKind) -> list[ClassBox]:
        return [(box.xyxy, box.class_index) for box in entry.of(kind)]

    boxes = ImageBoxes(of(BoxKind.LABEL), of(BoxKind.IGNORE), of(BoxKind.HARD_NEGATIVE))
    size = (entry.width, entry.height)
    return maker.sample(path, entry.name, size, boxes, entry.sha256, entry.group)
