import json
from pathlib import Path

import pytest
from html_page import Page
from stored import ANSWERS, image_of, labelled, review_box, stored_run

from secondlook.cli import run
from secondlook.store import Store, open_store
from secondlook_client.values import Outcome

DOGGED = {**ANSWERS, "Dog?": 0.9}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a run of two images; the working folder is an empty one."""
    with open_store(tmp_path / "data") as store:
        stored_run(store, "first", [labelled("a.png"), labelled("b.png", answers=DOGGED)])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    return out + err


def opened(data: Path) -> Store:
    return open_store(data)


def test_decide_again_and_compare(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--data", str(data))
    said = told(capsys, "redecide", "first", "strict", "--accept", "dog=0.95", *place)
    assert "2 images of 'first' decided again as 'strict'" in said
    assert "secondlook compare first strict" in said
    said = told(capsys, "compare", "first", "strict", *place)
    assert "first → strict: labels on 2 images" in said
    (dog,) = [line.split() for line in said.splitlines() if line.split()[:1] == ["dog"]]
    assert dog == ["dog", "0", "0", "1", "0"]
    assert Path("compare.html").read_text().count("data:image/webp") == 1
    figures = json.loads(
        told(capsys, "compare", "first", "strict", "--json", "--gallery", "0", *place)
    )
    assert figures["lost"] == 1
    assert figures["classes"]["glasses on"] == {
        "kept": 2,
        "gained": 0,
        "lost": 0,
        "changed": 0,
    }


def test_numbers_for_all_classes_or_one_and_fewer_classes(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--accept", "0.99", "--accept", "dog=0.45", "--reject", "0.1", "--only", "dog")
    told(capsys, "redecide", "first", "new", *flags, "--only", "glasses on", "--data", str(data))
    with opened(data) as store:
        made = store.results.run("new")
        assert [(s.name, s.group, s.accept, s.reject) for s in made.ontology.classes] == [
            ("glasses on", "", 0.99, 0.1),
            ("dog", "", 0.45, 0.1),
        ]
        outcomes = [
            [j.decision.outcome for j in result.labelled.judgements]
            for result in store.results.page(made.id)
        ]
    assert outcomes == [[Outcome.UNSURE, Outcome.ACCEPT]] * 2


def test_other_classes_in_their_own_words(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "redecide", "first", "hounds", "-c", "hound = dog ? Dog?", "--data", str(data))
    said = told(capsys, "redecide", "first", "x", "-c", "cat", "--data", str(data), code=2)
    assert "no scores for 'cat' alone" in said


def test_questions_never_asked_are_reported(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, "redecide", "first", "low", "--threshold", "0.15", "--data", str(data))
    assert "2 decisions (one box for one class) unsure because the question was not asked" in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("redecide", "first", "first"), 2, "choose another name"),
        (("redecide", "nothing", "new"), 2, "no run 'nothing'"),
        (("redecide", "first", "new", "--accept", "dog"), 2, "expected a number such as 0.4"),
        (("redecide", "first", "new", "--accept", "cow=1"), 2, "no class 'cow'"),
        (("redecide", "first", "new", "--accept", "0.2"), 2, "lower reject or raise accept"),
        (("compare", "first", "second"), 2, "no run 'second'"),
        (("explain", "1"), 2, "such as 81.3"),
        (("explain", "99.0"), 2, "no label '99.0'"),
    ],
)
def test_errors_of_the_commands(
    data: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    assert said in told(capsys, *arguments, "--data", str(data), code=code)


def test_a_label_is_explained(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(data) as store:
        (first, _) = store.results.page(1)
        image = image_of(store, "a.png")
        review_box(store, image, "dog", (20, 5, 39, 25), "right", "Ann", "it barks")
    name = first.label_id(2)
    said = told(capsys, "explain", name, "--data", str(data))
    for part in (
        f"{name}  dog: accept  Ann says that it is right: it barks",
        f"a.png  40×30  {first.labelled.sha256}",
        "20.0 5.0 39.0 25.0  (19×20 pixels)",
        "first (folder)",
        "scripted@p0",
        "scripted@v0",
        "unsure (P(yes) 0.50 is between 0.40 and 0.60)",
        "0.700",
        "Dog?",
        "Ann  right: it barks",
    ):
        assert part in said
    page = Page(Path("explain.html").read_text())
    assert all(a["src"].startswith("data:image/webp") for a in page.all("img"))
    assert len(page.all("img")) == 2
    for part in (first.labelled.sha256, "scripted@p0", "scripted@v0", "Dog?", "Ann"):
        assert part in page.texts(), part
    history = [words for words in page.texts("td") if words.startswith(("right:", "unsure:"))]
    assert history == ["unsure: P(yes) 0.50 is between 0.40 and 0.60", "right: it barks"]
    plain = json.loads(told(capsys, "explain", name, "--json", "--data", str(data)))
    assert plain["outcome"] == "accept"
    assert plain["decision_before_reviews"]["outcome"] == "unsure"
    assert plain["image"]["sha256"] == first.labelled.sha256
    dog = plain["classes"][2]
    assert (dog["question"], dog["p_yes"], dog["raw_answer"]) == ("Dog?", 0.5, "no")
    assert (dog["threshold"], dog["accept"], dog["reject"]) == (0.25, 0.6, 0.4)
    assert plain["rerun"] is None


def test_the_models_are_run_again(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By plug-ins of the tests, which find nothing on a plain image or answer otherwise."""
    with opened(data) as store:
        (first, _) = store.results.page(1)
    flags = ("--rerun", "--data", str(data), "--verifier", "none")
    proposer = ("--proposer", "scripted_models:bright_half")
    said = told(capsys, "explain", first.label_id(0), *flags, *proposer, code=1)
    assert "rerun with other models" in said
    assert "bright" in said


def test_no_store_and_no_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "say where the store is" in told(capsys, "compare", "a", "b", code=2)
    assert "no store in" in told(capsys, "explain", "1.0", "--data", str(tmp_path), code=2)
