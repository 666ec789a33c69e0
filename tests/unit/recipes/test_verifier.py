"""The embedded verifier: its questions, tokenizer, training and weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from transformers import AutoModelForImageTextToText, AutoProcessor

from recipes.verifier import train
from recipes.verifier.data import Samples, batch_of, pack, unpack
from recipes.verifier.evaluate import by_class, figures, p_yes
from recipes.verifier.model import (
    IMAGE_TOKENS,
    PromptTokens,
    VerifierShape,
    build_model,
    build_processor,
    build_tokenizer,
)
from recipes.verifier.questions import Facts, Question, draw, questions
from recipes.verifier.train import export
from recipes.verifier.trainer import VerifierPlan, VerifierTraining
from recipes.verifier.views import SIDE, judge, samples_of
from secondlook.config.settings import ModelSettings
from secondlook.demo.world import Thing
from secondlook.models.embedded import load_proposer
from secondlook.models.yes_no import closed_question
from secondlook_client.values import View

TINY = VerifierPlan(
    steps=4, views=2, questions=2, scenes=2, shape=VerifierShape((16, 24, 32), 1, 32, 1), silent=0.5
)
WEIGHTS = train.WEIGHTS


def answers(facts: Facts) -> dict[str, bool]:
    return {question.text: question.answer for question in questions(facts)}


class TestQuestions:
    def test_glasses_on_the_head_are_not_worn(self) -> None:
        told = answers(Facts(View.CROP, "person", traits=frozenset({"glasses on head"})))
        assert told["Is this person wearing glasses?"] is False
        assert told["Is this person not wearing glasses?"] is True
        assert told["Are the glasses on the head?"] is True
        assert told["Is this a person?"] is True
        assert told["Are these glasses?"] is False

    def test_a_worn_helmet_and_glasses(self) -> None:
        told = answers(Facts(View.CROP, "person", traits=frozenset({"glasses", "helmet"})))
        assert told["Is this person wearing glasses?"] is True
        assert told["Is this person without glasses?"] is False
        assert told["Is this person wearing a helmet?"] is True
        assert told["Is this person wearing a hat?"] is False

    @pytest.mark.parametrize("noun", ["glasses", "helmet", "car", ""])
    def test_what_is_no_person_neither_wears_nor_goes_without(self, noun: str) -> None:
        told = answers(Facts(View.CROP, noun))
        assert not any(told[text] for text in told if "person" in text)

    def test_colours_need_their_noun(self) -> None:
        told = answers(Facts(View.CONTEXT, "car", "red"))
        assert told["Is this a red car?"] is told["Is this car red?"] is True
        assert told["Is this a blue car?"] is told["Is this a red ball?"] is False

    def test_nothing_is_no_to_everything(self) -> None:
        assert not any(answers(Facts(View.CROP)).values())

    def test_images_are_asked_what_they_hold(self) -> None:
        told = answers(Facts(View.IMAGE, present=frozenset({"dog"})))
        assert told["Is there a dog in this picture?"] is True
        assert told["Is there a tree in this picture?"] is False

    def test_half_of_what_is_drawn_is_yes(self) -> None:
        facts = Facts(View.CROP, "person", traits=frozenset({"glasses"}))
        drawn = draw(np.random.default_rng(0), facts, 6)
        assert [question.answer for question in drawn].count(True) == 3

    def test_a_class_is_asked_about_in_its_own_words_oftenest(self) -> None:
        facts = Facts(View.CROP, "person", traits=frozenset({"helmet"}))
        drawn = [q.text for q in draw(np.random.default_rng(0), facts, 600)]
        own = drawn.count("Is this person wearing a helmet?")
        assert own > 2 * drawn.count("Does this person wear a helmet?") > 0

    def test_facts_survive_packing(self) -> None:
        for facts in (
            Facts(View.CONTEXT, "person", traits=frozenset({"glasses on head", "mask"})),
            Facts(View.CROP, "ball", "white"),
            Facts(View.IMAGE, present=frozenset({"dog", "red car"})),
        ):
            assert unpack(pack(facts)) == facts


class TestViews:
    thing = Thing("dog", (10.0, 10.0, 50.0, 50.0), None, frozenset())
    boxes = np.array([thing.box], dtype=np.float32)

    def test_a_shifted_box_holds_its_thing(self) -> None:
        assert judge((12.0, 12.0, 52.0, 52.0), (self.thing,), self.boxes) == (self.thing,)

    def test_a_piece_holds_nothing(self) -> None:
        assert judge((10.0, 10.0, 30.0, 30.0), (self.thing,), self.boxes) == (None,)

    def test_between_the_two_nobody_asks(self) -> None:
        assert judge((10.0, 10.0, 50.0, 30.0), (self.thing,), self.boxes) is None

    def test_two_things_in_one_place_are_not_asked_about(self) -> None:
        other = replace(self.thing, noun="tree", box=(11.0, 11.0, 51.0, 51.0))
        boxes = np.array([self.thing.box, other.box], dtype=np.float32)
        assert judge(self.thing.box, (self.thing, other), boxes) is None

    def test_the_same_scene_gives_the_same_views(self) -> None:
        first, second = samples_of(4, 2), samples_of(4, 2)
        assert len(first) > 3
        for a, b in zip(first, second, strict=True):
            assert a.facts == b.facts
            assert np.array_equal(a.pixels, b.pixels)
            assert np.array_equal(a.layout, b.layout)

    def test_a_proposer_adds_the_boxes_that_it_gives(self) -> None:
        proposer = load_proposer("", ModelSettings(device="cpu"))
        alone, with_it = samples_of(4, 2), samples_of(4, 2, proposer)
        assert [sample.facts for sample in with_it[: len(alone)]] == [s.facts for s in alone]
        added = with_it[len(alone) :]
        assert {sample.facts.view for sample in added} == {View.CROP}
        assert "person" in {sample.facts.noun for sample in added}


class TestTokenizer:
    tokenizer = build_tokenizer()

    def test_questions_come_back_in_lower_case(self) -> None:
        ids = self.tokenizer("Is this person wearing glasses?")["input_ids"]
        assert self.tokenizer.decode(ids) == "is this person wearing glasses?"
        assert len(ids) == 6

    def test_words_that_are_not_known_become_letters(self) -> None:
        ids = self.tokenizer("Is this a zebra?")["input_ids"]
        assert self.tokenizer.unk_token_id not in ids
        assert self.tokenizer.decode(ids) == "is this a zebra?"

    def test_yes_and_no_are_single_tokens(self) -> None:
        for word in ("yes", "Yes", " yes", "no", "No", " no"):
            assert len(self.tokenizer(word)["input_ids"]) == 1

    def test_special_tokens_are_known_and_distinct(self) -> None:
        names = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
        ids = self.tokenizer.convert_tokens_to_ids(names)
        assert len({*ids, self.tokenizer.unk_token_id}) == 5
        assert self.tokenizer.eos_token_id == ids[3]

    def test_prompts_are_what_the_processor_makes(self) -> None:
        question = "Is this a dog?"
        encoded = _encode(build_processor(), [question], np.zeros((40, 30, 3), np.uint8))
        prompts = PromptTokens()
        expected = prompts.head + prompts.tail(closed_question(question))
        assert encoded["input_ids"][0].tolist() == expected
        assert encoded["pixel_values"].shape == (1, 3, SIDE, SIDE)
        assert prompts.head.count(build_model(0, TINY.shape).config.image_token_id) == IMAGE_TOKENS


def test_packed_questions_are_answered_as_if_alone() -> None:
    model, prompts = build_model(3, VerifierShape((16, 24, 32), 1, 64, 2)).eval(), PromptTokens()
    pixels = np.random.default_rng(0).integers(0, 255, (1, SIDE, SIDE, 3), dtype=np.uint8)
    texts = ["Is this a dog?", "Is this person not wearing glasses?", "Is this a car?"]
    together = p_yes(model, prompts, pixels, [[Question(t, "", True) for t in texts]])[0]
    processor = build_processor()
    for text, packed in zip(texts, together, strict=True):
        with torch.inference_mode():
            logits = model(**_encode(processor, [text], pixels[0])).logits[0, -1]
        no, yes, _ = prompts.answers
        assert packed == pytest.approx(float(logits[[no, yes]].softmax(0)[1]), abs=1e-5)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the views of two scenes already."""
    folder = tmp_path_factory.mktemp("work")
    VerifierTraining(TINY, folder)
    return folder


