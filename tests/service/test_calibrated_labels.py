"""A server with a calibrator: its labels, and what it keeps with each job."""

import math

import pytest
from fakes import ScriptedVerifier
from serving import DOG, png, serving

from secondlook.labeling.calibrator import Calibrator, ClassFit
from secondlook.store import Store
from secondlook_client import Client, Outcome
from secondlook_client.ontology import ClassSpec

DOUBTS = Calibrator(
    ("dog",), (), (), (ClassFit(0.0, ()),), {}, "scripted@p0", "scripted@v0", source="a test"
)
"""Every dog is as likely right as wrong."""


def test_labels_are_decided_by_the_probability(store: Store) -> None:
    with (
        serving(verifier=ScriptedVerifier(0.97), store=store, calibrator=DOUBTS) as s,
        Client(s.address) as client,
    ):
        (dog,) = client.label(png(), classes=["dog"]).judgements
        assert (dog.outcome, dog.probability) == (Outcome.UNSURE, pytest.approx(0.5))
        assert dog.reason == "probability 0.50 is between 0.40 and 0.60 (P(yes) 0.97)"
        (cat,) = client.label(png(), classes=["cat"]).judgements
        assert (cat.outcome, cat.reason) == (Outcome.ACCEPT, "P(yes) 0.97 ≥ 0.60")


def test_a_job_keeps_what_decided_it(store: Store) -> None:
    with (
        serving(verifier=ScriptedVerifier(0.97), store=store, calibrator=DOUBTS) as s,
        Client(s.address) as client,
    ):
        client.jobs.create("dogs", classes=DOG.classes)
        client.jobs.create("cats", classes=[ClassSpec("cat")])
        client.label(png(), classes=["dog"], keep="kept")
        (found,) = client.jobs.results("kept")
        assert math.isclose(found.result.judgements[0].probability, 0.5)
    calibrators = [store.results.run(name).calibrator for name in ("dogs", "cats", "kept")]
    assert calibrators == [DOUBTS.digest, "", DOUBTS.digest]
    assert store.calibrators.get(DOUBTS.digest) == DOUBTS
