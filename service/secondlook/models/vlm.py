"""Stage two in process: any transformers vision-language model, one prefill and no generation.

P(yes) is read from the logits behind the prompt, for all views and questions of a batch at once.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Pixels, VQAQuery
from secondlook.models import vlm_inputs
from secondlook.models.cpu_speedups import fuse_conv_bn, use_channels_last
from secondlook.models.loading import (
    WEIGHTS,
    checkpoint_folder,
    choose_placement,
    digest_of,
    short_name,
)
from secondlook.models.spec_options import split_options
from secondlook.models.vlm_inputs import PromptEncoder, Tiles, ViewBatch, synthetic_image, tiles_of
from secondlook.models.vlm_prefix_cache import Pass, choose_pass, plain
from secondlook.models.yes_no import MIN_ANSWER_MASS, answer_from_probabilities, answer_tokens
from secondlook_client.errors import BadSetting, NotFound
from secondlook_client.values import Answer

log = logging.getLogger(__name__)

QUESTIONS_PER_VIEW = 4
"""A batch holds at most this many times ``batch`` questions, as each needs memory of its own."""

DIGESTED_FILES = (
    WEIGHTS,
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "chat_template.*",
)
"""What changes a model's answers, and so its digest; a training report does not."""

NEEDED_TILES, ALL_TILES = "needed", "all"
"""Into how many tiles a view is cut: those that its own pixels fill, or the processor's."""

PROBE_QUESTIONS = ("Is this a cat?", "Is this a red dog in a small tree?", "Is it a car?")


