"""Parquet with the images inside, as Hugging Face ``datasets`` reads it without a script.

A row is an image: its file's bytes under ``image``, the reason for which it is ``empty`` (as in
COCO; null where it has a label or ignore region), and under ``objects`` one list a property:
``bbox`` (x, y, width, height in pixels of the upright image), ``category``, ``kind`` (``label``,
``ignore`` or ``hard_negative``), the scores, and ``mask``, COCO's compressed run-length code of a
mask of the image's size (null without one): ``pycocotools.mask.decode({"size": [height, width],
"counts": mask})``. The features are described in the file itself.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secondlook.config.extras import missing_extra
from secondlook.core.boxes import to_xywh
from secondlook.datasets.writers.label_set import Labels
from secondlook.labeling.duplicates import hard_negatives
from secondlook_client.values import LabelResult, Outcome

FILE_BYTES = 400 * 2**20
"""A new file is begun after so many bytes of images."""
GROUP_BYTES = 32 * 2**20
"""Held in memory at a time."""
KINDS = {Outcome.ACCEPT: "label", Outcome.UNSURE: "ignore", Outcome.REJECT: "hard_negative"}


def write(splits: Mapping[str, Labels], folder: Path) -> None:
    """Write files ``SPLIT-00000.parquet`` into ``folder``, which exists and is empty.

    Raises ``MissingExtra`` without pyarrow, and what reading the images raises.
    """
    try:
        import pyarrow
    except ImportError as missing:
        raise missing_extra("Parquet", "parquet") from missing
    for split, labels in splits.items():
        assert labels.image_bytes
        with _SplitFiles(pyarrow, folder, split, labels) as files:
            for name, result in labels.results():
                files.add(_row(name, result, labels, labels.image_bytes(result.sha256)))


class _SplitFiles:
    """The files of one split, each begun when the one before is full."""

    def __init__(self, pyarrow: Any, folder: Path, split: str, labels: Labels) -> None:
        self._pyarrow = pyarrow
        self._path = folder / split
        self._schema = _schema(pyarrow, labels)
        self._rows: list[dict[str, Any]] = []
        self._pending = self._in_file = self._count = 0
        self._file: Any = None

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._pending += len(row["image"]["bytes"])
        if self._pending >= GROUP_BYTES:
            self._flush()

    def __enter__(self) -> "_SplitFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        from pyarrow import parquet

        if self._file is not None and self._in_file >= FILE_BYTES:
            self._file.close()
            self._file, self._in_file = None, 0
        if self._file is None:
            if not self._rows and self._count:
                return
            path = self._path.with_name(f"{self._path.name}-{self._count:05}.parquet")
            # The images are compressed already.
            self._file = parquet.ParquetWriter(path, self._schema, compression="none")
            self._count += 1
        self._file.write_table(self._pyarrow.Table.from_pylist(self._rows, self._schema))
        self._in_file += self._pending
        self._rows, self._pending = [], 0


def _row(name: str, result: LabelResult, labels: Labels, content: bytes) -> dict[str, Any]:
    negatives = hard_negatives(result.judgements) if labels.hard_negatives else set()
    kept = [
        judgement
        for place, judgement in enumerate(result.judgements)
        if judgement.outcome is not Outcome.REJECT or place in negatives
    ]
    return {
        "image": {"bytes": content, "path": name},
        "width": result.width,
        "height": result.height,
        "sha256": result.sha256,
        "name": result.name.encode("utf-8", "replace").decode(),
        "empty": result.empty,
        "objects": {
            "bbox": [to_xywh(judgement.box) for judgement in kept],
            "category": [labels.classes.index(judgement.class_name) for judgement in kept],
            "kind": [KINDS[judgement.outcome] for judgement in kept],
            "probability": [judgement.probability for judgement in kept],
            "score": [judgement.score for judgement in kept],
            "p_yes": [judgement.p_yes for judgement in kept],
            "mask": [judgement.mask.counts if judgement.mask else None for judgement in kept],
        },
    }


def _schema(pyarrow: Any, labels: Labels) -> Any:
    numbers = pyarrow.list_(pyarrow.float32())
    objects = {
        "bbox": pyarrow.list_(pyarrow.list_(pyarrow.float32(), 4)),
        "category": pyarrow.list_(pyarrow.int64()),
        "kind": pyarrow.list_(pyarrow.string()),
        "probability": numbers,
        "score": numbers,
        "p_yes": numbers,
        "mask": pyarrow.list_(pyarrow.string()),
    }
    image = {"bytes": pyarrow.binary(), "path": pyarrow.string()}
    columns = {
        "image": pyarrow.struct(list(image.items())),
        "width": pyarrow.int32(),
        "height": pyarrow.int32(),
        "sha256": pyarrow.string(),
        "name": pyarrow.string(),
        "empty": pyarrow.string(),
        "objects": pyarrow.struct(list(objects.items())),
    }
    described = json.dumps({"info": {"features": _features(labels)}})
    return pyarrow.schema(list(columns.items()), metadata={"huggingface": described})


def _features(labels: Labels) -> dict[str, Any]:
    def value(kind: str) -> dict[str, Any]:
        return {"dtype": kind, "_type": "Value"}

    box = {"feature": value("float32"), "length": 4, "_type": "Sequence"}
    objects = {
        "bbox": box,
        "category": {"names": list(labels.classes), "_type": "ClassLabel"},
        "kind": value("string"),
        **{name: value("float32") for name in ("probability", "score", "p_yes")},
        "mask": value("string"),
    }
    return {
        "image": {"_type": "Image"},
        "width": value("int32"),
        "height": value("int32"),
        "sha256": value("string"),
        "name": value("string"),
        "empty": value("string"),
        "objects": {"feature": objects, "_type": "Sequence"},
    }
