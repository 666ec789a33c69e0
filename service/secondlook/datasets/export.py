"""A snapshot as files that others read: COCO, YOLO, Pascal VOC and Parquet.

    OUT/images/SPLIT/NAME-HASH.jpg   the images, byte for byte as they were given
    OUT/annotations/SPLIT.json       COCO
    OUT/data.yaml, SPLIT.txt, labels/SPLIT/NAME-HASH.txt    YOLO
    OUT/voc/Annotations/SPLIT/NAME-HASH.xml, voc/ImageSets/Main/SPLIT.txt    Pascal VOC
    OUT/data/SPLIT-00000.parquet     Parquet, images inside
    OUT/README.md, statistics.json, contact_sheet.png

Every path in these files is relative, so the folder can be moved.
"""

import itertools
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import yaml

from secondlook.core import drawing
from secondlook.core.drawing import Shown
from secondlook.core.errors import InvalidInput, OutputExists
from secondlook.core.files import explaining, replacing
from secondlook.core.images import decode
from secondlook.datasets.manifest import Box, BoxKind, Entry, Manifest, entries, load_manifest
from secondlook.datasets.writers import Labels, coco, parquet, voc, yolo
from secondlook.store import Store
from secondlook.store.blobs import Blobs
from secondlook.store.snapshots import Snapshot
from secondlook_client.results import Judgement, LabelPath, LabelResult, Outcome

# The README.md of an export: what is in it and how to open it.

_HOW = {
    "coco": "COCO: `annotations/SPLIT.json`, images in `images/SPLIT`. Regions that nobody is "
    "sure of have `iscrowd` 1; rejected boxes are under `hard_negatives`.",
    "yolo": "YOLO: `yolo detect train data=data.yaml`. Images with a region to ignore are in "
    "`unsure.txt` and no other list.",
    "voc": "Pascal VOC: `voc/Annotations/SPLIT`, images in `images/SPLIT`. Regions that nobody "
    "is sure of have `difficult` 1.",
    "parquet": 'Parquet: `datasets.load_dataset("parquet", data_dir="data")`. Each object has a '
    "`kind`: `label`, `ignore` or `hard_negative`.",
}


def card(snapshot: Snapshot, manifest: Manifest, formats: Sequence[str]) -> str:
    """The text. With Parquet it begins with what Hugging Face ``datasets`` looks for."""
    lines = [
        f"# {snapshot.name}",
        "",
        f"A snapshot by secondlook: {snapshot.images:,} images, manifest",
        f"`{snapshot.manifest}`. The same hash is the same content, everywhere.",
        "",
        *_counts(snapshot, manifest),
        "",
        "Boxes are in pixels of the upright image: apply the EXIF orientation first. An image",
        "without a box was looked at twice and shows none of the classes.",
        "",
        *(f"- {_HOW[name]}" for name in formats),
        "",
        f"Labelled by {', '.join(manifest.models)}.",
        "",
        "![some of the images](contact_sheet.png)",
    ]
    head = _head(manifest) if "parquet" in formats else ""
    return head + "\n".join(lines) + "\n"


def _head(manifest: Manifest) -> str:
    files = [
        {"split": split, "path": f"data/{split}-*.parquet"}
        for split in manifest.splits
        if manifest.count(split)
    ]
    content = {"configs": [{"config_name": "default", "data_files": files}]}
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---\n"


def _counts(snapshot: Snapshot, manifest: Manifest) -> list[str]:
    splits = snapshot.statistics["splits"]
    names = [name for name in manifest.splits if name in splits]
    rows = [
        ["images", *(f"{splits[n]['images']:,}" for n in names)],
        ["groups", *(f"{splits[n]['groups']:,}" for n in names)],
        ["verified empty", *(f"{splits[n]['verified_empty']:,}" for n in names)],
    ]
    for kind in BoxKind:
        counts = {n: splits[n]["classes"] for n in names}
        for class_name in manifest.classes:
            found = [counts[n][class_name][kind] for n in names]
            if kind is BoxKind.LABEL or any(found):
                what = "" if kind is BoxKind.LABEL else f" ({kind.value.replace('_', ' ')})"
                cell = class_name.replace("|", "\\|")
                rows.append([f"{cell}{what}", *(f"{number:,}" for number in found)])
    head = [["", *names], ["---", *("--:" for _ in names)]]
    return [f"| {' | '.join(row)} |" for row in head + rows]


FORMATS = ("coco", "yolo", "voc", "parquet")
SHOWN, SHOWN_ROWS = 24, 5
"""Images of the contact sheet at most, and its rows."""
LONGEST_STEM = 40
"""Characters of the name that an image came with; four bytes each still make a file name."""
_OUTCOMES = {
    BoxKind.LABEL: Outcome.ACCEPT,
    BoxKind.IGNORE: Outcome.UNSURE,
    BoxKind.HARD_NEGATIVE: Outcome.REJECT,
}


