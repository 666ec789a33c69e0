"""Other people's detectors plugged in by import path, on real photos, through the real engine."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from secondlook.config.settings import ModelSettings, PipelineSettings
from secondlook.core import boxes as box_ops
from secondlook.core.images import decode
from secondlook.core.types import Labelled
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.models.registry import load_proposer
from secondlook_client.errors import BadOntology, NotFound
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Outcome

Truth = dict[str, list[tuple[str, tuple[float, float, float, float]]]]


@pytest.fixture
def weights(data_dir: Path) -> Path:
    """Folder of the two ``.onnx`` files."""
    return data_dir / "weights"


def labelled(spec: str, files: list[Path], ontology: Ontology) -> Iterator[Labelled]:
    """Every image through pipeline and engine, without a second look."""
    proposer = load_proposer(spec, ModelSettings())
    engine = Engine(Pipeline(proposer, None, PipelineSettings(score_floor=0.05, nms_iou=0.5)))
    try:
        for file in files:
            image = decode(file.read_bytes(), file.name)
            yield engine.submit(Task(image, ontology)).result(timeout=60)
    finally:
        engine.close()


def truth_of(folder: Path) -> Truth:
    """Class and pixel xyxy of every true box, by file name."""
    coco = json.loads((folder / "annotations.json").read_text())
    names = {entry["id"]: entry["name"] for entry in coco["categories"]}
    files = {entry["id"]: entry["file_name"] for entry in coco["images"]}
    found: Truth = {name: [] for name in files.values()}
    for entry in coco["annotations"]:
        x, y, w, h = entry["bbox"]
        box = (x, y, x + w, y + h)
        found[files[entry["image_id"]]].append((names[entry["category_id"]], box))
    return found


def precision_and_recall(
    results: Iterator[Labelled], truth: Truth, same_class: bool, least_side: float = 0
) -> tuple[float, float]:
    """At IoU 0.5, each true box matched once, best score first; small true boxes left out of
    recall."""
    accepted = right = found = sought = 0
    for result in results:
        boxes = truth[result.name]
        actual = np.array([box for _, box in boxes], np.float32).reshape(-1, 4)
        large = (actual[:, 2:] - actual[:, :2]).min(axis=1, initial=np.inf) >= least_side
        free = np.ones(len(boxes), bool)
        labels = sorted(result.of(Outcome.ACCEPT), key=lambda label: -label.score)
        for label in labels:
            overlap = box_ops.iou(np.array([label.box], np.float32), actual)[0]
            meant = [not same_class or label.class_name == name for name, _ in boxes]
            overlap = (
                np.where(free & np.array(meant, bool), overlap, 0) if len(boxes) else np.zeros(1)
            )
            best = int(overlap.argmax())
            if overlap[best] >= 0.5:
                free[best] = False
                right += 1
        accepted += len(labels)
        found += int((~free & large).sum())
        sought += int(large.sum())
    return right / max(accepted, 1), found / max(sought, 1)


def test_fastest_det_finds_everyday_things(weights: Path, data_dir: Path) -> None:
    folder = data_dir / "coco_val128"
    spec = f"onnx_plugins:FastestDet:{weights / 'FastestDet.onnx'}"
    proposer = load_proposer(spec, ModelSettings())
    ontology = Ontology(tuple(ClassSpec(name, threshold=0.5) for name in proposer.classes))
    files = sorted((folder / "images").glob("*.jpg"))
    precision, recall = precision_and_recall(
        labelled(spec, files, ontology), truth_of(folder), same_class=True
    )
    print(f"FastestDet on {len(files)} photos: precision {precision:.3f}, recall {recall:.3f}")
    # Measured 0.420 and 0.370; its publisher's own script reaches 0.41 and 0.33 at this score.
    assert precision >= 0.38
    assert recall >= 0.33


def test_rfb_finds_faces(weights: Path, data_dir: Path) -> None:
    folder = data_dir / "face_mask"
    spec = f"onnx_plugins:RfbFaces:{weights / 'RFB-320.onnx'}"
    files = sorted((folder / "images").glob("*.jpg"))
    ontology = Ontology((ClassSpec("face", threshold=0.6),))
    precision, recall = precision_and_recall(
        labelled(spec, files, ontology), truth_of(folder), same_class=False, least_side=32
    )
    print(f"RFB-320 on {len(files)} photos: precision {precision:.3f}, recall {recall:.3f}")
    # Measured 0.752 and 0.824; many faces wear masks, which it never saw.
    assert precision >= 0.70
    assert recall >= 0.78


def test_a_plug_in_says_what_it_cannot_take(weights: Path) -> None:
    proposer = load_proposer(f"onnx_plugins:RfbFaces:{weights / 'RFB-320.onnx'}", ModelSettings())
    with pytest.raises(BadOntology, match="does not know"):
        proposer.propose([], ["dog"], 0.1)
    with pytest.raises(NotFound, match="has no 'Nothing'"):
        load_proposer("onnx_plugins:Nothing:x", ModelSettings())