class TransformersVerifier:
    """Yes/no questions to a transformers image-text-to-text model. Thread-safe.

    Works with the classes of ``AutoModelForImageTextToText`` whose prompt has the image before
    the question: SmolVLM and Idefics3, Qwen-VL, Gemma 3, PaliGemma, LLaVA and the like.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        digest: str,
        batch: int = ModelSettings.model_batch,
        min_mass: float = MIN_ANSWER_MASS,
        tiles: Tiles | None = None,
    ) -> None:
        """``model`` is in evaluation mode on its device; ``batch`` is views in one pass.

        The model is changed in place: on a CPU its convolutions are made faster, with the same
        outputs. ``tiles``: how views are cut; None as ``tiles_of`` says.
        ``min_mass`` is the probability that yes and no together must have, else the model abstains.
        Raises ``BadSetting`` when the checkpoint cannot be asked closed questions.
        """
        self.name = name
        self.digest = digest
        self.device = model.device.type
        self._model = model
        self._dtype = model.dtype  # the property looks through the weights at each call
        self._batch = batch
        self._min_mass = min_mass
        self._lock = Lock()
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._decoded: dict[int, str] = {}
        images = getattr(processor, "image_processor", None)
        self._tiles = tiles_of(images) if tiles is None else tiles
        self._prompts = PromptEncoder(processor, _image_token_id(model), model.device, self._tiles)
        tokens = answer_tokens(self._tokenizer.get_vocab(), self._first_pieces())
        self._yes = torch.tensor(tokens.yes, device=model.device)
        self._no = torch.tensor(tokens.no, device=model.device)
        with torch.inference_mode():
            self._pixels = self._plan_pixels(images)
        self._pass = self._choose_pass()
        # With a fixed image size the processor enlarges small views; others need some pixels.
        self.min_side = 1 if self._pixels else 32

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """P(yes) of every question. A view that the model fails on has ``error`` set, alone."""
        answered: list[tuple[Answer, ...]] = []
        for chunk in self._chunks(queries):
            answered.extend(self._answer_chunk(chunk))
        return answered

    def _chunks(self, queries: Sequence[VQAQuery]) -> Iterator[Sequence[VQAQuery]]:
        """At most ``batch`` views and ``batch * QUESTIONS_PER_VIEW`` questions, or one view."""
        first, questions = 0, 0
        for index, query in enumerate(queries):
            full = questions + len(query.questions) > self._batch * QUESTIONS_PER_VIEW
            if index > first and (full or index - first >= self._batch):
                yield queries[first:index]
                first, questions = index, 0
            questions += len(query.questions)
        if first < len(queries):
            yield queries[first:]

    def _answer_chunk(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """A chunk that fails is halved, so that memory suffices and one bad view fails alone."""
        try:
            with self._lock, torch.inference_mode():
                return self._answers(queries)
        except Exception as failure:
            if len(queries) > 1:
                half = len(queries) // 2
                return self._answer_chunk(queries[:half]) + self._answer_chunk(queries[half:])
            log.exception("%s failed on a view of %s", self.name, queries[0].pixels.shape)
            cause = f"the model failed on this view ({type(failure).__name__}); see the log"
            return [(Answer(None, error=cause),) * len(queries[0].questions)]

    def _answers(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        asked = [query for query in queries if query.questions]
        flat = iter(self._ask_all(asked))
        return [tuple(next(flat) for _ in query.questions) for query in queries]

    def _ask_all(self, queries: Sequence[VQAQuery]) -> list[Answer]:
        """Every answer, view by view; every ask has a question."""
        if not queries:
            return []
        found: dict[int, list[Answer]] = {}
        for group in self._view_batches([query.pixels for query in queries]):
            suffixes = [
                [self._prompts.suffix(q) for q in queries[row].questions] for row in group.rows
            ]
            answers = iter(self._read(self._pass(self._model, group, suffixes)))
            for row in group.rows:
                found[row] = [next(answers) for _ in queries[row].questions]
        return [answer for row in range(len(queries)) for answer in found[row]]

    def _view_batches(self, views: Sequence[Pixels]) -> list[ViewBatch]:
        """Views that are one tile by the plan, the others through the processor."""
        planned: dict[int, Pixels] = {}
        others: dict[int, Pixels] = {}
        for row, pixels in enumerate(views):
            fits = self._pixels and self._tiles.whole(pixels.shape)
            (planned if fits else others)[row] = pixels
        groups = self._prompts.batches(others)
        if self._pixels and planned:
            count = len(planned)
            made = self._pixels(list(planned.values())).reshape(count, *self._pixel_shape)
            constant = {
                name: value.expand(count, *value.shape[1:]) for name, value in self._masks.items()
            }
            images = {"pixel_values": made.to(self._model.device), **constant}
            groups.append(ViewBatch(tuple(planned), self._prefix, images))
        return [self._to_model(group) for group in groups]

    def _to_model(self, group: ViewBatch) -> ViewBatch:
        """Images in the model's own precision."""
        images = {
            name: value.to(self._dtype) if value.is_floating_point() else value
            for name, value in group.images.items()
        }
        return ViewBatch(group.rows, group.prefix, images)

    def _read(self, logits: torch.Tensor) -> list[Answer]:
        """(questions, vocabulary) logits to answers."""
        likely = torch.softmax(logits.float(), dim=-1)
        yes = likely[:, self._yes].sum(dim=-1)
        no = likely[:, self._no].sum(dim=-1)
        rows = zip(yes.tolist(), no.tolist(), likely.argmax(dim=-1).tolist(), strict=True)
        return [
            answer_from_probabilities(p, q, self._decode(first), self._min_mass)
            for p, q, first in rows
        ]

    def _decode(self, token: int) -> str:
        if token not in self._decoded:
            self._decoded[token] = str(self._tokenizer.decode([token]))
        return self._decoded[token]

    def _first_pieces(self) -> tuple[int, int]:
        pieces = [self._tokenizer(w, add_special_tokens=False)["input_ids"] for w in ("yes", "no")]
        return pieces[0][0], pieces[1][0]

    def _plan_pixels(self, image_processor: Any) -> vlm_inputs.PixelPlan | None:
        """The fast way to pixels, when it gives what the processor gives on three images."""
        planned = vlm_inputs.plan_pixels(image_processor, self._tiles)
        expected, images = self._prompts.template()
        if planned is None or "pixel_values" not in images:
            return None
        side = self._tiles.side or 150
        for height, width in ((0.25, 0.6), (1.0, 0.4), (0.4, 0.4)):
            probe = synthetic_image(int(height * side), int(width * side), seed=int(100 * height))
            prefix, own = self._prompts.view(probe)
            same = torch.equal(prefix["input_ids"], expected["input_ids"])
            if not (same and vlm_inputs.agrees(planned, [probe], own["pixel_values"])):
                log.info("%s: images go through the processor one by one", self.name)
                return None
        self._prefix = expected
        self._pixel_shape = images["pixel_values"].shape[1:]
        self._masks = {name: value for name, value in images.items() if name != "pixel_values"}
        return planned

    def _choose_pass(self) -> Pass:
        """Make the model fast on a CPU, and find what its questions can share."""
        views = [synthetic_image(48, 64, seed=1), synthetic_image(48, 64, seed=2)]
        with torch.inference_mode():
            group = self._view_batches(views)[0]
        suffixes = [self._prompts.suffix(question) for question in PROBE_QUESTIONS]
        asked = [suffixes, suffixes[:2]][: len(group.rows)]
        if self._model.device.type == "cpu":
            fuse_conv_bn(self._model, lambda: plain(self._model, group, asked))
            use_channels_last(self._model)
        with torch.inference_mode():
            return choose_pass(self._model, group, asked, self.name)


