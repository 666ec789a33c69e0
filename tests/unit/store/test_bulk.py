import math

import pytest
from stored import ANSWERS, labelled, street_ontology

from secondlook.core.errors import Damaged
from secondlook.core.ontology import ClassSpec, Ontology
from secondlook.core.types import Answer
from secondlook.store.bulk import gather
from secondlook.store.codec import asks_of, pack_evidence

ONTOLOGY = street_ontology()


def test_many_images_in_one_piece() -> None:
    found = [
        labelled("a", answers={**ANSWERS, "Dog?": 1 / 3}),  # not exact in 32 bits
        labelled("nothing", rows=()),
        labelled("b"),
    ]
    gathered = gather([pack_evidence(one.evidence, ONTOLOGY) for one in found], ONTOLOGY)
    assert len(gathered) == 3
    assert gathered.starts.tolist() == [0, 4, 4, 8]
    for at, one in enumerate(found):
        boxes = slice(gathered.starts[at], gathered.starts[at + 1])
        assert (gathered.boxes[boxes] == one.evidence.proposals.boxes).all()
        assert (gathered.scores[boxes] == one.evidence.proposals.scores).all()
        for row in range(one.proposals):
            for place, (view, question) in enumerate(asks_of(ONTOLOGY)):
                known = one.evidence.verdicts.get((row, view, question))
                p_yes = gathered.p_yes[gathered.starts[at] + row, place]
                if known is None:
                    assert math.isnan(p_yes)
                else:
                    assert p_yes == known.answer.p_yes
    assert gathered.silent == {}


def test_answers_without_a_verdict_are_kept_in_words() -> None:
    silent = Answer(None, "perhaps")
    failed = Answer(None, error="no answer")
    said = {**ANSWERS, "Off?": silent, "Dog?": failed}
    found = [labelled("a"), labelled("b", answers=said)]  # type: ignore[arg-type]
    gathered = gather([pack_evidence(one.evidence, ONTOLOGY) for one in found], ONTOLOGY)
    assert gathered.silent == {(4, 1): silent, (5, 2): failed}


def test_damage_is_told() -> None:
    packed = pack_evidence(labelled().evidence, ONTOLOGY)
    for content in (b"", packed[:-9], packed[:20], b"\x07" + packed[1:]):
        with pytest.raises(Damaged):
            gather([packed, content], ONTOLOGY)
    with pytest.raises(Damaged, match="3 classes where the ontology has 1"):
        gather([packed], Ontology((ClassSpec("dog"),)))
