"""The Grounding DINO adapter against transformers' own processor, and against itself alone.

Random weights in the real classes: agreement does not depend on what a model has learnt.
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import grounding_dino_models as models
import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image, Proposals
from secondlook.labeling.proposer import Proposer
from secondlook.models import cpu_speedups, grounding_dino
from secondlook.models.grounding_dino import (
    GroundingDinoProposer,
    SpecialTokens,
    read_pixel_settings,
)
from secondlook.models.loading import choose_placement
from secondlook_client.errors import BadOntology, BadSetting, NotFound

OPTIONS = ModelSettings(device="cpu")
PHRASES = ["person", "hot dog", "person wearing glasses", "red car"]
FLOOR = 0.02
EVERY_MODEL = [(kind, backbone) for kind in models.KINDS for backbone in ("swin", "resnet")]


@pytest.fixture(scope="module", params=EVERY_MODEL, ids="-".join)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of each class and backbone."""
    return models.save(tmp_path_factory.mktemp("checkpoint"), *request.param)


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint folder."""
    return models.save(tmp_path_factory.mktemp("swin"))


def same(one: Proposals, other: Proposals, pixels: float = 0.01, score: float = 1e-4) -> None:
    """Assert the same boxes and scores in the same order."""
    assert len(one) == len(other) > 0
    np.testing.assert_allclose(one.boxes, other.boxes, atol=pixels)
    np.testing.assert_allclose(one.scores, other.scores, atol=score)


@cache
def reference(folder: Path) -> torch.nn.Module:
    """transformers' own model of a checkpoint."""
    kind = "mm-grounding-dino" if '"mm-' in (folder / "config.json").read_text() else None
    _, made = models.KINDS[kind or "grounding-dino"]
    return made.from_pretrained(folder).eval()


@cache
def loaded(spec: str) -> GroundingDinoProposer:
    """Our proposer of a spec."""
    return grounding_dino.load(spec, OPTIONS)


def by_transformers(folder: Path, image: Image, phrase: str, floor: float) -> Proposals:
    """What transformers' own processor and post-processing make of an image.

    Its score is the best of all tokens, the marks among them, which training keeps silent but
    random weights do not: they are silenced here.
    """
    processor = models.processor()
    shown = PILImage.fromarray(image.pixels)
    inputs = processor(images=shown, text=f"{phrase}.", return_tensors="pt")
    with torch.no_grad():
        outputs = reference(folder)(**inputs)
    ids = inputs["input_ids"][0]
    marks = torch.tensor([SpecialTokens.start, SpecialTokens.end, SpecialTokens.stop])
    outputs.logits[..., : len(ids)][..., torch.isin(ids, marks)] = float("-inf")
    found = processor.post_process_grounded_object_detection(
        outputs, threshold=floor, text_threshold=floor, target_sizes=[image.pixels.shape[:2]]
    )[0]
    return Proposals(found["boxes"].numpy(), found["scores"].numpy()[:, None])


@pytest.mark.parametrize("phrase", ["hot dog", "person wearing red glasses"])
@pytest.mark.parametrize("size", [(200, 150), (61, 140), (320, 60)])
def test_single_phrases_give_what_transformers_gives(
    checkpoint: Path, phrase: str, size: tuple[int, int]
) -> None:
    image = models.image(*size)
    ours = loaded(str(checkpoint)).propose([image], [phrase], FLOOR)[0]
    same(ours, by_transformers(checkpoint, image, phrase, FLOOR))


@pytest.mark.parametrize("query", ["", "?pad=32", "?max_phrases=2&pad=64"])
def test_a_batch_gives_what_each_image_gives_alone(checkpoint: Path, query: str) -> None:
    proposer = loaded(f"{checkpoint}{query}")
    sizes = [(200, 150), (150, 200), (200, 150), (190, 150), (400, 30)]
    images = [models.image(*size, seed=i) for i, size in enumerate(sizes)]
    together = proposer.propose(images, PHRASES, FLOOR)
    for image, found in zip(images, together, strict=True):
        same(found, proposer.propose([image], PHRASES, FLOOR)[0])
    assert len({found.scores.tobytes() for found in together}) == len(images)


