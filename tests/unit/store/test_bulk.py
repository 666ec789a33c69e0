import math

import pytest
from stored import ANSWERS, labelled, street_ontology

from secondlook.store.bulk import unpack_many
from secondlook.store.codec import pack_evidence, questions_of
from secondlook_client.errors import Damaged
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer

ONTOLOGY = street_ontology()


def test_many_images_in_one_piece() -> None:
    found = [
        labelled("a", answers={**ANSWERS, "Dog?": 1 / 3}),  # not exact in 32 bits
        labelled("nothing", rows=()),
        labelled("b"),
    ]
    batch = unpack_many([pack_evidence(one.evidence, ONTOLOGY) for one in found], ONTOLOGY)
    assert len(batch) == 3
    assert batch.starts.tolist() == [0, 4, 4, 8]
    for at, one in enumerate(found):
        boxes = slice(batch.starts[at], batch.starts[at + 1])
        assert (batch.boxes[boxes] == one.evidence.proposals.boxes).all()
        assert (batch.scores[boxes] == one.evidence.proposals.scores).all()
        for row in range(one.proposals):
            for place, (view, question) in enumerate(questions_of(ONTOLOGY)):
                known = one.evidence.verdicts.get((row, view, question))
                p_yes = batch.p_yes[batch.starts[at] + row, place]
                if known is None:
                    assert math.isnan(p_yes)
                else:
                    assert p_yes == known.answer.p_yes
    assert batch.abstentions == {}


def test_answers_without_a_verdict_are_kept_in_words() -> None:
    silent = Answer(None, "perhaps")
    failed = Answer(None, error="no answer")
    answers = {**ANSWERS, "Off?": silent, "Dog?": failed}
    found = [labelled("a"), labelled("b", answers=answers)]  # type: ignore[arg-type]
    batch = unpack_many([pack_evidence(one.evidence, ONTOLOGY) for one in found], ONTOLOGY)
    assert batch.abstentions == {(4, 1): silent, (5, 2): failed}


def test_damage_is_reported() -> None:
    packed = pack_evidence(labelled().evidence, ONTOLOGY)
    for content in (b"", packed[:-9], packed[:20], b"\x07" + packed[1:]):
        with pytest.raises(Damaged):
            unpack_many([packed, content], ONTOLOGY)
    with pytest.raises(Damaged, match="3 classes where the ontology has 1"):
        unpack_many([packed], Ontology((ClassSpec("dog"),)))