def export(store: Store, name: str, out: Path, formats: Sequence[str]) -> Path:
    """Write a snapshot into the new folder ``out``, which appears whole or not at all.

    Raises ``NotFound``, ``OutputExists`` for a folder that holds something, ``InvalidInput`` for an
    unknown format, ``MissingExtra`` (Parquet), ``StorageFull`` and what the store raises.
    """
    unknown = [given for given in formats if given not in FORMATS]
    if unknown or not formats:
        given = unknown[0] if unknown else ""
        raise InvalidInput(f"expected formats {', '.join(FORMATS)}, got '{given:.40}'")
    out = out.resolve()
    snapshot = store.snapshots.get(name)
    manifest = load_manifest(store.blobs, snapshot.manifest)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out} holds something already; give a new or empty folder")
    with explaining(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as part:
        part.mkdir()
        _write(store.blobs, snapshot, manifest, part, formats)
    return out


def _write(
    blobs: Blobs, snapshot: Snapshot, manifest: Manifest, out: Path, formats: Sequence[str]
) -> None:
    parts = {
        split: _labels(blobs, manifest, split, out)
        for split in manifest.splits
        if manifest.count(split)
    }
    if set(formats) - {"parquet"}:
        _write_images(blobs, manifest, out)
    if "coco" in formats:
        (out / "annotations").mkdir()
        for split, labels in parts.items():
            coco.write_file(labels, out / "annotations" / f"{split}.json")
    if "yolo" in formats:
        yolo.write_parts(parts, out)
    if "voc" in formats:
        _write_voc(parts, out)
    if "parquet" in formats:
        parquet.write(parts, out, blobs.get)
    _write_text(out / "statistics.json", json.dumps(snapshot.statistics, indent=2, sort_keys=True))
    _write_text(out / "README.md", card(snapshot, manifest, formats))
    _write_contact_sheet(blobs, manifest, out / "contact_sheet.png")


def _labels(blobs: Blobs, manifest: Manifest, split: str, out: Path) -> Labels:
    def results() -> Iterator[tuple[str, LabelResult]]:
        for _, entry in entries(blobs, manifest, split):
            yield file_name(entry), result_of(entry, manifest)

    return Labels(out / "images" / split, manifest.classes, results, hard_negatives=True)


def _write_images(blobs: Blobs, manifest: Manifest, out: Path) -> None:
    for _, entry in entries(blobs, manifest):
        path = out / "images" / entry.split / file_name(entry)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blobs.get(entry.sha256))


def _write_voc(parts: Mapping[str, Labels], out: Path) -> None:
    def results() -> Iterator[tuple[str, LabelResult]]:
        for split, labels in parts.items():
            for name, result in labels.results():
                yield f"{split}/{name}", result

    classes = next(iter(parts.values())).classes
    voc.write(Labels(out / "images", classes, results), out)
    for split, labels in parts.items():
        names = (PurePosixPath(name).stem for name, _ in labels.results())
        lines = "".join(f"{split}/{name}\n" for name in names)
        _write_text(out / "voc" / "ImageSets" / "Main" / f"{split}.txt", lines)


def _write_contact_sheet(blobs: Blobs, manifest: Manifest, path: Path) -> None:
    """Images with labels where there are some; the order is by hash, so they are a fair draw."""
    every = partial(entries, blobs, manifest)
    labelled = itertools.islice((e for _, e in every() if e.of(BoxKind.LABEL)), SHOWN)
    chosen = [*labelled] or [entry for _, entry in itertools.islice(every(), SHOWN)]
    shown = [Shown(entry.sha256, result_of(entry, manifest)) for entry in chosen]
    drawing.write(path, shown, lambda sha256: decode(blobs.get(sha256)).pixels, SHOWN_ROWS)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def file_name(entry: Entry) -> str:
    """What an image is called in an export: readable, harmless and unlike any other."""
    stem = PurePosixPath(unicodedata.normalize("NFC", entry.name)).stem
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in stem[:LONGEST_STEM])
    suffix = entry.format if entry.format.isalnum() and entry.format.isascii() else "bin"
    return f"{kept.lstrip('-')}-{entry.sha256[:12]}.{suffix}".lstrip("-")


def result_of(entry: Entry, manifest: Manifest) -> LabelResult:
    """The entry as writers of formats take it."""
    return LabelResult(
        name=entry.name,
        sha256=entry.sha256,
        width=entry.width,
        height=entry.height,
        proposals=len(entry.boxes),
        judgements=tuple(_judgement(box, manifest) for box in entry.boxes),
        proposer="",
        verifier="",
        path=LabelPath(entry.path.value),
    )


def _judgement(box: Box, manifest: Manifest) -> Judgement:
    return Judgement(
        class_name=manifest.classes[box.class_index],
        box=box.xyxy,
        score=box.score,
        outcome=_OUTCOMES[box.kind],
        probability=box.probability,
        reason=box.reason,
        p_yes=box.p_yes,
    )
