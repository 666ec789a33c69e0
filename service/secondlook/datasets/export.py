"""A snapshot as files that others read: COCO, YOLO, Pascal VOC, Parquet and others.

    OUT/coco/annotations/instances_SPLIT.json, images/SPLIT/NAME-HASH.jpg
    OUT/yolo/data.yaml, images/SPLIT/NAME-HASH.jpg, labels/SPLIT/NAME-HASH.txt; likewise unsure/
    OUT/voc/JPEGImages/NAME-HASH.jpg, Annotations/NAME-HASH.xml, ImageSets/Main/SPLIT.txt
    OUT/data/SPLIT-00000.parquet     Parquet, images inside
    OUT/README.md                    the dataset card: counts, and how to open each format
    OUT/statistics.json, contact_sheet.png
    OUT/certificate.json             of the guarantee that the labels are under, if there is one

The images are byte for byte as they were given; those of several formats are hard links, so that
each folder is complete and the disk has them once. Every path in these files is relative, so the
folders can be moved.
"""

import itertools
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import yaml

from secondlook.core import drawing
from secondlook.core.files import explain_write_errors, remove, replacing
from secondlook.core.image_folder import tag_output
from secondlook.core.images import decode
from secondlook.core.ontology_yaml import ontology_from_yaml
from secondlook.core.types import LabelledImage
from secondlook.datasets.manifest import (
    Entry,
    ManifestBox,
    SnapshotManifest,
    entries,
    load_manifest,
)
from secondlook.datasets.query import query_of
from secondlook.datasets.snapshot import empty_counts
from secondlook.datasets.writers import (
    EXPORT_FORMATS,
    SNAPSHOT_FORMATS,
    DoubtfulImages,
    Labels,
    Provenance,
    copied_images,
    write_format,
)
from secondlook.store import Store
from secondlook.store.blobs import Blobs
from secondlook.store.snapshots import SnapshotRow
from secondlook_client.errors import InvalidInput, OutputExists
from secondlook_client.values import (
    Answer,
    BoxKind,
    Decision,
    Judgement,
    LabelResult,
    Outcome,
    Review,
    Verdict,
    View,
)

FORMATS = SNAPSHOT_FORMATS
CERTIFICATE_FILE = "certificate.json"
SHOWN, SHOWN_ROWS = 24, 5
"""Images of the contact sheet at most, and its rows."""
LONGEST_STEM = 40
"""Characters of the name that an image came with; four bytes each still make a file name."""
_OUTCOME_OF = {
    BoxKind.LABEL: Outcome.ACCEPT,
    BoxKind.IGNORE: Outcome.UNSURE,
    BoxKind.HARD_NEGATIVE: Outcome.REJECT,
}