def test_a_batch_depends_on_its_step_alone(work: Path) -> None:
    samples = VerifierTraining(TINY, work).samples
    prompts = PromptTokens()
    made = [batch_of(samples, prompts.tail, prompts.answers, 1, step, 3, 2) for step in (5, 5, 6)]
    assert torch.equal(made[0].pixels, made[1].pixels)
    assert torch.equal(made[0].tokens, made[1].tokens)
    assert not torch.equal(made[0].pixels, made[2].pixels)
    learnt = made[0].target[made[0].target >= 0]
    assert len(learnt) == 3 * 2 * 2
    assert set(learnt.tolist()) <= set(prompts.answers)


def test_a_resumed_run_gives_the_weights_of_a_whole_one(work: Path) -> None:
    whole = VerifierTraining(TINY, work)
    for _ in range(4):
        whole.one_step()
    killed = VerifierTraining(TINY, work)
    for _ in range(2):
        killed.one_step()
    killed.save()
    resumed = VerifierTraining(TINY, work)
    resumed.resume()
    assert resumed.step == 2
    for _ in range(2):
        resumed.one_step()
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name


def test_a_run_begins_with_the_weights_of_a_folder(work: Path, tmp_path: Path) -> None:
    first = VerifierTraining(TINY, work)
    first.one_step()
    export(first, tmp_path, "command", {})
    second = VerifierTraining(replace(TINY, start=str(tmp_path), seed=9), work)
    for name, value in first.average.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_an_export_loads_and_generates(work: Path, tmp_path: Path) -> None:
    training = VerifierTraining(TINY, work)
    training.one_step()
    export(training, tmp_path, "command", {})
    model = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    expected = {k: v.float() for k, v in training.average.state_dict().items()}
    for name, value in model.state_dict().items():
        assert torch.equal(value.float(), expected[name]), name
    encoded = _encode(processor, ["Is this a dog?"], np.zeros((30, 40, 3), np.uint8))
    made = model.generate(**encoded, max_new_tokens=1)
    with torch.inference_mode():
        likeliest = int(model(**encoded).logits[0, -1].argmax())
    assert made[0, -1] == likeliest