def test_threads_share_a_proposer(swin: Path) -> None:
    proposer = loaded(str(swin))
    jobs = [(models.image(120, 90, seed=i), [PHRASES[i % 4], "dog"]) for i in range(8)]
    expected = [proposer.propose([image], asked, FLOOR)[0] for image, asked in jobs]
    fresh = grounding_dino.load(str(swin), OPTIONS)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: fresh.propose([job[0]], job[1], FLOOR)[0], jobs))
    for one, other in zip(found, expected, strict=True):
        same(one, other)


def test_each_phrase_alone_is_scored_as_if_it_were_asked_alone(swin: Path) -> None:
    image = models.image(160, 120)
    apart = loaded(f"{swin}?max_phrases=1").propose([image], PHRASES, FLOOR)[0]
    assert ((apart.scores > 0).sum(axis=1) == 1).all()
    for column, phrase in enumerate(PHRASES):
        rows = np.flatnonzero(apart.scores[:, column])
        alone = loaded(str(swin)).propose([image], [phrase], FLOOR)[0]
        same(Proposals(apart.boxes[rows], apart.scores[rows][:, [column]]), alone)


def test_more_phrases_than_a_caption_holds(swin: Path) -> None:
    words = [w for w in models.WORDS if w != "a"]
    many = [f"{one} {two}" for one in words for two in words]
    proposer = loaded(str(swin))
    found = proposer.propose([models.image(160, 120)], many, FLOOR)[0]
    assert found.scores.shape[1] == len(many)
    assert (found.scores.max(axis=0) > 0).sum() > len(many) // 2


def test_floor_keeps_boxes_whose_best_score_reaches_it(swin: Path) -> None:
    proposer = loaded(str(swin))
    image = models.image(200, 150)
    everything = proposer.propose([image], PHRASES, 0.0)[0]
    floor = float(np.median(everything.scores.max(axis=1)))
    kept = proposer.propose([image], PHRASES, floor)[0]
    best = everything.scores.max(axis=1)
    same(kept, everything.take(np.flatnonzero(best >= floor)))
    assert len(proposer.propose([image], PHRASES, 1.1)[0]) == 0
    assert proposer.propose([], PHRASES, 0.1) == []


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000), (7, 5)])
def test_images_of_extreme_shape(swin: Path, size: tuple[int, int]) -> None:
    proposer = loaded(str(swin))
    found = proposer.propose([models.image(*size)], PHRASES, 0.0)[0]
    assert len(found) == 40
    assert np.isfinite(found.boxes).all()


def test_it_is_a_proposer_with_a_digest_of_its_weights(swin: Path, tmp_path: Path) -> None:
    proposer = loaded(str(swin))
    assert isinstance(proposer, Proposer)
    assert proposer.name == swin.name
    assert len(proposer.digest) == 12
    other = models.save(tmp_path / "other", backbone="resnet")
    assert grounding_dino.load(str(other), OPTIONS).digest != proposer.digest


def test_bad_phrases_are_refused(swin: Path) -> None:
    proposer = loaded(str(swin))
    with pytest.raises(BadOntology, match="at most 61"):
        proposer.propose([models.image(90, 90)], ["dog " * 62], FLOOR)
    with pytest.raises(BadOntology, match="ends a phrase"):
        proposer.propose([models.image(90, 90)], ["dog [SEP] cat"], FLOOR)


def test_a_tokenizer_with_other_numbers_for_the_marks_is_refused(
    swin: Path, tmp_path: Path
) -> None:
    folder = models.save(tmp_path / "odd")
    model = models.model()
    tokenizer = models.processor().tokenizer.__class__(vocab={"[UNK]": 0, "[CLS]": 1, "[SEP]": 2})
    pixels = read_pixel_settings(models.processor().image_processor)
    with pytest.raises(BadSetting, match="expects"):
        GroundingDinoProposer(
            model, tokenizer, pixels, name="odd", digest="0", placement=choose_placement(OPTIONS)
        )
    assert grounding_dino.load(str(folder), OPTIONS)


