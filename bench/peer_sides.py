"""The sides of the suite ``peers``, each in a process of its own, since peers pin other packages.

    python -m bench.peer_sides SIDE FOLDER

A side loads its models (FOLDER holds what all sides share) and then answers each line that it
reads with a line of JSON: ``run`` with the seconds that it took, ``check`` with what was found on
each image. A side that cannot be loaded answers with the reason and ends. Only what runs in the
project's own environment imports the product.
"""

import io
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PHRASE = "person"
"""One, and one token long: autodistill asks for one phrase at a time, and peers score tokens."""
TOKEN = 1
"""Its place in the caption: [CLS] person . [SEP]."""
THRESHOLD = 0.35
SCENES = 8
"""Images of the demo world in one run of both stages."""
FRAMES = 32
"""Images in one run of a student."""
FLOOR, NMS_IOU, MOST = 0.05, 0.7, 100
"""Of the student's detections, as ``detector`` has them."""

COMPUTED = re.compile(
    r".*(pooler|position_ids|relative_position_index)"
    r"|transformer\.decoder\.bbox_embed\.|bbox_embed\.[1-9]"
)
"""Weights of the authors' model that it computes, does without, or has under another name too."""

Found = dict[str, list[Any]]
"""``boxes`` (pixel xyxy), ``scores`` and ``classes`` of one image."""


@dataclass(frozen=True)
class Side:
    """What one side does with the images."""

    run: Callable[[], object]
    """All images once, as its users would: this is timed."""
    check: Callable[[], list[Found]]
    """What the same models find, an image each."""


def main(name: str, folder: Path) -> None:
    """Load the side ``name`` and answer the lines of stdin."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what packages print is no answer

    def reply(**fields: Any) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    try:
        side = SIDES[name](folder)
    except Exception as failure:  # the suite names the reason
        reply(failed=f"{type(failure).__name__}: {failure}")
        return
    reply(ready=name)
    for line in sys.stdin:
        if line.strip() == "check":
            reply(found=side.check())
            continue
        started = time.perf_counter()
        side.run()
        reply(seconds=time.perf_counter() - started)


def _detector_of_ours(folder: Path) -> Side:
    """This project's proposer, with its default settings."""
    from secondlook.config.settings import ModelSettings
    from secondlook.core.images import decode
    from secondlook.models import grounding_dino

    proposer = grounding_dino.load(str(folder / "model"), ModelSettings())
    images = [decode((folder / "image.png").read_bytes())]

    def check() -> list[Found]:
        found = proposer.propose(images, [PHRASE], 0.0)[0]
        return [_as_found(found.boxes, found.scores[:, 0])]

    return Side(lambda: proposer.propose(images, [PHRASE], THRESHOLD), check)


def _detector_of_transformers(folder: Path) -> Side:
    """transformers' processor, model and post-processing."""
    import torch
    from PIL import Image as PILImage

    from bench.baseline import BaselineProposer

    proposer = BaselineProposer(folder / "model")
    image = PILImage.open(folder / "image.png").convert("RGB")

    def check() -> list[Found]:
        inputs = proposer.processor(images=image, text=f"{PHRASE} .", return_tensors="pt")
        with torch.inference_mode():
            output = proposer.model(**inputs)
        return [_of_relative(output.pred_boxes[0], output.logits[0], image.width, image.height)]

    return Side(lambda: proposer.boxes(image, [PHRASE], THRESHOLD), check)


