"""Views of the demo world on disk, and the batches of them that a training step learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import avg_pool2d

from recipes.verifier.questions import Facts, Question, draw, prompt
from recipes.verifier.views import LAYERS, SIDE, samples_of
from secondlook.demo.world import ATTRIBUTES, COLOURS, NOUNS
from secondlook.labeling.proposer import Proposer
from secondlook_client.values import View

OFTEN = {"person": 4.0, "car": 2.5, "ball": 2.5, "helmet": 2.5}
"""How many times as often views of these are drawn: they are asked the questions whose answers are
a few pixels, or that other things of their kind answer otherwise."""
SHARD = 250
"""Scenes in one file: what a killed run loses."""

TRAITS = ("glasses", "glasses on head", "helmet", "hat", "mask")
NAMES = (*NOUNS, *COLOURS, *TRAITS[1:])
"""What may be true of a thing, or of an image; "glasses" is the noun and the trait."""
_VIEWS = tuple(View)
_PRESENT = (*NOUNS, *ATTRIBUTES)
_RECORD = np.dtype(
    [("view", "u1"), ("noun", "i1"), ("colour", "i1"), ("traits", "u1"), ("present", "u4")]
)

Encode = Callable[[str], list[int]]
"""The tokens of a question behind the image, up to the place where the answer begins."""


class Samples:
    """The views of scenes 0 to ``count`` of a world, made once into ``folder``, then read there.

    With a ``proposer`` they hold its boxes too. A change of the drawing code or of the proposer is
    not noticed: it wants a new folder.

    ``progress`` is called with (scenes done, count) while they are made.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        count: int,
        progress: Callable[[int, int], None] | None = None,
        proposer: Proposer | None = None,
    ) -> None:
        place = folder / (f"{seed}-proposed" if proposer else str(seed))
        place.mkdir(parents=True, exist_ok=True)
        pixels, layouts, rows = [], [], []
        for start in range(0, count, SHARD):
            stop = min(start + SHARD, count)
            stem = place / f"{start}-{stop}"
            if not stem.with_suffix(".done").exists():
                _write(stem, seed, range(start, stop), proposer)
                if progress is not None:
                    progress(stop, count)
            pixels.append(np.load(f"{stem}-pixels.npy", mmap_mode="r"))
            layouts.append(np.load(f"{stem}-layouts.npy"))
            rows.append(np.load(f"{stem}-facts.npy"))
        self._pixels = pixels
        self._starts = np.cumsum([0, *(len(part) for part in pixels)])
        self.layouts: NDArray[np.uint16] = np.concatenate(layouts)
        known: dict[bytes, Facts] = {}
        self.facts = [known.setdefault(row.tobytes(), unpack(row)) for part in rows for row in part]
        shares = np.cumsum([OFTEN.get(facts.noun, 1.0) for facts in self.facts])
        self._shares = shares / shares[-1]

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.intp]:
        """Rows of ``count`` views; some things OFTEN times as often."""
        return np.searchsorted(self._shares, rng.random(count), side="right")

    def __len__(self) -> int:
        return len(self.facts)

    def pixels(self, rows: Sequence[int] | NDArray[np.intp]) -> NDArray[np.uint8]:
        """(len(rows), SIDE, SIDE, 3) uint8."""
        found = np.empty((len(rows), SIDE, SIDE, 3), dtype=np.uint8)
        for place, row in enumerate(rows):
            shard = int(np.searchsorted(self._starts, row, side="right")) - 1
            found[place] = self._pixels[shard][row - self._starts[shard]]
        return found


def _write(stem: Path, seed: int, scenes: range, proposer: Proposer | None) -> None:
    made = [sample for index in scenes for sample in samples_of(seed, index, proposer)]
    np.save(f"{stem}-pixels.npy", np.stack([s.pixels for s in made]))
    np.save(f"{stem}-layouts.npy", np.stack([s.layout for s in made]))
    np.save(f"{stem}-facts.npy", np.stack([pack(s.facts) for s in made]))
    stem.with_suffix(".done").touch()


def pack(facts: Facts) -> NDArray[np.void]:
    """Facts as one row of numbers."""
    row = np.zeros((), dtype=_RECORD)
    row["view"] = _VIEWS.index(facts.view)
    row["noun"] = NOUNS.index(facts.noun) if facts.noun else -1
    row["colour"] = COLOURS.index(facts.colour) if facts.colour else -1
    row["traits"] = sum(1 << i for i, trait in enumerate(TRAITS) if trait in facts.traits)
    row["present"] = sum(1 << i for i, name in enumerate(_PRESENT) if name in facts.present)
    return row


def unpack(row: np.void) -> Facts:
    """The facts that ``pack`` wrote."""
    return Facts(
        _VIEWS[row["view"]],
        NOUNS[row["noun"]] if row["noun"] >= 0 else "",
        COLOURS[row["colour"]] if row["colour"] >= 0 else "",
        frozenset(t for i, t in enumerate(TRAITS) if row["traits"] >> i & 1),
        frozenset(n for i, n in enumerate(_PRESENT) if row["present"] >> i & 1),
    )


