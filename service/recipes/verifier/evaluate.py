"""How well the embedded verifier answers about views that it has never seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from transformers import FastVlmForConditionalGeneration

from recipes.verifier.data import Samples, normalized
from recipes.verifier.model import PromptTokens, encode_views, question_states
from recipes.verifier.questions import Facts, Question, draw, prompt, questions
from secondlook.demo.world import ATTRIBUTES, NOUNS
from secondlook.evaluation.calibration import auroc, reliability_of
from secondlook_client.values import View

BATCH = 64
Figures = dict[str, dict[str, float]]


def by_subject(
    model: FastVlmForConditionalGeneration, prompts: PromptTokens, samples: Samples, asked: int = 6
) -> Figures:
    """Accuracy, AUROC and ECE by what a question is about, as trained: any view, any wording,
    half of the answers yes; and of all of them as "all"."""
    rng = np.random.default_rng(3)
    rows = [draw(rng, facts, asked) for facts in samples.facts]
    return _grouped(model, prompts, samples, rows, lambda facts, question: question.about)


def by_class(
    model: FastVlmForConditionalGeneration, prompts: PromptTokens, samples: Samples
) -> Figures:
    """The same of every class's own question, on crops alone, at the rates of the world.

    Nouns are asked of every crop, attribute classes of crops of their noun, or of nothing.
    """
    rows = [list(_class_questions(facts)) for facts in samples.facts]
    return _grouped(model, prompts, samples, rows, lambda facts, question: question.text)


def _class_questions(facts: Facts) -> Iterator[Question]:
    if facts.view is not View.CROP:
        return
    wanted = {_noun_question(noun) for noun in NOUNS}
    wanted |= {a.question for a in ATTRIBUTES.values() if facts.noun in (a.noun, "")}
    for question in questions(facts):
        if question.text in wanted:
            yield question


def _noun_question(noun: str) -> str:
    return "Are these glasses?" if noun == "glasses" else f"Is this a {noun}?"


def _grouped(
    model: FastVlmForConditionalGeneration,
    prompts: PromptTokens,
    samples: Samples,
    rows: list[list[Question]],
    key: Callable[[Facts, Question], str],
) -> Figures:
    found: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    wanted = [row for row, asked in enumerate(rows) if asked]
    for start in range(0, len(wanted), BATCH):
        part = wanted[start : start + BATCH]
        answered = p_yes(model, prompts, samples.pixels(part), [rows[row] for row in part])
        for row, scores in zip(part, answered, strict=True):
            for question, score in zip(rows[row], scores, strict=True):
                found[key(samples.facts[row], question)].append((score, question.answer))
    found["all"] = [pair for pairs in found.values() for pair in pairs]
    return {name: figures(pairs) for name, pairs in sorted(found.items())}


@torch.inference_mode()
def p_yes(
    model: FastVlmForConditionalGeneration,
    prompts: PromptTokens,
    pixels: NDArray[np.uint8],
    asked: list[list[Question]],
) -> list[list[float]]:
    """P(yes) of every question of every view, (V, SIDE, SIDE, 3) uint8."""
    device = next(model.parameters()).device
    tails = [[prompts.tail(prompt(q.text)) for q in of_view] for of_view in asked]
    tokens = [torch.tensor([t for tail in of_view for t in tail]) for of_view in tails]
    part = [torch.tensor([k for k, tail in enumerate(of_view) for _ in tail]) for of_view in tails]
    place = [torch.tensor([k for tail in of_view for k in range(len(tail))]) for of_view in tails]
    padded = [pad_sequence(x, True, fill) for x, fill in ((tokens, 0), (part, -1), (place, 0))]
    seen = encode_views(model, normalized(pixels).to(device))
    hidden = question_states(model, prompts.head, seen.features, *(x.to(device) for x in padded))
    no, yes, _ = prompts.answers
    scores = model.lm_head(hidden)[..., [no, yes]].float().softmax(-1)[..., 1].cpu()
    ends = [np.cumsum([len(tail) for tail in of_view]) - 1 for of_view in tails]
    return [scores[view, rows].tolist() for view, rows in enumerate(ends)]


def figures(pairs: list[tuple[float, bool]]) -> dict[str, float]:
    """Figures of (P(yes), answer) pairs; AUROC is 1 where only one answer is there."""
    scores = np.array([score for score, _ in pairs])
    truth = np.array([answer for _, answer in pairs])
    said = scores > 0.5
    right = float((said & truth).sum())
    return {
        "asked": len(pairs),
        "yes": round(float(truth.mean()), 3),
        "accuracy": round(float((said == truth).mean()), 4),
        "auroc": round(auroc(scores, truth), 4),
        "ece": round(reliability_of(scores, truth).error or 0.0, 4),
        "precision": round(right / max(float(said.sum()), 1.0), 4),
        "recall": round(right / max(float(truth.sum()), 1.0), 4),
    }
