"""Other people's code beside ours: same images, same weights, and the same outputs, which is
checked before anything is timed.

The detector is GDINO-T's architecture with random weights on one image of 800×800 and one phrase,
in float32 as each loads it; both stages are the embedded models on scenes of the demo world, with
one ``generate`` a box on the other side; the student is the one of ``student_speed`` on frames of
the demo world, against a loop over single images as Ultralytics' predictor is (that package itself
runs its own models only). Each side is a process of its own, in an environment of its own where it
pins other packages, and all are asked in turn. A peer that cannot be installed or loaded is named
with the reason. Random weights put many boxes close together, so a box counts as found where the
other side has one with an IoU of 0.95 and a score within 0.01.
"""

import io
import json
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import grounding_dino_models
import numpy as np
import torch
from PIL import Image as PILImage
from transformers import (
    BertConfig,
    BertModel,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
)

from bench import fixtures, student_speed
from bench.paired_timing import Figure, of_pairs
from bench.peer_sides import FRAMES, SCENES
from secondlook.core.boxes import iou
from secondlook.models.embedded import EMBEDDED

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".cache" / "bench" / "peers"
REQUIREMENTS = {
    "detector, groundingdino-py": ("groundingdino-py==0.4.0",),
    # Its detector calls methods of BERT that transformers 5 lacks.
    "detector, autodistill": ("transformers<5", "roboflow", "autodistill-grounding-dino==0.1.4"),
}
"""Of the sides that need an environment of their own."""
ROUNDS = 5
SIDE = 800
"""Pixels: both packages of the authors' code bring the shorter side to it."""
SAME_IOU, SAME_SCORE = 0.95, 0.01
OURS = "secondlook"
COMPARED = {
    "detector": (
        ("transformers", 2.4, 0.99),
        ("groundingdino-py", 2.4, 0.99),
        ("autodistill", 2.4, 0.99),
    ),
    "both stages": (("transformers", 5.0, 0.9),),
    "student": (("loop", 1.0, 0.99),),
}
"""Per task the peers, each with the ratio that is the bar and the least share of equal outputs.
After both stages ours weighs both models and merges across classes of a contrast; the loop takes
the verifier's word and merges each class by itself."""
UNITS = {"detector": 1, "both stages": SCENES, "student": FRAMES}
"""Images in one run."""


class Unavailable(Exception):
    """A peer that cannot be installed or loaded, with the reason."""


class PeerProcess:
    """A running side; see ``bench.peer_sides`` for the lines."""

    def __init__(self, name: str, folder: Path) -> None:
        """Install what it needs, start it and wait until its models are loaded.

        Raises ``Unavailable``.
        """
        python = _environment(name) if name in REQUIREMENTS else sys.executable
        command = [str(python), "-m", "bench.peer_sides", name, str(folder)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            self._answer()
        except Unavailable:
            self.close()
            raise

    def seconds(self) -> float:
        """Of one run."""
        return float(self._ask("run")["seconds"])

    def found(self) -> list[dict[str, list[Any]]]:
        """What it finds, an image each."""
        found: list[dict[str, list[Any]]] = self._ask("check")["found"]
        return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "its process ended"}
        if "failed" in answer:
            raise Unavailable(answer["failed"])
        return answer