def export(
    store: Store,
    name: str,
    out: Path,
    formats: Sequence[str],
    *,
    unsure: DoubtfulImages = DoubtfulImages.SEPARATE,
    nothing_proposed: DoubtfulImages = DoubtfulImages.BACKGROUND,
    notes: list[str] | None = None,
) -> Path:
    """Write a snapshot into the new folder ``out``, atomically.

    ``unsure`` and ``nothing_proposed`` say what YOLO makes of images in doubt; a snapshot has those
    on which nothing was proposed only if it was asked to. ``notes`` gets sentences about that.
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
    with explain_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as part:
        part.mkdir()
        tag_output(part)
        doubts = unsure, nothing_proposed
        reviews = store.reviews.of_image
        found = _write(store.blobs, snapshot, manifest, part, formats, doubts, reviews)
    if notes is not None:
        notes += found
    return out


def _write(
    blobs: Blobs,
    snapshot: SnapshotRow,
    manifest: SnapshotManifest,
    out: Path,
    formats: Sequence[str],
    doubts: tuple[DoubtfulImages, DoubtfulImages],
    reviews: Callable[[str], Sequence[Review]],
) -> list[str]:
    staged = out / ".images"
    staged.mkdir()
    provenance = _provenance(snapshot, manifest)
    unsure, nothing_proposed = doubts
    splits = {
        split: replace(
            _labels(blobs, manifest, split, staged),
            reviews=reviews,
            provenance=provenance,
            unsure=unsure,
            nothing_proposed=nothing_proposed,
        )
        for split in manifest.splits
        if manifest.count(split)
    }
    notes: list[str] = []
    for name in formats:
        write_format(name, splits, out, notes)
    remove(staged)
    statistics = json.dumps(snapshot.statistics, indent=2, sort_keys=True)
    (out / "statistics.json").write_text(statistics, encoding="utf-8")
    if certificate := query_of(snapshot.query).certificate:
        (out / CERTIFICATE_FILE).write_text(certificate + "\n", encoding="utf-8")
    card = dataset_card(snapshot, manifest, formats, notes)
    (out / "README.md").write_text(card, encoding="utf-8")
    _write_contact_sheet(blobs, manifest, out / "contact_sheet.png")
    return notes


def _provenance(snapshot: SnapshotRow, manifest: SnapshotManifest) -> Provenance | None:
    """None for the snapshots of earlier versions, which do not know their ontology."""
    text = snapshot.statistics.get("ontology")
    if not text:
        return None
    return Provenance(snapshot.created_at, manifest.models, ontology_from_yaml(text))


def _labels(blobs: Blobs, manifest: SnapshotManifest, split: str, staged: Path) -> Labels:
    """The labels of a split; its images are written into ``staged`` once, and linked from there."""

    def results() -> Iterator[tuple[str, LabelResult]]:
        for _, entry in entries(blobs, manifest, split):
            yield file_name(entry), _result(entry, manifest)

    place = copied_images(staged, lambda _, result: blobs.get(result.sha256))
    return Labels(manifest.classes, results, place, True, blobs.get)


def _write_contact_sheet(blobs: Blobs, manifest: SnapshotManifest, path: Path) -> None:
    """Images with labels where there are some; their order is by hash, so it is a fair sample."""
    every = partial(entries, blobs, manifest)
    labelled = itertools.islice((e for _, e in every() if e.of(BoxKind.LABEL)), SHOWN)
    chosen = [*labelled] or [entry for _, entry in itertools.islice(every(), SHOWN)]
    shown = [LabelledImage(entry.sha256, _result(entry, manifest)) for entry in chosen]
    drawing.write_overview(
        path, shown, lambda sha256: decode(blobs.get(sha256)).pixels, manifest.classes, SHOWN_ROWS
    )


def file_name(entry: Entry) -> str:
    """The name of an image in an export: readable, harmless and unlike any other."""
    stem = PurePosixPath(unicodedata.normalize("NFC", entry.name)).stem
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in stem[:LONGEST_STEM])
    suffix = entry.format if entry.format.isalnum() and entry.format.isascii() else "bin"
    return f"{kept.lstrip('-')}-{entry.sha256[:12]}.{suffix}".lstrip("-")


def _result(entry: Entry, manifest: SnapshotManifest) -> LabelResult:
    """The entry as the writers of formats take it."""
    return LabelResult(
        name=entry.name,
        sha256=entry.sha256,
        width=entry.width,
        height=entry.height,
        proposals=len(entry.boxes),
        judgements=tuple(_judgement(box, manifest) for box in entry.boxes),
        proposer="",
        verifier="",
        path=entry.path,
        empty=entry.empty,
    )


def _judgement(box: ManifestBox, manifest: SnapshotManifest) -> Judgement:
    """A manifest keeps of the verdict only P(yes)."""
    verdict = None if box.p_yes is None else Verdict("", View.CROP, Answer(box.p_yes), "", 0.0)
    decision = Decision(_OUTCOME_OF[box.kind], box.probability, box.reason)
    class_name = manifest.classes[box.class_index]
    return Judgement(
        class_name,
        box.xyxy,
        box.score,
        verdict,
        decision,
        segmentation=box.segmentation,
        track=box.track,
    )


def dataset_card(
    snapshot: SnapshotRow,
    manifest: SnapshotManifest,
    formats: Sequence[str],
    notes: Sequence[str] = (),
) -> str:
    """The text of README.md. With Parquet it begins with the header that Hugging Face reads.

    ``notes`` are sentences about what is not as in other formats.
    """
    lines = [
        f"# {snapshot.name}",
        "",
        f"A snapshot by secondlook: {snapshot.images:,} images, manifest",
        f"`{snapshot.manifest}`. The same hash is the same content, everywhere.",
        "",
        *_counts(snapshot, manifest),
        "",
        *_masks_line(snapshot),
        "Boxes are in pixels of the upright image: apply the EXIF orientation first. Of images",
        "without a box, those that are verified empty were asked about as a whole, and the",
        "verifier said no to every class. On the others every proposed box was rejected, or",
        "nothing was proposed, so that nobody looked twice.",
        "",
        *(f"- {EXPORT_FORMATS[name].how_to_open}" for name in formats),
        "",
        *_guarantee_lines(snapshot),
        *(line for note in notes for line in (note, "")),
        f"Labelled by {', '.join(manifest.models)}.",
        "",
        "![some of the images](contact_sheet.png)",
    ]
    header = _header(manifest) if "parquet" in formats else ""
    return header + "\n".join(lines) + "\n"


def _masks_line(snapshot: SnapshotRow) -> list[str]:
    with_mask = snapshot.statistics.get("labels_with_mask", 0)
    if not with_mask:
        return []
    return [f"{with_mask:,} of {snapshot.statistics['labels']:,} labels have a mask.", ""]


def _guarantee_lines(snapshot: SnapshotRow) -> list[str]:
    """What is guaranteed of the labels; nothing for a snapshot without a guarantee."""
    told = snapshot.statistics.get("guarantee")
    ended = snapshot.statistics.get("ended_guarantees", [])
    if not told:
        return ["## Ended guarantees", "", *(f"- {one}." for one in ended), ""] if ended else []
    lines = [f"- {sentence}" for sentence in told["summary"]]
    certificate = f"The whole certificate is in `{CERTIFICATE_FILE}`."
    return ["## Guaranteed precision", "", *lines, "", certificate, ""]


def _header(manifest: SnapshotManifest) -> str:
    files = [
        {"split": split, "path": f"data/{split}-*.parquet"}
        for split in manifest.splits
        if manifest.count(split)
    ]
    content = {"configs": [{"config_name": "default", "data_files": files}]}
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---\n"


def _counts(snapshot: SnapshotRow, manifest: SnapshotManifest) -> list[str]:
    splits = snapshot.statistics["splits"]
    names = [name for name in manifest.splits if name in splits]
    rows = [
        ["images", *(f"{splits[n]['images']:,}" for n in names)],
        ["groups", *(f"{splits[n]['groups']:,}" for n in names)],
        *(
            [what, *(f"{count:,}" for count in counts)]
            for what, counts in empty_counts([splits[n] for n in names]).items()
        ),
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
