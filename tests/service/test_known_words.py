"""Models that know certain words only: a server refuses others before it takes an image."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fakes import ScriptedProposer, ScriptedVerifier
from label_command import folder_of
from serving import Serving, png, serving

from secondlook.cli import run
from secondlook.labeling.vocabulary import Vocabulary
from secondlook.store import open_store
from secondlook_client import ClassSpec, Client, errors
from secondlook_client.ontology import Ontology


class DogAndCat(ScriptedProposer):
    """Knows two classes."""

    name = "demo-scripted"

    def check_phrases(self, phrases: Sequence[str]) -> None:
        Vocabulary(("dog", "cat"), self.name).columns(phrases)


class AsksDogs(ScriptedVerifier):
    """Answers questions about dogs."""

    def check_questions(self, questions: Sequence[str]) -> None:
        if any("dog" not in question for question in questions):
            raise errors.BadOntology("only dogs are known here")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    with open_store(tmp_path / "data") as store, serving(DogAndCat(), AsksDogs(), store=store) as s:
        yield s


def test_a_single_image_a_job_and_a_stream_are_refused_at_once(served: Serving) -> None:
    wrong = [ClassSpec("giraffe", question="Is this a dog?")]
    with Client(served.address) as client:
        with pytest.raises(errors.BadOntology, match="does not know 'giraffe'") as refused:
            client.label(png(), classes=wrong)
        assert refused.value.from_server and refused.value.status == "INVALID_ARGUMENT"
        with pytest.raises(errors.BadOntology, match="does not know 'giraffe'"):
            client.jobs.create("street", classes=wrong)
        with pytest.raises(errors.BadOntology, match="only dogs are known"):
            client.label(png(), classes=["cat"])
        assert client.label(png(), classes=["dogs"]).proposals == 1
    assert served.proposer.batches == [1]


def test_a_server_does_not_start_with_words_that_its_models_do_not_know() -> None:
    with (
        pytest.raises(errors.BadOntology, match="giraffe"),
        serving(DogAndCat(), ontology=Ontology((ClassSpec("giraffe"),))),
    ):
        pass


def test_the_command_line_says_what_is_near_and_that_a_server_runs_the_demo_models(
    served: Serving, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = folder_of(tmp_path / "photos", 1), tmp_path / "labels"
    command = ["label", str(photos), "--server", served.address, "--out", str(out), "-c"]
    assert run([*command, "doog ? Is this a dog?"]) == 1
    told = capsys.readouterr().err
    assert "does not know 'doog' (did you mean dog?)" in told
    assert "this service labels with the embedded demo models" in told
    assert served.proposer.batches == []
    assert run([*command, "dog", "--fresh"]) == 0
