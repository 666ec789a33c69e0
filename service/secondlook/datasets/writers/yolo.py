"""YOLO: ``data.yaml``, ``images/SPLIT/`` and ``labels/SPLIT/``, ready for the usual trainers.

YOLO has no ignore regions: an object without a label is learnt as background. So images with an
unsure box, and their sure labels, are in a folder of their own, ``unsure/``, where neither
``data.yaml`` nor a program that takes all of ``images/`` finds them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from secondlook.core.boxes import Xyxy
from secondlook.datasets.writers.label_set import FreeNames, Labels, flat_name
from secondlook_client.values import LabelResult, Outcome


def write(splits: Mapping[str, Labels], folder: Path) -> None:
    """Write everything into ``folder``, which exists and is empty."""
    for split, labels in splits.items():
        numbers = {name: place for place, name in enumerate(labels.classes)}
        images, texts = folder / "images" / split, folder / "labels" / split
        for path in (images, texts):
            path.mkdir(parents=True)
        names = FreeNames(images, ".txt")
        for name, result in labels.results():
            free = names.take(flat_name(name))
            image, text = images / free, texts / free.with_suffix(".txt")
            if result.of(Outcome.UNSURE):
                unsure = folder / "unsure"
                image, text = (unsure / path.relative_to(folder) for path in (image, text))
                for path in (image, text):
                    path.parent.mkdir(parents=True, exist_ok=True)
            labels.place_image(name, result, image)
            lines = [_line(j.box, numbers[j.class_name], result) for j in result.labels]
            text.write_text("".join(lines), encoding="utf-8")
    classes = next(iter(splits.values())).classes
    (folder / "data.yaml").write_text(_yaml([*splits], classes), encoding="utf-8")


def _yaml(splits: Sequence[str], classes: Sequence[str]) -> str:
    """Without ``path``: trainers then look beside the file itself, wherever it is moved to."""
    train = "train" if "train" in splits else splits[0]
    # Trainers insist on a val; one that is the train folder at least looks like what it is.
    val = next((name for name in ("val", "test") if name in splits), train)
    content = {"train": f"images/{train}", "val": f"images/{val}"}
    content |= {"test": "images/test"} if "test" in splits else {}
    text = "# Images with an unsure box are in unsure/: it would be learnt as background.\n"
    if train == val:
        text += "# Move some images and labels to a folder for val before you train.\n"
    for entry in (content, {"names": dict(enumerate(classes))}):
        text += yaml.safe_dump(entry, sort_keys=False, allow_unicode=True)
    return text


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
