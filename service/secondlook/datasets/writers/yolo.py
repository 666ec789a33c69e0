"""YOLO: ``data.yaml``, ``labels/`` and ``images/``, ready for the usual trainers.

The images themselves are not copied: ``images/`` holds relative links to them, because trainers
look for the labels of ``images/a.jpg`` at ``labels/a.txt``. Images with an unsure box are kept
out of ``train.txt`` and listed in ``unsure.txt``: YOLO has no ignore regions, and an unlabelled
box would be learnt as background.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import yaml

from secondlook.core.boxes import Xyxy
from secondlook.core.files import replacing
from secondlook.datasets.writers.label_set import Labels
from secondlook_client.values import LabelResult, Outcome


def write(labels: Labels, out: Path) -> Path:
    """Write ``out/yolo``, replacing an older one only once the new one is complete."""
    folder = out / "yolo"
    places = {name: place for place, name in enumerate(labels.classes)}
    with replacing(folder) as part:
        part.mkdir(parents=True)
        _write_yaml(part / "data.yaml", labels.classes)
        with (part / "train.txt").open("wb") as train, (part / "unsure.txt").open("wb") as unsure:
            for name, result in labels.results():
                place = _free_place(part, PurePosixPath(name))
                lines = [_line(j.box, places[j.class_name], result) for j in result.labels]
                _write_text(part / "labels" / place.with_suffix(".txt"), "".join(lines))
                _link(part / "images" / place, labels.root / name, folder / "images" / place)
                doubtful = bool(result.of(Outcome.UNSURE))
                (unsure if doubtful else train).write(os.fsencode(f"./images/{place}\n"))
    return folder


def write_splits(splits: Mapping[str, Labels], out: Path) -> None:
    """Write ``labels/``, ``data.yaml`` and a list for each split beside ``out/images/SPLIT/NAME``.

    The names of the images hold no folder and differ without their suffix too.
    """
    lists = {}
    with (out / "unsure.txt").open("w", encoding="utf-8") as unsure:
        for split, labels in splits.items():
            places = {name: place for place, name in enumerate(labels.classes)}
            lists[split] = f"{split}.txt"
            with (out / lists[split]).open("w", encoding="utf-8") as listed:
                for name, result in labels.results():
                    lines = [_line(j.box, places[j.class_name], result) for j in result.labels]
                    path = out / "labels" / split / PurePosixPath(name).with_suffix(".txt")
                    _write_text(path, "".join(lines))
                    doubtful = bool(result.of(Outcome.UNSURE))
                    (unsure if doubtful else listed).write(f"./images/{split}/{name}\n")
    classes = next(iter(splits.values())).classes
    _write_text(out / "data.yaml", _splits_yaml(lists, classes))


def _splits_yaml(lists: Mapping[str, str], classes: Sequence[str]) -> str:
    """Without ``path``: trainers then look beside the file itself, wherever it is moved to."""
    first = next(iter(lists.values()))
    train = lists.get("train", first)
    # Trainers insist on a val; one that is the train list at least looks like what it is.
    content = {"train": train, "val": lists.get("val", lists.get("test", train))}
    content |= {"test": lists["test"]} if "test" in lists else {}
    text = "# Images with an ignore region are in unsure.txt only: YOLO has no such regions.\n"
    for entry in (content, {"names": dict(enumerate(classes))}):
        text += yaml.safe_dump(entry, sort_keys=False, allow_unicode=True)
    return text


def _write_yaml(path: Path, classes: Sequence[str]) -> None:
    content = {"train": "train.txt", "val": "train.txt"}
    names = {"names": dict(enumerate(classes))}
    text = "# Move some images to a val list before you train; review those in unsure.txt.\n"
    for entry in (content, names):
        text += yaml.safe_dump(entry, sort_keys=False, allow_unicode=True)
    _write_text(path, text)


def _free_place(part: Path, name: PurePosixPath) -> PurePosixPath:
    """Where the image goes below ``images/``.

    ``a.jpg`` and ``a.png`` would share ``labels/a.txt``, and a list file has one name a line.
    """
    place = PurePosixPath(str(name).replace("\n", "_").replace("\r", "_"))
    stem, number = place.stem, 1
    while (part / "labels" / place.with_suffix(".txt")).exists():
        number += 1
        place = place.with_name(f"{stem}-{number}{place.suffix}")
    return place


def _link(link: Path, image: Path, final: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(image.absolute(), final.parent.absolute())
    link.symlink_to(target)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _line(box: Xyxy, place: int, result: LabelResult) -> str:
    x1, y1, x2, y2 = box
    width, height = result.width, result.height
    relative = (
        (x1 + x2) / 2 / width,
        (y1 + y2) / 2 / height,
        (x2 - x1) / width,
        (y2 - y1) / height,
    )
    return f"{place} " + " ".join(f"{min(max(v, 0.0), 1.0):.6f}" for v in relative) + "\n"