def _detector_of_authors(folder: Path) -> Side:
    """The authors' package as its README calls it, around the same weights."""
    import torch
    from groundingdino.datasets import transforms
    from groundingdino.models import build_model
    from groundingdino.util.inference import predict
    from groundingdino.util.slconfig import SLConfig
    from PIL import Image as PILImage
    from transformers import BertConfig, BertTokenizer

    from secondlook.models.groundingdino_py import text_encoder

    settings = SLConfig.fromfile(str(_authors_config()))
    settings.device = "cpu"
    settings.use_checkpoint = settings.use_transformer_ckpt = False
    # Its own wrapper of BERT needs transformers 4, so BERT is built as the product builds it.
    with text_encoder(BertTokenizer.from_pretrained(folder / "bert"), BertConfig()):
        model = build_model(settings).eval()
    _load_authors_weights(model, folder)
    change = transforms.Compose(
        [
            transforms.RandomResize([800], max_size=1333),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    image = PILImage.open(folder / "image.png").convert("RGB")

    def run() -> object:
        pixels, _ = change(image, None)
        return predict(model, pixels, PHRASE, THRESHOLD, THRESHOLD, device="cpu")

    def check() -> list[Found]:
        pixels, _ = change(image, None)
        with torch.inference_mode():
            output = model(pixels[None], captions=[f"{PHRASE}."])
        boxes, logits = output["pred_boxes"][0], output["pred_logits"][0]
        return [_of_relative(boxes, logits, image.width, image.height)]

    return Side(run, check)


def _detector_of_autodistill(folder: Path) -> Side:
    """autodistill's own loader and ``predict``; its files lie where it would download them to."""
    import torch

    home = folder / "home" / ".cache" / "autodistill" / "groundingdino"
    home.mkdir(parents=True, exist_ok=True)
    os.environ["HOME"] = str(folder / "home")
    config = _authors_config().read_text()
    config = config.replace('"bert-base-uncased"', repr(str(folder / "bert")))
    (home / "GroundingDINO_SwinT_OGC.py").write_text(config)
    (home / "groundingdino_swint_ogc.pth").unlink(missing_ok=True)
    (home / "groundingdino_swint_ogc.pth").symlink_to(folder / "authors.pth")

    from autodistill.detection import CaptionOntology
    from autodistill_grounding_dino import GroundingDINO
    from groundingdino.util.inference import Model

    labeler = GroundingDINO(CaptionOntology({PHRASE: PHRASE}), THRESHOLD, THRESHOLD)
    network = labeler.grounding_dino_model.model
    _load_authors_weights(network, folder)
    path = str(folder / "image.png")

    def check() -> list[Found]:
        import cv2

        image = cv2.imread(path)
        assert image is not None
        pixels = Model.preprocess_image(image_bgr=image)
        with torch.inference_mode():
            output = network(pixels[None], captions=[f"{PHRASE}."])
        boxes, logits = output["pred_boxes"][0], output["pred_logits"][0]
        return [_of_relative(boxes, logits, image.shape[1], image.shape[0])]

    return Side(lambda: labeler.predict(path), check)


def _authors_config() -> Path:
    import groundingdino

    return Path(groundingdino.__file__).parent / "config" / "GroundingDINO_SwinT_OGC.py"


def _load_authors_weights(model: Any, folder: Path) -> None:
    """Checked, as their own loader says nothing of weights that are missing."""
    import torch

    weights = torch.load(folder / "authors.pth", weights_only=True)["model"]
    report = model.load_state_dict(weights, strict=False)
    missing = [name for name in report.missing_keys if not COMPUTED.match(name)]
    if missing or report.unexpected_keys:
        raise RuntimeError(f"other weights: {missing[:2]} {report.unexpected_keys[:2]}")


def _stages_of_ours(folder: Path) -> Side:
    """Both stages in this project's engine, as the service runs it."""
    from bench import fixtures
    from secondlook.core.images import decode
    from secondlook.labeling.engine import Engine
    from secondlook.labeling.pipeline import Task
    from secondlook_client.values import Outcome

    del folder
    engine, ontology = Engine(fixtures.pipeline()), fixtures.ontology()
    encoded = fixtures.jpegs(SCENES)

    def label() -> list[Any]:
        futures = [engine.submit(Task(decode(content), ontology)) for content in encoded]
        return [future.result() for future in futures]

    def check() -> list[Found]:
        accepted = [labelled.of(Outcome.ACCEPT) for labelled in label()]
        return [
            {
                "boxes": [list(map(float, one.box)) for one in of_image],
                "scores": [float(one.score) for one in of_image],
                "classes": [one.class_name for one in of_image],
            }
            for of_image in accepted
        ]

    return Side(label, check)


def _stages_of_transformers(folder: Path) -> Side:
    """Proposals of one image at a time, then one ``generate`` a box."""
    from PIL import Image as PILImage

    from bench import baseline, fixtures

    del folder
    proposer, verifier = (
        baseline.BaselineProposer(pad=baseline.DEMO_PAD),
        baseline.BaselineVerifier(),
    )
    classes = fixtures.baseline_classes()
    names = {spec.question: spec.name for spec in fixtures.ontology().classes}
    encoded = fixtures.jpegs(SCENES)

    def label() -> list[list[Any]]:
        images = (PILImage.open(io.BytesIO(content)).convert("RGB") for content in encoded)
        return [baseline.label(proposer, verifier, image, classes) for image in images]

    def check() -> list[Found]:
        return [
            {
                "boxes": [box for box, _, _ in of_image],
                "scores": [score for _, _, score in of_image],
                "classes": [names[spec.question] for _, spec, _ in of_image],
            }
            for of_image in label()
        ]

    return Side(label, check)


def _student_of_ours(folder: Path) -> Side:
    """The exported student as the agent runs it."""
    from secondlook.detector.runtime import OnnxDetector

    detector = OnnxDetector.open(folder / "student", "fp32")
    frames = _frames()
    alone = [not group for group in detector.manifest.groups or [""] * 10_000]

    def check() -> list[Found]:
        # The loop knows no contrast groups: classes that stand alone are compared.
        found = [one.take([alone[c] for c in one.classes.tolist()]) for one in _detect()]
        return [_as_found(one.boxes, one.scores, one.classes) for one in found]

    def _detect() -> list[Any]:
        return detector.detect(frames, FLOOR)

    return Side(_detect, check)


def _student_of_a_loop(folder: Path) -> Side:
    """A loop as Ultralytics' predictor has: resize, run, threshold and NMS, image by image."""
    import numpy as np
    import onnxruntime
    import torch
    from PIL import Image as PILImage
    from torchvision.ops import batched_nms

    manifest = json.loads((folder / "student" / "manifest.json").read_text())
    groups = manifest.get("groups") or [""] * len(manifest["classes"])
    session = onnxruntime.InferenceSession(str(folder / "student" / "model.onnx"))
    name, frames = session.get_inputs()[0].name, _frames()

    def one(pixels: Any) -> tuple[Any, Any, Any]:
        size = tuple(manifest["input_size"])
        image = PILImage.fromarray(pixels).resize(size, PILImage.Resampling.BILINEAR)
        scores, boxes = session.run(["scores", "boxes"], {name: np.asarray(image)[None]})
        kept, classes = torch.from_numpy(scores[0] >= FLOOR).nonzero(as_tuple=True)
        height, width = pixels.shape[:2]
        scale = torch.tensor([width, height, width, height])
        corners = torch.from_numpy(boxes[0])[kept].clamp(0, 1) * scale
        confidence = torch.from_numpy(scores[0])[kept, classes]
        best = batched_nms(corners, confidence, classes, NMS_IOU)[:MOST]
        return corners[best], confidence[best], classes[best]

    def check() -> list[Found]:
        found: list[Found] = []
        for boxes, scores, classes in map(one, frames):
            alone = torch.tensor([not groups[c] for c in classes.tolist()], dtype=torch.bool)
            found.append(_as_found(boxes[alone], scores[alone], classes[alone]))
        return found

    return Side(lambda: [one(pixels) for pixels in frames], check)


def _frames() -> list[Any]:
    from bench import fixtures
    from secondlook.core.images import decode

    return [decode(content).pixels for content in fixtures.jpegs(FRAMES)]


def _of_relative(boxes: Any, logits: Any, width: int, height: int) -> Found:
    """Of (Q, 4) relative centres and sizes and (Q, tokens) logits."""
    import torch

    boxes = boxes * torch.tensor([width, height, width, height])
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    return _as_found(corners, logits[:, TOKEN].sigmoid())


def _as_found(boxes: Any, scores: Any, classes: Any = None) -> Found:
    given = [0] * len(scores) if classes is None else classes.tolist()
    return {"boxes": boxes.tolist(), "scores": scores.tolist(), "classes": given}


SIDES: dict[str, Callable[[Path], Side]] = {
    "detector, secondlook": _detector_of_ours,
    "detector, transformers": _detector_of_transformers,
    "detector, groundingdino-py": _detector_of_authors,
    "detector, autodistill": _detector_of_autodistill,
    "both stages, secondlook": _stages_of_ours,
    "both stages, transformers": _stages_of_transformers,
    "student, secondlook": _student_of_ours,
    "student, loop": _student_of_a_loop,
}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