@dataclass(frozen=True, eq=False)
class VerifierBatch:
    """Views with several questions each, the questions of a view packed into one row of tokens.

    A row is only the text behind the image; ``part`` says to which question a token belongs, so
    that questions on one view cannot see each other (-1 is padding).

    Attributes:
        pixels: (V, 3, SIDE, SIDE) float32, normalized as the processor does.
        layouts: (V, LAYERS, CELLS, CELLS) float32 of 0 and 1.
        names: (V, NAMES) float32 of 0 and 1, what is true of the thing in the box.
        tokens, part, place, target: (V, T) long; place counts from the first token of a question,
            target is the token that follows, -100 where nothing is learnt.
    """

    pixels: torch.Tensor
    layouts: torch.Tensor
    names: torch.Tensor
    tokens: torch.Tensor
    part: torch.Tensor
    place: torch.Tensor
    target: torch.Tensor

    def to(self, device: str) -> VerifierBatch:
        """The same batch on another device."""
        return VerifierBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def batch_of(
    samples: Samples,
    encode: Encode,
    answers: Sequence[int],
    seed: int,
    step: int,
    size: int,
    asked: int,
) -> VerifierBatch:
    """The batch of a step; it depends on nothing but the arguments.

    ``answers`` are the tokens of no, of yes, and of the end.
    """
    rng = np.random.default_rng([seed, step, 11])
    rows = samples.draw(rng, size)
    flip = rng.random(size) < 0.5
    pixels = samples.pixels(rows)
    layouts = samples.layouts[rows]
    pixels[flip] = pixels[flip, :, ::-1]
    layouts[flip] = layouts[flip, :, ::-1]
    words = [
        _packed(
            [
                (encode(prompt(q.text, bare=bool(rng.random() < 0.15))), q)
                for q in draw(rng, samples.facts[row], asked)
            ],
            answers,
        )
        for row in rows
    ]
    bits = np.arange(len(LAYERS), dtype=np.uint16)[:, None, None]
    tokens, part, place, target = _padded(words)
    return VerifierBatch(
        _disturbed(rng, normalized(pixels)),
        torch.from_numpy((layouts[:, None] >> bits & 1).astype(np.float32)),
        torch.tensor([_names(samples.facts[row]) for row in rows], dtype=torch.float32),
        tokens,
        part,
        place,
        target,
    )


def _names(facts: Facts) -> list[bool]:
    true = {facts.noun, facts.colour, *facts.traits, *facts.present}
    return [name in true for name in NAMES]


def _packed(
    asked: Sequence[tuple[list[int], Question]], answers: Sequence[int]
) -> NDArray[np.int64]:
    """(4, T): tokens, part, place and target of the questions on one view, one behind another."""
    columns: list[tuple[int, int, int, int]] = []
    end = answers[2]
    for part, (tokens, question) in enumerate(asked):
        answer = answers[int(question.answer)]
        targets = [-100] * (len(tokens) - 1) + [answer, end]
        for place, (token, target) in enumerate(zip([*tokens, answer], targets, strict=True)):
            columns.append((token, part, place, target))
    return np.array(columns, dtype=np.int64).reshape(-1, 4).T


def _padded(words: Sequence[NDArray[np.int64]]) -> tuple[torch.Tensor, ...]:
    longest = max((row.shape[1] for row in words), default=0)
    made = np.zeros((4, len(words), longest), dtype=np.int64)
    made[1], made[3] = -1, -100
    for place, row in enumerate(words):
        made[:, place, : row.shape[1]] = row
    return tuple(torch.from_numpy(made[k]) for k in range(4))


def normalized(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """(N, 3, SIDE, SIDE) float32 in [-1, 1], from (N, SIDE, SIDE, 3) uint8."""
    levels = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return levels.float().div_(127.5).sub_(1)


def _disturbed(rng: np.random.Generator, pixels: torch.Tensor) -> torch.Tensor:
    """A little more or less light, tint and noise, and a blur now and then."""
    count = len(pixels)
    gain = rng.normal(1, 0.06, (count, 1, 1, 1)) * rng.normal(1, 0.015, (count, 3, 1, 1))
    shift = rng.normal(0, 0.05, (count, 1, 1, 1))
    light = [torch.from_numpy(a.astype(np.float32)) for a in (gain, shift)]
    pixels = pixels * light[0] + light[1]
    blurred = torch.from_numpy(np.flatnonzero(rng.random(count) < 0.12))
    pixels[blurred] = avg_pool2d(pixels[blurred], 3, 1, 1, count_include_pad=False)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    noise *= rng.uniform(0, 0.05, (count, 1, 1, 1)).astype(np.float32)
    return (pixels + torch.from_numpy(noise)).clamp_(-1, 1)
