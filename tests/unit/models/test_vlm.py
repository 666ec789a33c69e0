"""The transformers verifier: every way through a model gives what ``generate`` gives."""

import dataclasses
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlms
import torch
from PIL import Image as PILImage
from transformers import AutoModelForImageTextToText, AutoProcessor

from secondlook.config.settings import ModelSettings
from secondlook.core.types import VQAQuery
from secondlook.labeling.verifier import Verifier
from secondlook.models import vlm, vlm_inputs, vlm_prefix_cache
from secondlook.models.vlm import TransformersVerifier
from secondlook.models.vlm_inputs import Tiles, synthetic_image
from secondlook.models.yes_no import answer_tokens, closed_question
from secondlook_client.errors import BadSetting

WEIGHTS = Path(vlm.__file__).parent / "weights" / "verifier"
QUESTIONS = (
    "Is this a dog?",
    "Is this person wearing glasses?",
    "Is there a small red car or a large blue ball in this image?",
)
SIZES = ((50, 60), (80, 40), (64, 64), (33, 90))

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")
"""What transformers is about to rename must not first be noticed when a pass is lost."""

FAMILIES: dict[str, tuple[Callable[[], tuple[Any, Any]], str]] = {
    "smolvlm": (tiny_vlms.smolvlm, "prefix"),
    "smolvlm-tiles": (lambda: tiny_vlms.smolvlm(split=True), "prefix"),
    "internvl": (tiny_vlms.internvl, "prefix"),
    "qwen2-vl": (tiny_vlms.qwen, "prefix"),
    "qwen2.5-vl": (lambda: tiny_vlms.qwen("2.5"), "prefix"),
    "gemma3": (tiny_vlms.gemma3, "prefix"),
    "paligemma": (tiny_vlms.paligemma, "features"),
}


@dataclasses.dataclass(frozen=True)
class Made:
    model: Any
    processor: Any
    verifier: TransformersVerifier
    shares: str


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest) -> Made:
    build, shares = FAMILIES[request.param]
    model, processor = build()
    verifier = TransformersVerifier(
        *(model, processor), name=request.param, digest="0" * 12, batch=3, min_mass=0.0,
        tiles=Tiles(),
    )  # fmt: skip
    return Made(model, processor, verifier, shares)


@pytest.fixture(scope="module")
def smolvlm() -> Made:
    model, processor = tiny_vlms.smolvlm()
    verifier = TransformersVerifier(model, processor, name="tiny", digest="0" * 12, min_mass=0.0)
    return Made(model, processor, verifier, "prefix")