def test_figures_of_scores() -> None:
    found = figures([(0.9, True), (0.4, True), (0.4, False), (0.1, False)])
    assert found["auroc"] == pytest.approx(0.875)
    assert found["ece"] == pytest.approx(0.1)
    assert (found["yes"], found["precision"], found["recall"]) == (0.5, 1.0, 0.5)


class TestWeights:
    """The weights that come with the package, on scenes that no training has seen."""

    def test_the_shipped_tokenizer_is_the_recipe_s(self) -> None:
        shipped = AutoProcessor.from_pretrained(WEIGHTS).tokenizer
        assert build_tokenizer().get_vocab() == shipped.get_vocab()

    def test_generate_says_what_p_yes_says(self) -> None:
        model = AutoModelForImageTextToText.from_pretrained(WEIGHTS).eval()
        processor = AutoProcessor.from_pretrained(WEIGHTS)
        no, yes, _ = PromptTokens(processor).answers
        asked = [
            (sample.pixels, question)
            for sample in samples_of(77, 1)[:4]
            for question in draw(np.random.default_rng(0), sample.facts, 2)
        ]
        for pixels, question in asked:
            encoded = _encode(processor, [question.text], pixels)
            words = model.generate(**encoded)[0, encoded["input_ids"].shape[1] :]
            with torch.inference_mode():
                logits = model(**encoded).logits[0, -1]
            said = processor.tokenizer.decode(words, skip_special_tokens=True)
            assert said == ("yes" if logits[yes] > logits[no] else "no")

    def test_classes_are_told_on_unseen_scenes(self, tmp_path: Path) -> None:
        model = AutoModelForImageTextToText.from_pretrained(WEIGHTS).eval()
        found = by_class(model, PromptTokens(), Samples(tmp_path, 78, 12))
        assert found["all"]["accuracy"] >= 0.95
        assert found["Is this person wearing glasses?"]["accuracy"] >= 0.9


def _encode(processor, asked: list[str], pixels: np.ndarray) -> dict:  # type: ignore[no-untyped-def,type-arg]
    content = [{"type": "image"}, {"type": "text", "text": closed_question(asked[0])}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    image = PILImage.fromarray(pixels)
    return dict(processor(text=[text], images=[image], return_tensors="pt"))