def run() -> list[Figure | str]:
    """A ratio for each task and peer; a sentence for each peer that cannot be had."""
    rows: list[Figure | str] = []
    table = ["| ours and | outputs that both have | of ours | of theirs |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save_detector(folder)
        (folder / "student").symlink_to(student_speed.exported().absolute())
        for task, peers in COMPARED.items():
            with _sides(task, [peer for peer, _, _ in peers], folder) as (sides, missing):
                rows += [f"{task}, {peer}: {reason}" for peer, reason in missing.items()]
                agreed = _agreement(task, sides)
                table += agreed[1]
                rows += _figures(task, sides, agreed[0])
    return [*rows, "\n".join(table)]


@contextmanager
def _sides(
    task: str, peers: Sequence[str], folder: Path
) -> Iterator[tuple[dict[str, PeerProcess], dict[str, str]]]:
    """The processes of a task by name, and why the others are not there."""
    with ExitStack() as stack:
        sides: dict[str, PeerProcess] = {}
        missing: dict[str, str] = {}
        for peer in (OURS, *peers):
            try:
                process = PeerProcess(f"{task}, {peer}", folder)
            except Unavailable as reason:
                missing[peer] = str(reason)
            else:
                sides[peer] = stack.enter_context(closing(process))
        yield sides, missing


def _agreement(task: str, sides: dict[str, PeerProcess]) -> tuple[dict[str, float], list[str]]:
    """The smaller share of outputs that the other side has too, by peer, and rows for people."""
    found = {name: side.found() for name, side in sides.items()}
    shares: dict[str, float] = {}
    rows: list[str] = []
    for peer in [name for name in sides if name != OURS]:
        counts = [sum(len(one["scores"]) for one in found[name]) for name in (OURS, peer)]
        both = _share(found[OURS], found[peer]), _share(found[peer], found[OURS])
        shares[peer] = min(both)
        cells = [f"{share:.1%} of {count:,}" for share, count in zip(both, counts, strict=True)]
        rows.append(f"| {task}, {peer} | {shares[peer]:.1%} | {' | '.join(cells)} |")
    return shares, rows


def _share(some: list[dict[str, list[Any]]], others: list[dict[str, list[Any]]]) -> float:
    """Share of the boxes of ``some`` that ``others`` has, with the same class and score."""
    had = total = 0
    for one, other in zip(some, others, strict=True):
        boxes = [np.array(given["boxes"], np.float32).reshape(-1, 4) for given in (one, other)]
        same = iou(*boxes) >= SAME_IOU
        scores = [np.array(given["scores"], np.float32) for given in (one, other)]
        same &= np.abs(scores[0][:, None] - scores[1][None]) <= SAME_SCORE
        classes = [np.array(given["classes"]) for given in (one, other)]
        same &= classes[0][:, None] == classes[1][None]
        had, total = had + int(same.any(axis=1).sum()), total + len(same)
    return had / max(total, 1)


def _figures(
    task: str, sides: dict[str, PeerProcess], agreed: dict[str, float]
) -> Iterator[Figure | str]:
    """Ratios of rounds in turn; none for a peer whose outputs are others."""
    for side in sides.values():
        side.seconds()
    names = list(sides)
    rounds = []
    for number in range(ROUNDS):
        order = names[number % len(names) :] + names[: number % len(names)]
        rounds.append({name: UNITS[task] / sides[name].seconds() for name in order})
    for peer, bar, least in COMPARED[task]:
        if peer not in agreed:
            continue
        if agreed[peer] < least:
            yield f"{task}, {peer}: no ratio, as only {agreed[peer]:.1%} of the outputs are equal"
            continue
        pairs = [(one[OURS], one[peer]) for one in rounds]
        yield of_pairs(f"{task}, ours ÷ {peer}", pairs, at_least=bar, unit="images/s")


def _save_detector(folder: Path) -> None:
    """One random GDINO-T as transformers and as the authors store it, BERT's files, an image."""
    processor = GroundingDinoProcessor.from_pretrained(EMBEDDED / "proposer")
    processor.image_processor.size = {"shortest_edge": SIDE, "longest_edge": 1333}
    processor.save_pretrained(folder / "model")
    torch.manual_seed(0)
    model = GroundingDinoForObjectDetection(GroundingDinoConfig())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if "fusion_layer" in name and "param" in name else 0.02
            parameter.add_(torch.randn_like(parameter) * scale)
        # Scores away from 0 and 1, where a difference would not show.
        model.model.decoder.layer_norm.weight.mul_(0.1)
        model.model.decoder.layer_norm.bias.zero_()
    model.save_pretrained(folder / "model")
    weights = grounding_dino_models.original_names(folder / "model")
    torch.save({"model": weights}, folder / "authors.pth")
    BertModel(BertConfig()).save_pretrained(folder / "bert")
    vocabulary = processor.tokenizer.get_vocab()
    names = {number: word for word, number in vocabulary.items()}
    words = [names.get(number, f"[unused{number}]") for number in range(max(names) + 1)]
    (folder / "bert" / "vocab.txt").write_text("\n".join(words) + "\n")
    (image,) = fixtures.jpegs(1, SIDE)
    _square(image).save(folder / "image.png")


def _square(content: bytes) -> PILImage.Image:
    return PILImage.open(io.BytesIO(content)).convert("RGB").resize((SIDE, SIDE))


def _environment(name: str) -> Path:
    """The interpreter of an environment that has what a side needs before what runs this suite has.

    Raises ``Unavailable`` with pip's last line.
    """
    folder = ENVIRONMENTS / name.partition(", ")[2]
    done, wanted = folder / "done", "\n".join(REQUIREMENTS[name])
    python = folder / "bin" / "python"
    if done.is_file() and done.read_text() == wanted:
        return python
    venv.create(folder, clear=True, with_pip=True)
    own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    behind = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    Path(own, "project.pth").write_text(behind)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # groundingdino-py's build imports torch, which an isolated one would not see.
    for given in (["setuptools>=77", "wheel"], ["--no-build-isolation", *REQUIREMENTS[name]]):
        made = subprocess.run([*pip, *given], capture_output=True, text=True)
        if made.returncode:
            raise Unavailable((made.stderr.strip() or "pip failed").splitlines()[-1])
    done.write_text(wanted)
    return python
