"""Real models on real photos by the command line, and the named pairs from a hub of our own."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grounding_dino_models
import numpy as np
import pytest
import tiny_vlms
from hub_server import HubServer, use_hub
from label_command import folder_of
from PIL import Image as PILImage
from real_photos import FACE_CLASSES, MASK, SAME_FACE_IOU

from secondlook.cli import run
from secondlook.config.settings import ModelSettings
from secondlook.core import boxes as box_ops
from secondlook.evaluation.average_precision import average_precision_of_images
from secondlook.evaluation.matching import ScoredBox, TrueBox
from secondlook.models.onnx_detector import load
from secondlook.models.photo import PHOTO_PAIRS

ROOT = Path(__file__).parents[2]
CLASSES = [part for one in FACE_CLASSES for part in ("-c", one)]
Truth = dict[str, list[tuple[str, tuple[float, float, float, float]]]]


def boxes_of(coco: Path) -> Truth:
    """Class and pixel xyxy of every box, by file name; ignore regions are left out."""
    content = json.loads(coco.read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    files = {entry["id"]: Path(entry["file_name"]).name for entry in content["images"]}
    found: Truth = {name: [] for name in files.values()}
    for entry in content["annotations"]:
        if not entry.get("iscrowd"):
            x, y, w, h = entry["bbox"]
            box = (x, y, x + w, y + h)
            found[files[entry["image_id"]]].append((names[entry["category_id"]], box))
    return found


def test_a_plug_in_pair_labels_masks(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of the documentation, as its first lines say, on the first 160 photos."""
    weights, folder = data_dir / "weights", data_dir / "face_mask"
    photos = tmp_path / "photos"
    photos.mkdir()
    for file in sorted((folder / "images").iterdir())[:160]:
        shutil.copy(file, photos)
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    pair = ("--proposer", f"faces:load_proposer:{weights}")
    pair += ("--verifier", f"faces:load_verifier:{weights}")
    out = tmp_path / "labels"
    assert run(["label", str(photos), *CLASSES, *pair, "--out", str(out), "--gallery", "0"]) == 0
    (written,) = (out / "coco").rglob("*.json")
    truth = boxes_of(folder / "annotations.json")
    outcome: Counter[str] = Counter()
    for name, labels in boxes_of(written).items():
        actual = truth[name]
        for label, box in labels:
            if label == MASK:
                true_boxes = np.array([b for _, b in actual], np.float32).reshape(-1, 4)
                overlap = box_ops.iou(np.array([box], np.float32), true_boxes)[0]
                near = overlap.max(initial=0) >= SAME_FACE_IOU
                outcome[actual[int(overlap.argmax())][0] if near else "no true box"] += 1
    print(f"masks on 160 photos: {dict(outcome)}")
    assert outcome["with_mask"] >= 310 and outcome["without_mask"] <= 6


def test_a_published_detector_reaches_its_figure(data_dir: Path) -> None:
    """YOLOX-Nano's decoding, letterbox and channels: AP50 is 0.49 by its publisher's script."""
    folder = data_dir / "coco_val128"
    detector = load(str(data_dir / "weights" / "yolox_nano.onnx"), ModelSettings(threads=1))
    images = []
    for name, truth in boxes_of(folder / "annotations.json").items():
        pixels = np.asarray(PILImage.open(folder / "images" / name).convert("RGB"))
        (found,) = detector.detect([pixels], 0.01)
        scored = [
            ScoredBox(detector.classes[column], tuple(map(float, found.boxes[row])), score)
            for row, column in zip(*np.nonzero(found.scores), strict=True)
            for score in [float(found.scores[row, column])]
        ]
        images.append((scored, [TrueBox(label, box) for label, box in truth]))
    reached = average_precision_of_images(images, detector.classes).map50
    print(f"YOLOX-Nano on {len(images)} photos: AP50 {reached:.3f}")
    assert reached is not None and reached >= 0.48


def decided() -> tuple[Any, Any]:
    """A random SmolVLM that says yes or no to everything."""
    model, processor = tiny_vlms.smolvlm()
    yes, no = processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
    weights = model.get_output_embeddings().weight.data
    weights[yes] *= 30
    weights[no] = -weights[yes]
    return model, processor


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with small random models under the names of ``--models photo``, and an empty cache."""
    pair = PHOTO_PAIRS["photo"]
    repositories = {
        pair.proposer.repository: grounding_dino_models.save(tmp_path / "grounding-dino"),
        pair.verifier.repository: tiny_vlms.save(decided(), tmp_path / "smolvlm"),
    }
    with HubServer(repositories) as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "cache")
        yield hub


def test_the_named_pair_is_fetched_once_and_then_needs_no_hub(
    published: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = folder_of(tmp_path / "photos", 2)
    command = ["label", str(photos), "-c", "dog", "--models", "photo", "--out"]
    assert run([*command, str(tmp_path / "first")]) == 0
    told = capsys.readouterr().err
    for model in (PHOTO_PAIRS["photo"].proposer, PHOTO_PAIRS["photo"].verifier):
        assert f"fetching {model.repository} (main, " in told
        assert f"fetched {model.repository}" in told
    assert told.count("licence apache-2.0") == 2 and "demo" not in told
    published.status = 503
    assert run([*command, str(tmp_path / "second")]) == 0
    assert "fetching" not in capsys.readouterr().err
    (written,) = (tmp_path / "second" / "coco").rglob("*.json")
    models = json.loads(written.read_text())["info"]["models"]
    assert [model.partition("@")[0] for model in models] == [
        "grounding-dino-tiny",
        "SmolVLM-500M-Instruct",
    ]


@pytest.mark.parametrize(
    ("words", "models", "told"),
    [
        (["giraffe"], ["--models", "demo"], "cannot find 'giraffe': it has learned person, "),
        (["red ? Is it red?"], ["--models", "demo"], "cannot find 'red'"),
        (["dog ? Is this a poodle?"], ["--models", "demo"], "does not know 'poodle'"),
    ],
)
def test_a_word_that_the_demo_models_cannot_know_is_told_before_an_image_is_sent(
    tmp_path: Path,
    words: list[str],
    models: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos, out = folder_of(tmp_path / "photos", 2), tmp_path / "labels"
    classes = [part for word in words for part in ("-c", word)]
    assert run(["label", str(photos), *classes, *models, "--out", str(out)]) != 0
    said = capsys.readouterr().err
    assert told in said and "--models photo" in said
    assert not (out / "coco").exists()


def test_an_unknown_model_shows_the_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = folder_of(tmp_path / "photos", 1)
    command = ["label", str(photos), "-c", "dog", "--models", "help", "--out", str(tmp_path / "o")]
    assert run(command) != 0
    said = capsys.readouterr().err
    assert "photo-small" in said and "SmolVLM-256M-Instruct, Apache-2.0, 1.2 GB" in said


def test_outputs_of_the_demo_models_say_so(tmp_path: Path) -> None:
    photos, out = folder_of(tmp_path / "photos", 2), tmp_path / "labels"
    assert run(["label", str(photos), "-c", "dog", "--models", "demo", "--out", str(out)]) == 0
    (written,) = (out / "coco").rglob("*.json")
    models = json.loads(written.read_text())["info"]["models"]
    assert [name.partition("@")[0] for name in models] == ["demo-proposer", "demo-verifier"]
    assert "demo-proposer@" in (out / "gallery.html").read_text()
