"""What ``secondlook guarantee`` prints and writes, and the page of a certificate."""

import json
from pathlib import Path

import pytest
from guaranteed import DOG, PETS, store_pets, write_pets_truth
from html_page import Page
from stored import labelled, stored_run

from secondlook.cli import run
from secondlook.store import open_store
from secondlook.store.guarantees import GuaranteeState

ROWS = ((DOG, {"dog": 0.8}),)
SURE = {"Dog?": 0.99, "Cat?": 0.1}
ASKED = ("--precision", "0.9", "--confidence", "0.9", "--budget", "40")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """``--data`` of a store with the run ``pets``; its truth is in the working folder."""
    with open_store(tmp_path / "data") as store:
        store_pets(store)
    monkeypatch.chdir(tmp_path)
    write_pets_truth(tmp_path / "truth.json")
    return "--data", str(tmp_path / "data")


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    return out + err


def test_from_the_questions_to_a_snapshot(
    place: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    create = ("guarantee", "create", "pets", *ASKED, *place)
    said = told(capsys, *create, code=1)
    assert "answers are missing" in said
    assert "secondlook review ask guarantee-pets-0.9 --data" in said
    said = told(capsys, "guarantee", "show", "pets-0.9", "--page", "c.html", *place, code=2)
    assert "not certified yet" in said and not Path("c.html").exists()
    said = told(capsys, *create, "--oracle", "truth.json")
    assert "it holds" in said and "secondlook guarantee apply pets-0.9 --data" in said
    assert "Missed objects" in said
    (row,) = told(capsys, "guarantee", "list", "--json", *place).splitlines()
    assert json.loads(row)["state"] == "holds"
    assert "pets-0.9" in told(capsys, "guarantee", "list", *place)
    said = told(capsys, "guarantee", "apply", "pets-0.9", *place)
    assert "50 images decided again as 'pets-0.9'" in said
    told(capsys, "snapshot", "create", "s", "--guarantee", "pets-0.9", *place)
    said = told(capsys, "guarantee", "withdraw", "pets-0.9", "--reason", "moved", *place)
    assert "withdrew the guarantee 'pets-0.9'" in said
    said = told(capsys, "snapshot", "create", "t", "--guarantee", "pets-0.9", *place, code=2)
    assert "was withdrawn; make a new one" in said


def test_the_page_shows_what_was_wrong_and_the_json_is_whole(
    place: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    named = ("--each-class", "--name", "each")
    told(capsys, "guarantee", "create", "pets", *ASKED, *named, "--oracle", "truth.json", *place)
    files = ("--page", "c.html", "--json", "c.json")
    told(capsys, "guarantee", "show", "each", *files, *place)
    whole = json.loads(Path("c.json").read_text(encoding="utf-8"))
    assert [result["class_name"] for result in whole["results"]] == ["dog", "cat"]
    assert [event["kind"] for event in whole["history"]] == ["asking", "queue made", "certified"]
    wrong = list(whole["history"][-1]["answers"].values()).count("wrong")
    html = Path("c.html").read_text(encoding="utf-8")
    assert 0 < html.count("data:image/webp") <= wrong
    assert sum(box["kind"] == "wrong" for box in Page(html).boxes()) == wrong
    assert html.count("<polyline") >= 2 and "risk over coverage of dog" in html
    for words in ("What is not guaranteed", "Missed objects", whole["answers"], "certified"):
        assert words in html


def test_what_cannot_be_is_refused_in_a_sentence(
    place: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    create = ("guarantee", "create", "pets", *place)
    for arguments, words in (
        (("--precision", "1"), "expected a precision from 0.5"),
        (("--precision", "nan"), "expected a precision from 0.5"),
        (("--confidence", "0"), "expected a confidence from 0.5"),
        (("--class", "bird"), "no class 'bird' in that run"),
        (("--class", "dog", "--each-class"), "give --class or --each-class"),
        (("--calibrator", "mine"), "no calibrator of that name"),
        (("--oracle", "nothing.json"), "nothing.json"),
    ):
        assert words in told(capsys, *create, *arguments, code=2)
    assert "there is no folder 'labels'" in told(capsys, "guarantee", "create", "labels", code=2)
    said = told(capsys, "guarantee", "show", "g", "labels", *place, code=2)
    assert "give FOLDER or --data" in said
    assert told(capsys, "guarantee", "list", "--json", *place) == ""


def test_label_says_where_labels_are_made_under_a_guarantee(
    place: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(capsys, "label", "photos", "--guarantee", "g", code=2)
    assert "secondlook job create NAME IMAGES --guarantee GUARANTEE" in said


def test_what_a_broken_guarantee_leaves_in_doubt_is_listed(
    place: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "guarantee", "create", "pets", *ASKED, "--oracle", "truth.json", *place)
    show = ("guarantee", "show", "pets-0.9", *place)
    said = told(capsys, *show, "--doubtful", "d.jsonl", code=2)
    assert "is neither broken nor withdrawn" in said and not Path("d.jsonl").exists()
    with open_store(Path(place[1])) as store:
        under = {"guarantee": "pets-0.9"}
        job = stored_run(store, "monday", [labelled("m", ROWS, SURE, PETS)], PETS, settings=under)
        other = {"guarantee": "pets"}
        stored_run(store, "other", [labelled("o", ROWS, SURE, PETS)], PETS, settings=other)
        first = store.results.page(job.id, 0, 1)[0].decided_at
        broken = {"held_until": first - 1, "reason": "many are wrong"}
        store.guarantees.change("pets-0.9", "broken", broken, state=GuaranteeState.BROKEN)
    said = told(capsys, *show, "--doubtful", "d.jsonl")
    assert "in doubt is what its jobs accepted after 20" in said and "many are wrong" in said
    (line,) = map(json.loads, Path("d.jsonl").read_text(encoding="utf-8").splitlines())
    assert (line["run"], line["name"], line["class_name"]) == ("monday", "m", "dog")
    assert json.loads(told(capsys, *show, "--doubtful", "-")) == line and not line["reviewed"]
    assert "print one of" in told(capsys, *show, "--doubtful", "-", "--json", "-", code=2)
    said = told(capsys, "snapshot", "create", "s", "--run", "monday", *place)
    assert "note: of the boxes of 'monday', 1 were accepted under guarantee 'pets-0.9'" in said
    told(capsys, "snapshot", "export", "s", "--format", "coco", "--out", "out", *place)
    assert "## Ended guarantees" in Path("out/README.md").read_text(encoding="utf-8")