def _image_token_id(model: Any) -> int:
    for name in ("image_token_id", "image_token_index"):
        found = getattr(model.config, name, None)
        if found is not None:
            return int(found)
    raise BadSetting(
        f"{type(model).__name__} does not mark the place of an image in its prompt; "
        "use a checkpoint of another family (SmolVLM, Qwen-VL, Gemma 3, LLaVA, ...)"
    )


def load(argument: str, options: ModelSettings) -> TransformersVerifier:
    """A verifier from a checkpoint's folder or hub id ("organisation/name"), perhaps with
    ``?tiles=all``.

    Weights are loaded from safetensors only. Raises ``NotFound`` for a missing checkpoint and
    ``BadSetting`` for one that is no vision-language model or that wants to run its own code.
    """
    started = time.perf_counter()
    argument, settings = split_options(argument, ("tiles",))
    all_tiles = _wants_all_tiles(settings)
    if not argument:
        raise NotFound(
            "no checkpoint was named; give a folder or a hub id, "
            "for example transformers:HuggingFaceTB/SmolVLM-256M-Instruct"
        )
    folder = checkpoint_folder(argument, remote_code=options.trust_remote_code)
    _refuse_own_code(folder, options.trust_remote_code)
    digest = digest_of(path for pattern in DIGESTED_FILES for path in folder.glob(pattern))
    model, processor = _load(folder, argument, options)
    tiles = Tiles() if all_tiles else tiles_of(getattr(processor, "image_processor", None))
    if tiles.side:  # its answers are others
        digest = hashlib.sha256(f"{digest} {NEEDED_TILES}".encode()).hexdigest()[:12]
    verifier = TransformersVerifier(
        model,
        processor,
        name=short_name(argument),
        digest=digest,
        batch=options.model_batch,
        tiles=tiles,
    )
    log.info("loaded %s@%s in %.1f s", verifier.name, digest, time.perf_counter() - started)
    return verifier


def _wants_all_tiles(settings: Mapping[str, str]) -> bool:
    wanted = settings.get("tiles", NEEDED_TILES)
    if wanted not in (NEEDED_TILES, ALL_TILES):
        raise BadSetting(f"expected tiles={NEEDED_TILES} or tiles={ALL_TILES}, got '{wanted}'")
    return wanted == ALL_TILES


def _refuse_own_code(folder: Path, allowed: bool) -> None:
    if not allowed and '"auto_map"' in (folder / "config.json").read_text(encoding="utf-8"):
        raise BadSetting(
            f"the checkpoint '{folder.name}' runs code of its own; read it, and if you trust it "
            "allow it with --trust-remote-code"
        )


def _load(folder: Path, argument: str, options: ModelSettings) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    placement = choose_placement(options)
    dtype = placement.dtype
    if options.dtype == "auto" and placement.device.type == "cuda":
        dtype = torch.bfloat16  # what these models are trained and published in
    trusted = {"trust_remote_code": options.trust_remote_code, "local_files_only": True}
    try:
        processor = AutoProcessor.from_pretrained(folder, **trusted)
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, **trusted
        )
    except ImportError as missing:
        raise NotFound(
            f"the checkpoint '{argument}' needs another package: {str(missing).splitlines()[0]}"
        ) from missing
    except (OSError, ValueError, KeyError) as failure:
        raise BadSetting(
            f"'{argument}' cannot be loaded as a vision-language model "
            f"({type(failure).__name__}: {str(failure).strip().splitlines()[0][:200]})"
        ) from failure
    return model.eval().to(placement.device), processor