def test_a_checkpoint_that_is_not_there_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotFound, match="hf download nobody/grounding-dino"):
        grounding_dino.load("nobody/grounding-dino", OPTIONS)
    with pytest.raises(NotFound, match="no folder"):
        grounding_dino.load("./no/such/folder", OPTIONS)
    with pytest.raises(NotFound, match="no safetensors"):
        grounding_dino.load(str(tmp_path), OPTIONS)


@pytest.mark.parametrize("query", ["?max_phrases=0", "?pad=x", "?unknown=1", "?pad=8&pad=9"])
def test_bad_settings_in_a_spec_are_refused(swin: Path, query: str) -> None:
    with pytest.raises(BadSetting):
        grounding_dino.load(f"{swin}{query}", OPTIONS)


@pytest.mark.parametrize("device", ["cuda:77", "x"])
def test_a_device_that_cannot_be_had_is_refused(device: str) -> None:
    with pytest.raises(BadSetting, match="this machine offers cpu"):
        choose_placement(ModelSettings(device=device))


def test_bfloat16_stays_near_float32(swin: Path) -> None:
    image = models.image(200, 150)
    exact = loaded(str(swin)).propose([image], PHRASES, 0.0)[0]
    half = ModelSettings(device="cpu", dtype="bfloat16")
    rough = grounding_dino.load(str(swin), half).propose([image], PHRASES, 0.0)[0]
    assert np.isfinite(rough.scores).all()
    assert len(rough) == len(exact)


def test_weights_in_bfloat16_are_not_converted_in_every_pass(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And boxes and scores are bit for bit those of weights that are."""
    monkeypatch.setattr(grounding_dino, "fuse_half_products", lambda _: None)  # rounds less often
    image, half = models.image(200, 150), ModelSettings(device="cpu", dtype="bfloat16")
    once = grounding_dino.load(str(checkpoint), half)
    monkeypatch.setattr(cpu_speedups, "cast_weights", lambda *_: None)
    every = grounding_dino.load(str(checkpoint), half)
    found, wanted = (model.propose([image], PHRASES, 0.0)[0] for model in (once, every))
    np.testing.assert_array_equal(found.scores, wanted.scores)
    np.testing.assert_array_equal(found.boxes, wanted.boxes)
    converted = "aten::_to_copy"
    assert _count(converted, once, image) < _count(converted, every, image)


@pytest.mark.skipif(
    not cpu_speedups.multiplies(torch.bfloat16), reason="oneDNN has no bfloat16 on this processor"
)
def test_linear_layers_in_bfloat16_add_their_biases_inside_the_product(checkpoint: Path) -> None:
    half = ModelSettings(device="cpu", dtype="bfloat16")
    model = grounding_dino.load(str(checkpoint), half)
    image = models.image(200, 150)
    assert _count("mkldnn::_linear_pointwise", model, image) > 20
    assert _count("aten::linear", model, image) == 0


def _count(operation: str, model: Proposer, image: Image) -> int:
    """How often one pass does it."""
    with torch.profiler.profile() as profile:
        model.propose([image], PHRASES, 0.0)
    return sum(one.count for one in profile.key_averages() if one.key == operation)


class OtherPackage(torch.nn.Module):
    """A network that is no class of transformers' and reads the caption's ids itself."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self._inner, self.config = inner, inner.config

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor,
        input_ids: torch.Tensor,
        **_: Any,
    ) -> Any:
        """What the network of transformers gives, from the ids."""
        return self._inner(pixel_values, input_ids, pixel_mask=pixel_mask)


def test_the_network_of_another_package_is_given_ids_and_keeps_its_parts(swin: Path) -> None:
    processor, network = models.processor(), OtherPackage(copy.deepcopy(reference(swin)))
    parts = [type(module) for module in network.modules()]
    proposer = GroundingDinoProposer(
        network,
        processor.tokenizer,
        read_pixel_settings(processor.image_processor, least_cells=network.config.num_queries),
        name="other",
        digest="1",
        placement=choose_placement(OPTIONS),
    )
    images = [models.image(200, 150), models.image(160, 120)]
    theirs = proposer.propose(images, PHRASES, FLOOR)
    assert [type(module) for module in network.modules()] == parts
    for one, other in zip(theirs, loaded(str(swin)).propose(images, PHRASES, FLOOR), strict=True):
        same(one, other)