def generated(made: Made, view: np.ndarray, question: str, **more: Any) -> float:
    """P(yes) as anyone would get it from the model's own ``generate``, one question at a time.

    ``more``: for the processor.
    """
    processor = made.processor
    if processor.chat_template:
        content = [{"type": "image"}, {"type": "text", "text": closed_question(question)}]
        chat = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True)
    else:
        text = f"{processor.image_token}{closed_question(question)}"
    special = {} if not text.startswith("<bos>") else {"add_special_tokens": False}
    inputs = processor(
        text=[text], images=[PILImage.fromarray(view)], return_tensors="pt", **special, **more
    )
    inputs.pop("labels", None)
    out = made.model.generate(
        **inputs, max_new_tokens=1, do_sample=False, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    likely = torch.softmax(out.scores[0][0].float(), dim=-1)
    tokens = answer_tokens(processor.tokenizer.get_vocab())
    yes, no = likely[list(tokens.yes)].sum(), likely[list(tokens.no)].sum()
    return float(yes / (yes + no))


def some_asks() -> list[VQAQuery]:
    return [
        VQAQuery(synthetic_image(*size, seed=i), QUESTIONS[: 1 + i % 3])
        for i, size in enumerate(SIZES)
    ]


def p_yes(answers: list[tuple[Any, ...]]) -> list[float]:
    return [answer.p_yes for of_view in answers for answer in of_view]


def test_batches_give_what_generate_gives_one_at_a_time(made: Made) -> None:
    queries = some_asks()
    expected = [generated(made, query.pixels, q) for query in queries for q in query.questions]
    assert max(expected) - min(expected) > 0.02, "the answers must differ, or nothing is compared"
    got = p_yes(made.verifier.answer(queries))
    assert got == pytest.approx(expected, abs=2e-5)


ENLARGED = (
    lambda: tiny_vlms.smolvlm(split=True, longest=192),
    {"size": {"longest_edge": 64}, "do_image_splitting": False},
    [{"size": {"longest_edge": 128}}, {"size": {"longest_edge": 128}}, {}],
)
"""Its processor enlarges everything to 192 px, which is up to 3 x 3 tiles of 64."""
SHAPED = (
    tiny_vlms.internvl,
    {"crop_to_patches": False},
    [{"max_patches": 2}, {"max_patches": 4}, {}],
)
"""Its processor takes the grid of up to 6 tiles of 64 px whose shape is nearest."""


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize(("build", "uncut", "cuts"), [ENLARGED, SHAPED])
def test_a_view_is_cut_into_the_tiles_that_its_pixels_fill(
    build: Callable[[], tuple[Any, Any]],
    uncut: dict[str, Any],
    cuts: list[dict[str, Any]],
    planned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not planned:
        monkeypatch.setattr(vlm_inputs, "plan_pixels", lambda *_: None)
    model, processor = build()
    verifier = TransformersVerifier(model, processor, name="t", digest="0", min_mass=0.0)
    assert (verifier._pixels is not None) == planned
    made = Made(model, processor, verifier, "prefix")
    sizes = [(36, 60), (60, 40), (64, 20), (65, 40), (70, 128), (300, 200)]
    views = [synthetic_image(*size, seed=at) for at, size in enumerate(sizes)]
    expected = [
        generated(made, view, question, **told)
        for view, told in zip(views, [uncut] * 3 + cuts, strict=True)
        for question in QUESTIONS
    ]
    got = p_yes(verifier.answer([VQAQuery(view, QUESTIONS) for view in views]))
    assert got == pytest.approx(expected, abs=2e-5)
    by_itself = [generated(made, view, QUESTIONS[0]) for view in views[:2]]
    assert got[:6:3] != pytest.approx(by_itself, abs=1e-4), "more tiles would change nothing"


def test_the_expected_sharing_was_chosen(made: Made) -> None:
    assert made.verifier._pass.__name__ == made.shares


@pytest.mark.parametrize(
    "way", [vlm_prefix_cache.plain, vlm_prefix_cache.features, vlm_prefix_cache.prefix]
)
def test_every_pass_gives_the_same_as_one_at_a_time(
    made: Made, way: vlm_prefix_cache.Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way is vlm_prefix_cache.prefix and made.shares != "prefix":
        pytest.skip("not a causal model; choosing another pass is tested above")
    monkeypatch.setattr(made.verifier, "_pass", vlm_prefix_cache.plain)
    singly = [
        made.verifier.answer([VQAQuery(query.pixels, (q,))])[0][0].p_yes
        for query in some_asks()
        for q in query.questions
    ]
    monkeypatch.setattr(made.verifier, "_pass", way)
    assert p_yes(made.verifier.answer(some_asks())) == pytest.approx(singly, abs=2e-5)


def test_an_image_is_encoded_once_however_many_questions_there_are(made: Made) -> None:
    """Counted in numbers that enter the vision tower, so a repeated batch would show too."""
    inner = made.model.model
    towers = (getattr(inner, name, None) for name in ("vision_model", "vision_tower", "visual"))
    tower = next(one for one in towers if one is not None)
    encoded: list[int] = []

    def count(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        first = next(one for one in (*given, *named.values()) if torch.is_tensor(one))
        encoded.append(first.numel())

    hook = tower.register_forward_pre_hook(count, with_kwargs=True)
    views = [synthetic_image(*size, seed=at) for at, size in enumerate(SIZES[:2])]
    for questions in (QUESTIONS[:1], QUESTIONS):
        made.verifier.answer([VQAQuery(view, questions) for view in views])
        encoded.append(0)
    hook.remove()
    split = encoded.index(0)
    assert sum(encoded[:split]) == sum(encoded[split:]) > 0


def test_a_pass_that_changes_answers_is_not_chosen(smolvlm: Made) -> None:
    verifier = smolvlm.verifier
    with torch.inference_mode():
        group = verifier._view_batches([synthetic_image(48, 64, 1), synthetic_image(48, 64, 2)])[0]
        suffixes = [[verifier._prompts.suffix(q) for q in QUESTIONS]] * 2

        def drifting(*given: Any, **named: Any) -> Any:
            """Right without a cache; with one, positions are off by one."""
            cache = named.get("cache", named.get("past_key_values"))
            if cache is not None:
                start = cache.get_seq_length() + 1
                length = named["input_ids"].shape[1]
                named["position_ids"] = torch.arange(start, start + length)[None]
            return smolvlm.model(*given, **named)

        drifting.dtype = torch.float32  # type: ignore[attr-defined]
        drifting.model = smolvlm.model.model  # type: ignore[attr-defined]
        drifting.forward = smolvlm.model.forward  # type: ignore[attr-defined]
        drifting.get_image_features = smolvlm.model.get_image_features  # type: ignore[attr-defined]
        chosen = vlm_prefix_cache.choose_pass(drifting, group, suffixes, "drifting")
    assert chosen is vlm_prefix_cache.features


def test_a_model_that_can_share_nothing_says_why(
    smolvlm: Made, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renamed(*_: Any) -> Any:
        raise TypeError("unexpected keyword argument 'of_old'")

    monkeypatch.setattr(vlm_prefix_cache, "_prefill", renamed)
    monkeypatch.setattr(vlm_prefix_cache, "_features_of", renamed)
    chosen = smolvlm.verifier._choose_pass()
    assert chosen is vlm_prefix_cache.plain
    (said,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "full prompt" in said and said.count("unexpected keyword argument 'of_old'") == 2


def test_batch_size_does_not_change_answers(smolvlm: Made) -> None:
    queries = some_asks() * 3
    whole = p_yes(smolvlm.verifier.answer(queries))
    small = TransformersVerifier(
        smolvlm.model, smolvlm.processor, name="t", digest="0", batch=1, min_mass=0.0
    )
    assert p_yes(small.answer(queries)) == pytest.approx(whole, abs=2e-5)


def test_plain_pictures_are_planned(made: Made) -> None:
    fixed = made.verifier.name in ("smolvlm", "gemma3", "paligemma")
    assert (made.verifier._pixels is not None) == fixed


def test_planned_pixels_equal_the_processors(smolvlm: Made) -> None:
    planned = smolvlm.verifier._pixels
    assert planned is not None
    noise = np.random.default_rng(0).integers(0, 256, (120, 75, 3), dtype=np.uint8)
    for view in (
        noise,
        noise[:7, :60].copy(),
        synthetic_image(64, 64, 0),
        synthetic_image(300, 200, 1),
    ):
        image = PILImage.fromarray(view)
        theirs = smolvlm.processor.image_processor([image], return_tensors="pt")["pixel_values"]
        ours = planned([view])
        assert torch.allclose(ours, theirs.reshape(ours.shape), atol=1e-5)


def test_a_processor_that_does_something_else_is_not_planned_around(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, processor = tiny_vlms.smolvlm()
    monkeypatch.setattr(
        vlm_inputs.PixelPlan, "_resized", lambda plan, pixels: torch.zeros(3, 64, 64)
    )
    verifier = TransformersVerifier(model, processor, name="t", digest="0", min_mass=0.0)
    assert verifier._pixels is None
    view = synthetic_image(50, 60, 1)
    made = Made(model, processor, verifier, "prefix")
    expected = generated(made, view, QUESTIONS[0])
    assert verifier.answer([VQAQuery(view, QUESTIONS[:1])])[0][0].p_yes == pytest.approx(
        expected, 1e-4
    )


def test_a_model_that_says_neither_abstains(smolvlm: Made) -> None:
    verifier = TransformersVerifier(
        smolvlm.model, smolvlm.processor, name="t", digest="0", min_mass=0.999
    )
    answer = verifier.answer([VQAQuery(synthetic_image(40, 40, 0), QUESTIONS[:1])])[0][0]
    assert answer.p_yes is None and answer.raw and not answer.error


def test_one_bad_view_fails_alone(smolvlm: Made, caplog: pytest.LogCaptureFixture) -> None:
    bad = VQAQuery(np.zeros((0, 5, 3), np.uint8), QUESTIONS[:2])
    good = some_asks()
    with caplog.at_level(logging.CRITICAL):
        answers = smolvlm.verifier.answer([good[0], bad, *good[1:]])
    assert [a.error != "" for a in answers[1]] == [True, True]
    assert all(a.p_yes is None for a in answers[1])
    assert p_yes(answers[:1] + answers[2:]) == pytest.approx(
        p_yes(smolvlm.verifier.answer(good)), abs=2e-5
    )


@pytest.mark.parametrize("family", ["smolvlm", "paligemma"])
def test_half_precision_chooses_the_same_pass_and_nearly_the_same_answers(family: str) -> None:
    build, shares = FAMILIES[family]
    queries = some_asks()
    whole = TransformersVerifier(*build(), name="t", digest="0", min_mass=0.0)
    model, processor = build()
    half = TransformersVerifier(
        model.to(torch.bfloat16), processor, name="t", digest="0", min_mass=0.0
    )
    assert half._pass.__name__ == shares
    assert p_yes(half.answer(queries)) == pytest.approx(p_yes(whole.answer(queries)), abs=0.05)


def test_callers_in_many_threads_get_their_own_answers() -> None:
    # Qwen-VL keeps state in the model between the two passes of one question.
    model, processor = tiny_vlms.qwen()
    verifier = TransformersVerifier(model, processor, name="t", digest="0", min_mass=0.0)
    wanted = [[query] for query in some_asks()] * 4
    expected = [p_yes(verifier.answer(queries)) for queries in wanted]
    with ThreadPoolExecutor(4) as pool:
        got = [p_yes(answers) for answers in pool.map(verifier.answer, wanted)]
    for mine, right in zip(got, expected, strict=True):
        assert mine == pytest.approx(right, abs=2e-5)


def test_a_template_with_the_question_first_is_refused() -> None:
    model, processor = tiny_vlms.smolvlm()
    processor.chat_template = "{{ messages[0]['content'][1]['text'] }}<image>"
    with pytest.raises(BadSetting, match="question before the image"):
        TransformersVerifier(model, processor, name="t", digest="0")


def test_nothing_asked_is_nothing_answered(smolvlm: Made) -> None:
    assert smolvlm.verifier.answer([]) == []
    assert smolvlm.verifier.answer([VQAQuery(synthetic_image(9, 9, 0), ())]) == [()]


def test_load_from_a_folder(tmp_path: Path) -> None:
    folder = tiny_vlms.save(tiny_vlms.smolvlm(), tmp_path / "tiny")
    verifier = vlm.load(str(folder), ModelSettings(device="cpu"))
    assert isinstance(verifier, Verifier)
    assert verifier.name == "tiny" and len(verifier.digest) == 12
    (answer,) = verifier.answer([VQAQuery(synthetic_image(40, 50, 0), QUESTIONS[:1])])[0]
    assert answer.error == ""
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    assert vlm.load(str(folder), ModelSettings(device="cpu")).digest != verifier.digest


def test_how_a_checkpoint_that_cuts_is_shown_views_is_part_of_its_digest(tmp_path: Path) -> None:
    options = ModelSettings(device="cpu")
    folder = tiny_vlms.save(tiny_vlms.smolvlm(split=True), tmp_path / "cuts")
    needed, every = vlm.load(str(folder), options), vlm.load(f"{folder}?tiles=all", options)
    assert (needed.name, every.name) == ("cuts", "cuts")
    assert needed.digest != every.digest
    assert vlm.load(f"{folder}?tiles=needed", options).digest == needed.digest
    whole = tiny_vlms.save(tiny_vlms.smolvlm(), tmp_path / "whole")
    assert vlm.load(str(whole), options).digest == vlm.load(f"{whole}?tiles=all", options).digest
    with pytest.raises(BadSetting, match="tiles=needed or tiles=all, got 'some'"):
        vlm.load(f"{folder}?tiles=some", options)


def test_the_embedded_verifier_answers_as_its_generate_does() -> None:
    if not (WEIGHTS / "config.json").is_file():
        pytest.skip("the embedded weights are not here; train them with the verifier recipe")
    verifier = vlm.load(str(WEIGHTS), ModelSettings(device="cpu"))
    processor = AutoProcessor.from_pretrained(WEIGHTS)
    model = AutoModelForImageTextToText.from_pretrained(WEIGHTS).eval()
    made = Made(model, processor, verifier, "prefix")
    assert verifier._pass.__name__ == "prefix" and verifier._pixels is not None
    queries = some_asks()
    expected = [generated(made, query.pixels, q) for query in queries for q in query.questions]
    assert p_yes(verifier.answer(queries)) == pytest.approx(expected, abs=2e-5)


def test_the_norms_of_the_embedded_verifier_are_fused() -> None:
    verifier = vlm.load(str(WEIGHTS), ModelSettings(device="cpu"))
    left = [type(module).__name__ for module in verifier._model.modules()]
    assert "Conv2d" in left and "BatchNorm2d" not in left
