"""Decoys with the embedded models, on scenes that no training saw."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from secondlook.config.settings import ModelSettings, PipelineSettings
from secondlook.core.ontology_yaml import ontology_from_yaml
from secondlook.core.types import Decoy, Image, Labelled, VQAQuery
from secondlook.demo.world import ontology_yaml, scene
from secondlook.evaluation.yes_bias import YesBias, compare
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.labeling.verifier import Verifier
from secondlook.models.embedded import load_proposer, load_verifier
from secondlook_client.values import Answer, Judgement

SCENES, BATCH = 16, 8


class YesSayer:
    """A verifier that turns every fifth no into a yes."""

    name, digest = "yes-sayer", "1"

    def __init__(self, model: Verifier) -> None:
        self._model, self._noes = model, 0
        self.min_side = model.min_side

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        return [tuple(map(self._lenient, said)) for said in self._model.answer(queries)]

    def _lenient(self, answer: Answer) -> Answer:
        if answer.p_yes is None or answer.p_yes > 0.5:
            return answer
        self._noes += 1
        return replace(answer, p_yes=0.9) if self._noes % 5 == 0 else answer


def timeless(found: Sequence[Labelled]) -> list[list[Judgement]]:
    return [
        [replace(j, verdict=replace(j.verdict, ms=0.0)) for j in one.judgements if j.verdict]
        for one in found
    ]


def bias(found: Sequence[Labelled]) -> YesBias:
    asked: list[Decoy] = [decoy for one in found for decoy in one.decoys]
    return YesBias.of(Counter((one.kind, one.class_name, one.said) for one in asked))


def test_labels_stay_the_same_to_the_last_bit_and_a_yes_sayer_is_found() -> None:
    proposer, verifier = load_proposer("", ModelSettings()), load_verifier("", ModelSettings())
    ontology = ontology_from_yaml(ontology_yaml())
    tasks = [
        Task(Image(np.asarray(scene(4247, index).image), f"{index:064x}"), ontology)
        for index in range(SCENES)
    ]

    def labelled(model: Verifier, share: float) -> list[Labelled]:
        pipeline = Pipeline(proposer, model, PipelineSettings(decoys=share))
        starts = range(0, SCENES, BATCH)
        return [one for start in starts for one in pipeline.label(tasks[start : start + BATCH])]

    plain, audited = labelled(verifier, 0.0), labelled(verifier, 0.3)
    assert timeless(plain) == timeless(audited)
    assert not bias(plain).total.asked
    found = bias(audited)
    assert found.total.asked > 80 and len(found.kinds) == 4
    assert found.total.share is not None and found.total.share < 0.1
    assert not compare(found.strata, found.strata).risen

    lenient = bias(labelled(YesSayer(verifier), 0.3))
    change = compare(found.strata, lenient.strata)
    assert change.risen and change.difference > 0.1
