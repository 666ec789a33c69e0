"""Where a training set comes from: a snapshot of a service, a COCO folder or a YOLO folder."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from secondlook.core.errors import InvalidInput, NotFound
from secondlook.core.ontology_yaml import load_ontology
from secondlook.datasets.readers.annotations import Parts
from secondlook.datasets.readers.coco import find_coco, read_coco
from secondlook.datasets.readers.snapshot import read_snapshot
from secondlook.datasets.readers.yolo import find_yolo, read_yolo
from secondlook.datasets.samples import Sample, TrainingSet
from secondlook.detector.manifest import MAX_LINE

HELD_OUT = ("val", "valid", "validation", "test")
"""Parts that a student is measured on, the best first."""
SHARE = 0.2
"""Held out of a dataset without parts."""
BY_HASH = "a fifth by hash"
"""What that part is called."""
_SEED = b"secondlook held out 1"
_NAMED = 5
"""Classes named in a warning."""


def open_training_set(
    source: str,
    *,
    server: str = "",
    split: str = "",
    cache: Path | None = None,
    told: Callable[[int, int], None] | None = None,
) -> TrainingSet:
    """The training set at ``source``: a snapshot's name with ``server``, else a file or folder.

    ``split`` is the part to hold out (empty: val, valid, validation or test, the first there is).

    Without parts of its own, a fifth of the images is held out, chosen by a seeded hash of their
    content: the same images always give the same fifth. ``cache`` is where snapshots are kept
    (None: the user's own); ``told`` hears how many images of a snapshot are here. Raises
    ``NotFound``, ``InvalidInput`` with the way out, and a ``ClientError`` of the service.
    """
    parts = read_snapshot(source, server, cache, told) if server else _of_path(Path(source))
    train, held_out, split, warnings = _divided(parts, split)
    _check_names(parts)
    _check(parts, train, held_out, split)
    warnings = (*parts.warnings, *warnings, *_classes_without_box(parts, train, held_out, split))
    digest = parts.digest or _digest(parts)
    name = _printable(parts.name)
    return TrainingSet(
        name, parts.classes, train, held_out, split, digest, parts.ontology, warnings
    )


def _of_path(path: Path) -> Parts:
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        return _with_ontology(read_yolo(path.resolve().parent.name, path), path.parent)
    if path.is_file():
        root = path.resolve().parent
        return _with_ontology(read_coco(root.name, {"": path}, root), root)
    if not path.is_dir():
        raise NotFound(
            f"there is no file or folder '{path}'; give a COCO or YOLO folder, or for a snapshot "
            "of a service name it with --server HOST:PORT"
        )
    name = path.resolve().name
    files = find_coco(path)
    if files:
        return _with_ontology(read_coco(name, files, path), path)
    yolo = find_yolo(path)
    if yolo:
        return _with_ontology(read_yolo(name, yolo), path)
    raise InvalidInput(
        f"{path} holds neither COCO files (annotations/*.json, */_annotations.coco.json, *.json) "
        "nor a data.yaml; give a folder that does, or a snapshot with --server HOST:PORT"
    )


def _with_ontology(parts: Parts, folder: Path) -> Parts:
    """With the ``ontology.yaml`` beside the data, where it is about the same classes."""
    file = folder / "ontology.yaml"
    if not file.is_file():
        return parts
    try:
        same = set(load_ontology(file).names) == set(parts.classes)
    except InvalidInput:
        same = False
    return replace(parts, ontology=file.read_text(encoding="utf-8")) if same else parts


Divided = tuple[tuple[Sample, ...], tuple[Sample, ...], str, tuple[str, ...]]


def _divided(parts: Parts, split: str) -> Divided:
    """What is learnt, what is held out, what that is called, and what to say about it."""
    filled = {name: samples for name, samples in parts.samples.items() if samples}
    if not filled or not parts.samples.get("train", True):
        part = f"part 'train' of '{parts.name}'" if filled else f"'{parts.name}'"
        raise InvalidInput(f"{part} has no image; label some, or give another dataset")
    if split and (split not in filled or split == "train"):
        known = ", ".join(name for name in filled if name not in ("", "train")) or "none"
        raise InvalidInput(f"'{parts.name}' has no part '{split}' to hold out; there is: {known}")
    others = [name for name in filled if name != "train"]
    held = split or next((name for name in HELD_OUT if name in filled), "")
    if not held and "train" in filled and len(others) == 1:
        held = others[0]
    learnt = "train" if "train" in filled else _only(n for n in others if n not in HELD_OUT)
    if not held or not learnt:
        return _by_hash(parts, filled)
    train, held_out = filled[learnt], filled[held]
    kept_apart = _without(train, held_out)
    if not kept_apart:
        return _by_hash(parts, {learnt: train})
    shared = len(train) - len(kept_apart)
    told = f"{shared:,} images are in both parts; they are held out and not learnt"
    return kept_apart, held_out, held, (told,) if shared else ()


def _only(names: Iterable[str]) -> str:
    found = [*names]
    return found[0] if len(found) == 1 else ""


def _without(train: Sequence[Sample], held_out: Sequence[Sample]) -> tuple[Sample, ...]:
    """``train`` less what is held out too: YOLO files often name one list twice."""
    taken = {sample.path.resolve() for sample in held_out}
    return tuple(sample for sample in train if sample.path.resolve() not in taken)


def _by_hash(parts: Parts, filled: Mapping[str, tuple[Sample, ...]]) -> Divided:
    if len(filled) > 1:
        raise InvalidInput(
            f"'{parts.name}' has the parts {', '.join(filled)}; a training needs one called train "
            "and one called val"
        )
    samples = [_hashed(sample) for sample in next(iter(filled.values()))]
    draws = {s.group or s.sha256: _draw(s.group or s.sha256) for s in samples}
    if len(draws) < 2 and len(samples) > 1 and samples[0].group:
        raise InvalidInput(
            f"all {len(samples):,} images of '{parts.name}' are one group, which is never "
            "divided, so none is left to measure on; freeze one camera's images by time: "
            "`secondlook snapshot create NAME --run RUN --group-by time`"
        )
    if len(draws) < 2:
        raise InvalidInput(
            f"'{parts.name}' has {len(samples)} image(s) and none unlike them to measure on; a "
            "training needs 2 different ones at least, and some hundred to be of use"
        )
    out = {key for key, draw in draws.items() if draw < SHARE} or {
        min(draws, key=draws.__getitem__)
    }
    if len(out) == len(draws):
        out.remove(max(draws, key=draws.__getitem__))
    train = tuple(s for s in samples if (s.group or s.sha256) not in out)
    held_out = tuple(s for s in samples if (s.group or s.sha256) in out)
    told = (
        f"no part is set aside to measure on: {len(held_out):,} of {len(samples):,} images, "
        "chosen by their hash, are held out; images that look alike may fall on both sides"
    )
    return train, held_out, BY_HASH, (told,)


def _hashed(sample: Sample) -> Sample:
    if sample.sha256:
        return sample
    with sample.path.open("rb") as file:
        return replace(sample, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _draw(key: str) -> float:
    """A number in [0, 1) that depends on nothing but ``key``."""
    return int.from_bytes(hashlib.sha256(_SEED + key.encode()).digest()[:8]) / 2**64


def _check_names(parts: Parts) -> None:
    """By the rule of the student's manifest, which is written only in the end."""
    for name in parts.classes:
        if not name or len(name) > MAX_LINE or not name.isprintable():
            raise InvalidInput(
                f"'{parts.name}' has a class {name[:60]!a}; expected names of 1 to {MAX_LINE} "
                "printable characters"
            )


def _printable(name: str) -> str:
    """A folder's name for people: any that the disk allows."""
    return "".join(c if c.isprintable() else "?" for c in name)[:MAX_LINE] or "dataset"


def _check(parts: Parts, train: Sequence[Sample], held_out: Sequence[Sample], split: str) -> None:
    for what, samples, why in (
        ("of 'train'", train, "learnt"),
        (f"of '{split}', which is held out,", held_out, "measured"),
    ):
        if not any(len(sample.boxes) for sample in samples):
            raise InvalidInput(
                f"no image {what} in '{parts.name}' has a label, so nothing can be {why}; label "
                "more images, lower the thresholds, or freeze another snapshot"
            )


def _classes_without_box(
    parts: Parts, train: Sequence[Sample], held_out: Sequence[Sample], split: str
) -> tuple[str, ...]:
    told = []
    for samples, what in (
        (train, "no box to learn from; the student will not find them"),
        (held_out, f"no box in '{split}'; nothing can be said of them"),
    ):
        present = {int(number) for sample in samples for number in sample.classes}
        absent = [name for place, name in enumerate(parts.classes) if place not in present]
        if absent:
            more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
            told.append(f"{', '.join(absent[:_NAMED])}{more}: {what}")
    return tuple(told)


def _digest(parts: Parts) -> str:
    """Of a folder: classes, and each image's part, name, size and boxes."""
    total = hashlib.sha256(json.dumps(parts.classes).encode())
    for part in sorted(parts.samples):
        for sample in sorted(parts.samples[part], key=lambda sample: sample.name):
            size = sample.path.stat().st_size
            fields = [part, sample.name, sample.width, sample.height, size]
            total.update(json.dumps(fields).encode())
            for rows in (sample.boxes, sample.ignore, sample.negatives):
                total.update(len(rows).to_bytes(4) + rows.tobytes())
            for numbers in (sample.classes, sample.ignore_classes, sample.negative_classes):
                total.update(numbers.tobytes())
    return total.hexdigest()
