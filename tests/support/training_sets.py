"""Small datasets to train on: coloured rectangles on grey, in the layouts that people have."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from secondlook.datasets.samples import Sample, TrainingSet, boxes_array, class_array

CLASSES = ("red", "green")
COLOURS = ((220, 30, 30), (30, 200, 60))
Row = tuple[int, tuple[float, float, float, float]]
"""Class and pixel xyxy."""


def drawn(seed: int, width: int = 72, height: int = 60) -> tuple[PILImage.Image, list[Row]]:
    """One rectangle of each class, apart from each other, on noise; equal seeds, equal images."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 130, (height, width, 3)).astype(np.uint8)
    rows: list[Row] = []
    for number, colour in enumerate(COLOURS):
        half = width // 2
        x1 = number * half + int(rng.integers(2, half // 3))
        y1 = int(rng.integers(2, height // 3))
        x2, y2 = x1 + int(rng.integers(12, half // 2)), y1 + int(rng.integers(12, height // 2))
        pixels[y1:y2, x1:x2] = colour
        rows.append((number, (float(x1), float(y1), float(x2), float(y2))))
    return PILImage.fromarray(pixels), rows


def png(image: PILImage.Image) -> bytes:
    """Encoded without loss."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def coco(
    names: Sequence[str], rows: Sequence[Sequence[Row]], size: tuple[int, int] = (72, 60)
) -> dict[str, Any]:
    """A COCO data set of images that are all of one size."""
    annotations = [
        {
            "id": place * 100 + number,
            "image_id": place,
            "category_id": kind + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
        }
        for place, of_image in enumerate(rows)
        for number, (kind, (x1, y1, x2, y2)) in enumerate(of_image)
    ]
    width, height = size
    return {
        "images": [
            {"id": place, "file_name": name, "width": width, "height": height}
            for place, name in enumerate(names)
        ],
        "annotations": annotations,
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(CLASSES)],
    }


def write_images(folder: Path, seeds: Sequence[int]) -> tuple[list[str], list[list[Row]]]:
    """Draw images into ``folder``; their names and rows."""
    folder.mkdir(parents=True, exist_ok=True)
    names, rows = [], []
    for seed in seeds:
        image, of_image = drawn(seed)
        image.save(folder / f"{seed:03}.png")
        names.append(f"{seed:03}.png")
        rows.append(of_image)
    return names, rows


def write_coco(root: Path, parts: Mapping[str, Sequence[int]]) -> Path:
    """``annotations/PART.json`` and ``images/PART/`` as our own export has them, by seeds."""
    (root / "annotations").mkdir(parents=True)
    for part, seeds in parts.items():
        content = coco(*write_images(root / "images" / part, seeds))
        (root / "annotations" / f"{part}.json").write_text(json.dumps(content))
    return root


def write_yolo(root: Path, parts: Mapping[str, Sequence[int]]) -> Path:
    """``data.yaml``, ``images/PART/`` and ``labels/PART/``."""
    lines = "".join(f"{part}: images/{part}\n" for part in parts)
    for part, seeds in parts.items():
        names, rows = write_images(root / "images" / part, seeds)
        (root / "labels" / part).mkdir(parents=True)
        for name, of_image in zip(names, rows, strict=True):
            text = "".join(yolo_line(row) for row in of_image)
            (root / "labels" / part / name.replace(".png", ".txt")).write_text(text)
    (root / "data.yaml").write_text(lines + f"nc: 2\nnames: {list(CLASSES)}\n")
    return root


def write_voc(root: Path, parts: Mapping[str, Sequence[int]]) -> Path:
    """``ImageSets/Main``, ``Annotations`` and ``JPEGImages``."""
    annotations, lists = root / "Annotations", root / "ImageSets" / "Main"
    for folder in (annotations, lists):
        folder.mkdir(parents=True)
    for part, seeds in parts.items():
        names, rows = write_images(root / "JPEGImages", seeds)
        for name, of_image in zip(names, rows, strict=True):
            (annotations / name).with_suffix(".xml").write_text(voc_xml(of_image, name))
        (lists / f"{part}.txt").write_text("".join(f"{seed:03}\n" for seed in seeds))
    return root


def voc_xml(rows: Sequence[Row], name: str = "", more: str = "") -> str:
    """The annotation of a drawn image, its corners counted from 1; ``more`` is XML at its end."""
    objects = "".join(
        f"<object> <name>{CLASSES[number]}</name> <difficult>0</difficult> <bndbox> "
        f"<xmin>{x1 + 1:.0f}</xmin> <ymin>{y1 + 1:.0f}</ymin> <xmax>{x2:.0f}</xmax> "
        f"<ymax>{y2:.0f}</ymax> </bndbox> </object> "
        for number, (x1, y1, x2, y2) in rows
    )
    return (
        f"<?xml version='1.0'?> <annotation> <filename>{name}</filename> <size> <width>72</width> "
        f"<height>60</height> </size> {objects} {more} </annotation>"
    )


def yolo_line(row: Row, width: int = 72, height: int = 60) -> str:
    """Class, centre and size, relative."""
    number, (x1, y1, x2, y2) = row
    values = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
    return f"{number} " + " ".join(f"{value:.8f}" for value in values) + "\n"


def sample_of(folder: Path, seed: int) -> Sample:
    """One drawn image as a sample."""
    image, rows = drawn(seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{seed:03}.png"
    path.write_bytes(png(image))
    none, nobody = boxes_array(()), class_array(())
    return Sample(
        path,
        *image.size,
        path.name,
        "",
        boxes_array(box for _, box in rows),
        class_array(number for number, _ in rows),
        none,
        nobody,
        none,
        nobody,
    )


def training_set(folder: Path, train: int = 12, held_out: int = 4) -> TrainingSet:
    """A set of so many drawn images."""
    samples = [sample_of(folder, seed) for seed in range(train + held_out)]
    parts = tuple(samples[:train]), tuple(samples[train:])
    return TrainingSet("rectangles", CLASSES, *parts, "val", "5" * 64)
