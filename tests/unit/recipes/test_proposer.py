"""The recipe of the embedded proposer, and the weights that it left in the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, BertTokenizer, GroundingDinoForObjectDetection

from recipes.proposer import data, loss, train
from recipes.proposer import model as proposer_model
from recipes.proposer.data import caption, collate, draw_image, token_nouns
from recipes.proposer.evaluate import canvas_of, detect, figures
from secondlook.demo.world import NOUNS

WEIGHTS = train.WEIGHTS


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return proposer_model.build_processor().tokenizer


@pytest.fixture(scope="module")
def shipped() -> GroundingDinoForObjectDetection:
    return GroundingDinoForObjectDetection.from_pretrained(WEIGHTS).eval()


def truth_of(boxes: list[list[float]], nouns: list[int], token_nouns: list[int]) -> loss.Truth:
    return loss.Truth(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(nouns, dtype=torch.long),
        torch.tensor(token_nouns),
        torch.ones(len(token_nouns), dtype=torch.bool),
    )


def test_tokens_that_split_phrases_keep_the_ids_that_the_model_compares(
    tokenizer: BertTokenizer,
) -> None:
    ids = tokenizer("person . zebra ?")["input_ids"]
    assert [ids[0], ids[2], ids[3], ids[4], ids[5]] == [101, 1012, 100, 1029, 102]


def test_only_words_for_a_noun_name_it(tokenizer: BertTokenizer) -> None:
    ids = tokenizer("red car . man not wearing a helmet .")["input_ids"]
    car, person, helmet = (NOUNS.index(n) for n in ("car", "person", "helmet"))
    assert token_nouns(tokenizer, ids) == [-1, -1, car, -1, person, -1, -1, -1, helmet, -1, -1]


def test_first_scores_are_the_prior(tokenizer: BertTokenizer) -> None:
    model = proposer_model.build_model(seed=0).eval()
    image = draw_image(7, 0)
    batch = collate([image], [NOUNS], tokenizer, canvas_of(image))
    with torch.inference_mode():
        logits = model(**batch.inputs).logits
    scores = logits[logits.isfinite()].sigmoid()
    assert 0.3 * proposer_model.PRIOR < float(scores.median()) < 3 * proposer_model.PRIOR


def test_trained_batch_norms_load_into_the_frozen_class(
    tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    model = proposer_model.build_model(seed=0)
    images = [draw_image(7, i) for i in range(2)]
    batch = collate(images, [NOUNS] * 2, tokenizer, (320, 320))
    model.train()(**batch.inputs)  # moves the running statistics off their start
    proposer_model.save_pretrained(model.state_dict(), tmp_path)
    frozen = GroundingDinoForObjectDetection.from_pretrained(tmp_path).eval()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in frozen.modules())
    with torch.inference_mode():
        mine, theirs = model.eval()(**batch.inputs), frozen(**batch.inputs)
    torch.testing.assert_close(mine.pred_boxes, theirs.pred_boxes, atol=1e-4, rtol=1e-3)


def test_the_last_head_of_the_loss_is_what_the_model_answers(tokenizer: BertTokenizer) -> None:
    model = proposer_model.build_model(seed=0).eval()
    for head in model.bbox_embed:  # they start at zero and would hide a wrong reference
        torch.nn.init.normal_(head.layers[-1].bias)
    image = draw_image(7, 0)
    batch = collate([image], [NOUNS], tokenizer, canvas_of(image))
    with torch.inference_mode():
        output = model(**batch.inputs)
        *_, (logits, boxes) = loss.decoder_heads(model.bbox_embed, output)
    torch.testing.assert_close(logits, output.logits[..., : logits.shape[-1]])
    torch.testing.assert_close(boxes, output.pred_boxes)


def test_one_to_one_gives_each_box_the_query_that_covers_it() -> None:
    truth = truth_of([[0.2, 0.2, 0.1, 0.1], [0.7, 0.7, 0.3, 0.3]], [0, 1], [0, 1])
    boxes = torch.tensor([[0.7, 0.7, 0.3, 0.3], [0.5, 0.5, 0.9, 0.9], [0.21, 0.2, 0.1, 0.1]])
    chosen = loss.assign_one(torch.zeros(3, 2), boxes, truth)
    assert dict(zip(chosen.rows.tolist(), chosen.columns.tolist(), strict=True)) == {0: 1, 2: 0}


def test_one_to_many_ranks_by_overlap_and_stays_where_it_is_allowed() -> None:
    truth = truth_of([[0.5, 0.5, 0.2, 0.2]], [0], [0])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.52, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]])
    allowed = torch.tensor([[True], [True], [False]])
    chosen = loss.assign_many(torch.zeros(3, 1), boxes, truth, 3, allowed)
    assert chosen.rows.tolist() == [0, 1]
    assert chosen.targets[0] == pytest.approx(1.0) and 0.5 < chosen.targets[1] < 0.9
    worse = loss.assign_many(torch.zeros(3, 1), boxes * 1.3, truth, 1, allowed)
    assert worse.targets[0] < 1 and worse.shares[0] == 1


def test_loss_is_lower_for_the_right_answer_and_finite_without_boxes() -> None:
    truth = truth_of([[0.5, 0.5, 0.2, 0.2]], [0], [0, -1])
    chosen = loss.Assignment(*[torch.tensor([0])] * 2, *[torch.tensor([1.0])] * 2)
    box = truth.boxes[None]
    right = loss.set_loss(torch.tensor([[[4.0, -4.0]]]), box, [truth], [chosen])
    modifier = loss.set_loss(torch.tensor([[[4.0, 4.0]]]), box, [truth], [chosen])
    moved = loss.set_loss(torch.tensor([[[4.0, -4.0]]]), box + 0.05, [truth], [chosen])
    assert right < modifier and right < moved
    empty = truth_of([], [], [0, -1])
    none = loss.assign_many(torch.zeros(1, 2), box[0], empty, 3)
    assert torch.isfinite(loss.set_loss(torch.zeros(1, 1, 2), box, [empty], [none]))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> train.ProposerPlan:
    monkeypatch.setattr(data, "CHUNK", 12)
    return train.ProposerPlan(steps=3, seed=3, batch=2, scenes=12, rate=1e-3, small_share=1.0)


def test_a_killed_run_goes_on_where_it_stood(tiny: train.ProposerPlan, tmp_path: Path) -> None:
    straight = train.ProposerTraining(tiny, tmp_path, "cpu")
    straight.one_step()
    straight.save()
    losses = [straight.one_step(), straight.one_step()]
    again = train.ProposerTraining(tiny, tmp_path, "cpu")
    again.resume()
    assert again.step == 1
    for wanted in losses:
        assert again.one_step() == pytest.approx(wanted, rel=1e-3)


def test_views_keep_boxes_on_their_things(tiny: train.ProposerPlan) -> None:
    rng = np.random.default_rng(0)
    image = np.zeros((200, 300, 3), np.uint8)
    image[50:90, 100:160] = 255
    box = np.array([[100, 50, 160, 90]], np.float32)
    scene = data.RenderedScene(image, box, np.array([3]))
    seen = 0
    for _ in range(40):
        view = data.place(scene, (160, 224), 0.4, rng)
        assert view.image.shape[0] <= 160 and view.image.shape[1] <= 224
        for left, top, right, bottom in view.boxes:
            seen += 1
            ys, xs = np.nonzero(view.image.mean(-1) > 128)
            assert np.allclose(
                [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1],
                [left, top, right, bottom],
                atol=2.5,
            )
    assert seen >= 30


def test_shipped_proposer_finds_the_nouns_of_unseen_scenes(
    shipped: GroundingDinoForObjectDetection, tokenizer: BertTokenizer
) -> None:
    images = [draw_image(424_242, i) for i in range(32)]
    at = figures(images, detect(shipped, tokenizer, images))["0.1"]["all"]
    assert at["recall"] >= 0.92
    assert at["false_per_true"] <= 2.5


def test_shipped_proposer_hears_nouns_only(
    shipped: GroundingDinoForObjectDetection, tokenizer: BertTokenizer
) -> None:
    phrases = ["person not wearing glasses", "zebra", "sky"]
    silent = ("not", "wearing", "[UNK]", "sky")
    top: dict[str, list[float]] = {word: [] for word in ("person", "glasses", *silent)}
    for index in range(16):
        image = draw_image(424_243, index)
        if not {NOUNS.index("person"), NOUNS.index("glasses")} <= set(image.nouns.tolist()):
            continue
        inputs = collate([image], [phrases], tokenizer, canvas_of(image)).inputs
        with torch.inference_mode():
            best = shipped(**inputs).logits[0].sigmoid().amax(0)
        tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        for token, score in zip(tokens, best.tolist(), strict=False):
            top.get(token, []).append(score)
    assert min(np.median(top["person"]), np.median(top["glasses"])) > 0.4
    assert max(max(top[word]) for word in silent) < 0.2


def test_shipped_proposer_answers_a_batch_as_it_answers_one_image(
    shipped: GroundingDinoForObjectDetection, tokenizer: BertTokenizer
) -> None:
    candidates = [draw_image(424_244, i) for i in range(24)]
    canvases = [canvas_of(p) for p in candidates]
    canvas = max(set(canvases), key=canvases.count)
    images = [p for p, c in zip(candidates, canvases, strict=True) if c == canvas][:4]
    assert len(images) > 1
    with torch.inference_mode():
        together = shipped(**collate(images, [NOUNS] * len(images), tokenizer, canvas).inputs)
        for i, image in enumerate(images):
            alone = shipped(**collate([image], [NOUNS], tokenizer, canvas).inputs)
            torch.testing.assert_close(
                alone.logits[0].sigmoid(), together.logits[i].sigmoid(), atol=2e-3, rtol=0
            )


def test_processor_prepares_images_as_the_training_did(tokenizer: BertTokenizer) -> None:
    image = draw_image(7, 1)
    processor = AutoProcessor.from_pretrained(WEIGHTS)
    theirs = processor(images=image.image, text=caption(NOUNS), return_tensors="pt")
    mine = collate([image], [NOUNS], tokenizer, image.image.shape[:2]).inputs
    assert theirs["input_ids"].tolist() == mine["input_ids"].tolist()
    torch.testing.assert_close(theirs["pixel_values"], mine["pixel_values"], atol=1e-4, rtol=0)


def test_shipped_tokenizer_is_the_recipe_s() -> None:
    shipped = AutoProcessor.from_pretrained(WEIGHTS).tokenizer.get_vocab()
    assert dict(shipped) == proposer_model.vocabulary()


def test_record_holds_the_promised_figures() -> None:
    record = json.loads((WEIGHTS / "training.json").read_text())
    assert record["images"] == 500
    assert record["final"]["0.1"]["all"]["recall"] >= 0.95
    assert record["final"]["0.1"]["all"]["false_per_true"] <= 2.5
    assert (WEIGHTS / "model.safetensors").stat().st_size < 14 * 2**20
