"""Open a training set: a snapshot of a service, a COCO file or folder, or a folder of YOLO, VOC,
CVAT or FiftyOne."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from secondlook.core.ontology_yaml import load_ontology
from secondlook.datasets.bad_images import (
    HEADERS_ONLY,
    ImageCheck,
    digest_of,
    warnings_of,
    without_bad_images,
)
from secondlook.datasets.corrected_sets import open_corrected
from secondlook.datasets.readers.annotations import ParsedDataset
from secondlook.datasets.readers.coco import find_coco, read_coco
from secondlook.datasets.readers.corrected import as_dataset
from secondlook.datasets.readers.cvat import find_cvat
from secondlook.datasets.readers.fiftyone import find_fiftyone
from secondlook.datasets.readers.snapshot import read_snapshot
from secondlook.datasets.readers.voc import find_voc, read_voc
from secondlook.datasets.readers.yolo import find_yolo, read_yolo
from secondlook.datasets.samples import ImageRecord, Sample, TrainingSet, image_key
from secondlook.detector.manifest import MAX_LINE
from secondlook_client.errors import InvalidInput, NotFound
from secondlook_client.ontology import is_one_line
from secondlook_client.values import BACKGROUND, EmptyReason

HELD_OUT = ("val", "valid", "validation", "test")
"""Splits that a student is measured on, the preferred one first."""
SHARE = 0.2
"""Share that is held out of a dataset without splits."""
BY_HASH = "a fifth by hash"
"""The name of that split."""
WRITTEN_FORMATS = ("coco", "coco-polygons", "voc", "cvat", "fiftyone", "yolo-seg", "yolo")
"""Folders that ``secondlook label`` and ``snapshot export`` write. YOLO is the last, because it has
no ignore regions, so that images with an unsure box are not in it."""
_SEED = b"secondlook held out 1"
_NAMED = 5
"""Classes named in a warning."""


def open_training_set(
    source: str,
    *,
    server: str = "",
    split: str = "",
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    check: ImageCheck = HEADERS_ONLY,
    empty: Sequence[EmptyReason] = BACKGROUND,
) -> TrainingSet:
    """The training set at ``source``: a snapshot's name with ``server``, else a file or folder.

    ``split`` is the one to hold out (empty: the first there is of val, valid, validation, test). Of
    a dataset without splits a fifth is held out, chosen by a seeded hash of the images' content:
    the same images always give the same fifth. ``cache`` is the folder of downloaded snapshots
    (None: the user's own); ``progress`` is called with (images downloaded, all images). ``check``
    says how the images are checked and how many of them may be bad. An image without a box of which
    our own COCO says why is left out unless that is in ``empty``; a snapshot has been asked already
    which of them it shall hold. Raises ``NotFound``,
    ``InvalidInput`` with the way out, and a ``SecondlookError`` of the service.
    """
    data = read_snapshot(source, server, cache, progress) if server else read_path(Path(source))
    data = _without_unverified(data, empty)
    samples, record = without_bad_images(_printable(data.name), data.samples, check)
    digest = data.digest or digest_of(data.classes, record)
    data = replace(data, samples=samples)
    train, held_out, split, warnings = _divide(data, split)
    _check_names(data)
    _check_labels(data, train, held_out, split)
    warnings = (
        *data.warnings,
        *warnings_of(record),
        *warnings,
        *_classes_without_box(data, train, held_out, split),
    )
    return TrainingSet(
        _printable(data.name),
        data.classes,
        train,
        held_out,
        split,
        digest,
        data.ontology,
        warnings,
        _with_hashes(record, data, (*train, *held_out)),
    )


def _without_unverified(data: ParsedDataset, empty: Sequence[EmptyReason]) -> ParsedDataset:
    """Without the images whose emptiness is for no reason in ``empty``; a warning counts them."""
    left_out: Counter[EmptyReason] = Counter()
    kept: dict[str, list[Sample]] = {}
    for split, samples in data.samples.items():
        kept[split] = []
        for sample in samples:
            has_box = len(sample.boxes) or len(sample.ignore)
            if sample.empty and sample.empty not in empty and not has_box:
                left_out[sample.empty] += 1
            else:
                kept[split].append(sample)
    taken = f"only {' and '.join(empty)} are" if empty else "none of them is"
    warnings = (
        f"{count:,} images without a box ({reason}) are left out: {taken} taken as background; "
        "--empty says which"
        for reason, count in left_out.items()
    )
    remaining = {split: tuple(found) for split, found in kept.items()}
    return replace(data, samples=remaining, warnings=(*data.warnings, *warnings))


def _with_hashes(
    record: ImageRecord, data: ParsedDataset, divided: Iterable[Sample]
) -> ImageRecord:
    """The record with the hashes that a split was made by."""
    hashes = {sample.path: sample.sha256 for sample in divided if sample.sha256}
    used = dict(record.used)
    for split, samples in data.samples.items():
        for sample in samples:
            if sample.path in hashes:
                key = image_key(split, sample.name)
                used[key] = replace(used[key], sha256=hashes[sample.path])
    return replace(record, used=used)


def read_path(path: Path, images: Path | None = None, masks: bool = False) -> ParsedDataset:
    """The dataset in a file or folder, before it is divided.

    ``images`` is the folder of the images of a COCO file, where it is not beside it; ``masks``:
    read them too, from COCO's run-length codes and polygons and from YOLO's outlines. Raises
    ``NotFound`` and ``InvalidInput``, which name the file, the entry and the way out.
    """
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        return _with_ontology(read_yolo(path.resolve().parent.name, path, masks), path.parent)
    if path.is_file():
        root = path.resolve().parent
        return _with_ontology(read_coco(root.name, {"": path}, root, images, masks), root)
    if not path.is_dir():
        raise NotFound(
            f"there is no file or folder '{path}'; give a COCO, YOLO or VOC folder, or for a "
            "snapshot of a service name it with --server HOST:PORT"
        )
    if (found := _read_folder(path, path.resolve().name, images, masks)) is not None:
        return found
    written = [name for name in WRITTEN_FORMATS if (path / name).is_dir()]
    for name in written:
        found = _read_folder(path / name, path.resolve().name, images, masks)
        if found is not None:
            others = [other for other in written if other != name]
            note = f"{path} has {' and '.join(others)} too; {name} is read" if others else ""
            found = found if found.ontology else _with_ontology(found, path)
            return replace(found, warnings=(*filter(None, [note]), *found.warnings))
    raise InvalidInput(
        f"{path} has neither COCO files (annotations/*.json, */_annotations.coco.json, *.json) "
        "nor a data.yaml or classes.txt of YOLO nor VOC's Annotations/*.xml nor the files of CVAT "
        "or FiftyOne; give a folder that "
        "does, or a snapshot with --server HOST:PORT"
    )


def _read_folder(folder: Path, name: str, images: Path | None, masks: bool) -> ParsedDataset | None:
    """The dataset of a folder in one of the formats; None where it is none."""
    if files := find_coco(folder):
        return _with_ontology(read_coco(name, files, folder, images, masks), folder)
    if yolo := find_yolo(folder):
        return _with_ontology(read_yolo(name, yolo, masks), folder)
    if find_fiftyone(folder) or find_cvat(folder):
        kind = "fiftyone" if find_fiftyone(folder) else "cvat"
        found = as_dataset(name, open_corrected(folder), folder, kind)
        return _with_ontology(found, folder)
    if voc := find_voc(folder):
        return _with_ontology(read_voc(name, voc), folder)
    return None


def _with_ontology(data: ParsedDataset, folder: Path) -> ParsedDataset:
    """Add the ``ontology.yaml`` beside the data, if it has the same classes."""
    file = folder / "ontology.yaml"
    if not file.is_file():
        return data
    try:
        same = set(load_ontology(file).names) == set(data.classes)
    except InvalidInput:
        same = False
    return replace(data, ontology=file.read_text(encoding="utf-8-sig")) if same else data


Division = tuple[tuple[Sample, ...], tuple[Sample, ...], str, tuple[str, ...]]
"""Training samples, held-out samples, the name of the held-out split, and warnings."""


def _divide(data: ParsedDataset, split: str) -> Division:
    filled = {name: samples for name, samples in data.samples.items() if samples}
    if not filled or not data.samples.get("train", True):
        empty = f"split 'train' of '{data.name}'" if filled else f"'{data.name}'"
        raise InvalidInput(f"{empty} has no image; label some, or give another dataset")
    if split and (split not in filled or split == "train"):
        known = ", ".join(name for name in filled if name not in ("", "train")) or "none"
        raise InvalidInput(f"'{data.name}' has no split '{split}' to hold out; there is: {known}")
    others = [name for name in filled if name != "train"]
    held_name = split or next((name for name in HELD_OUT if name in filled), "")
    if not held_name and "train" in filled and len(others) == 1:
        held_name = others[0]
    train_name = "train" if "train" in filled else _only(n for n in others if n not in HELD_OUT)
    if not held_name or not train_name:
        return _divide_by_hash(data, filled)
    train, held_out = filled[train_name], filled[held_name]
    disjoint = _without(train, held_out)
    if not disjoint:
        return _divide_by_hash(data, {train_name: train})
    shared = len(train) - len(disjoint)
    warning = f"{shared:,} images are in both splits; they are held out and not trained on"
    return disjoint, held_out, held_name, (warning,) if shared else ()


def _only(names: Iterable[str]) -> str:
    found = [*names]
    return found[0] if len(found) == 1 else ""


def _without(train: Sequence[Sample], held_out: Sequence[Sample]) -> tuple[Sample, ...]:
    """``train`` without the held-out images: YOLO files often name one list twice."""
    taken = {sample.path.resolve() for sample in held_out}
    return tuple(sample for sample in train if sample.path.resolve() not in taken)


def _divide_by_hash(data: ParsedDataset, filled: Mapping[str, tuple[Sample, ...]]) -> Division:
    if len(filled) > 1:
        raise InvalidInput(
            f"'{data.name}' has the splits {', '.join(filled)}; a training needs one called train "
            "and one called val"
        )
    samples = [_hashed(sample) for sample in next(iter(filled.values()))]
    draws = {s.group or s.sha256: _draw(s.group or s.sha256) for s in samples}
    if len(draws) < 2 and len(samples) > 1 and samples[0].group:
        raise InvalidInput(
            f"all {len(samples):,} images of '{data.name}' are one group, which is never "
            "divided, so none is left to measure on; freeze one camera's images by time: "
            "`secondlook snapshot create NAME --run RUN --group-by time`"
        )
    if len(draws) < 2:
        raise InvalidInput(
            f"'{data.name}' has {len(samples)} image(s), all with the same content, so none can be "
            "held out; a training needs at least 2 different ones, and some hundred to be of use"
        )
    out = {key for key, draw in draws.items() if draw < SHARE} or {
        min(draws, key=draws.__getitem__)
    }
    if len(out) == len(draws):
        out.remove(max(draws, key=draws.__getitem__))
    train = tuple(s for s in samples if (s.group or s.sha256) not in out)
    held_out = tuple(s for s in samples if (s.group or s.sha256) in out)
    warning = (
        f"there is no split to measure on: {len(held_out):,} of {len(samples):,} images, chosen by "
        "their hash, are held out; near duplicates may be on both sides"
    )
    return train, held_out, BY_HASH, (warning,)


def _hashed(sample: Sample) -> Sample:
    if sample.sha256:
        return sample
    with sample.path.open("rb") as file:
        return replace(sample, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _draw(key: str) -> float:
    """A number in [0, 1) that depends on nothing but ``key``."""
    return int.from_bytes(hashlib.sha256(_SEED + key.encode()).digest()[:8]) / 2**64


def _check_names(data: ParsedDataset) -> None:
    """Check the classes by the rule of the student's manifest, which is written only at the end."""
    for name in data.classes:
        if not name.strip() or len(name) > MAX_LINE or not is_one_line(name):
            raise InvalidInput(
                f"'{data.name}' has a class {name[:60]!a}; expected names of 1 to {MAX_LINE} "
                "characters on one line"
            )


def _printable(name: str) -> str:
    """The name of a folder, which may hold any character, for people."""
    return "".join(c if is_one_line(c) else "?" for c in name)[:MAX_LINE] or "dataset"


def _check_labels(
    data: ParsedDataset, train: Sequence[Sample], held_out: Sequence[Sample], split: str
) -> None:
    for what, samples, why in (
        ("of 'train'", train, "trained on"),
        (f"of '{split}', which is held out,", held_out, "measured"),
    ):
        if not any(len(sample.boxes) for sample in samples):
            raise InvalidInput(
                f"no image {what} in '{data.name}' has a label, so nothing can be {why}; label "
                "more images, lower the thresholds, or freeze another snapshot"
            )


def _classes_without_box(
    data: ParsedDataset, train: Sequence[Sample], held_out: Sequence[Sample], split: str
) -> tuple[str, ...]:
    warnings = []
    for samples, what in (
        (train, "no box to learn from; the student will not find them"),
        (held_out, f"no box in '{split}'; they cannot be measured"),
    ):
        present = {int(number) for sample in samples for number in sample.classes}
        absent = [name for place, name in enumerate(data.classes) if place not in present]
        if absent:
            more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
            warnings.append(f"{', '.join(absent[:_NAMED])}{more}: {what}")
    return tuple(warnings)
