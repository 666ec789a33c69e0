import json
from collections import Counter
from pathlib import Path

import pytest
from html_page import Page
from stored import ANSWERS, labelled, stored_run

from secondlook.cli import run
from secondlook.config.settings import ImageSettings
from secondlook.core.types import DecoyKind, DecoyReply
from secondlook.review.decoy_audit import (
    DecoyAudit,
    audit_of,
    read_baseline,
    write_audit_page,
)
from secondlook.store import Store, open_store
from secondlook_client.errors import InvalidInput, NotFound

LENIENT = {**ANSWERS, "Dog?": 0.9}
NAMES = "abcdefghijkl"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a strict run, a lenient one and one without decoys."""
    with open_store(tmp_path / "data") as store:
        stored_run(store, "strict", [labelled(n, decoys=0.5) for n in NAMES])
        stored_run(store, "lenient", [labelled(n, answers=LENIENT, decoys=0.5) for n in NAMES])
        stored_run(store, "plain", [labelled("a")])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


def test_the_audit_of_a_run_is_printed_with_its_intervals(data: Path, capsys) -> None:
    said = told(capsys, "decoys", "lenient", "--data", str(data))
    assert "kind of decoy asked yes share 95 % interval no answer" in said
    assert "What it said yes to: decoys.html" in said
    with open_store(data) as store:
        audit = audit_of(store, "lenient")
    bias = audit.bias
    (dog,) = said.split("all ")[0].split("dog ")[1:]
    asked, yes, share, interval, silent = dog.split()[:5]
    low, high = bias.classes["dog"].interval
    assert (asked, yes) == (str(bias.classes["dog"].asked), str(bias.classes["dog"].yes))
    assert (share, interval) == (f"{bias.classes['dog'].share:.3f}", f"{low:.3f}–{high:.3f}")
    assert silent == "0" and bias.classes["dog"].yes > 0


def test_a_run_is_compared_with_another_or_with_a_file(data: Path, capsys) -> None:
    place = ("--data", str(data), "--gallery", "0")
    said = told(capsys, "decoys", "lenient", "--against", "strict", *place, code=1)
    assert "the verifier says yes more often than before: " in said and "in 'strict'" in said
    said = told(capsys, "decoys", "strict", "--against", "lenient", *place)
    assert "no sign that it says yes more often" in said
    assert not Path("decoys.html").exists()
    assert run(["decoys", "strict", "--json", *place]) == 0
    printed = capsys.readouterr().out
    Path("baseline.json").write_text(printed)
    with open_store(data) as store:
        kept = audit_of(store, "strict")
    assert read_baseline(Path("baseline.json")) == kept
    assert json.loads(printed)["total"]["yes"] == kept.bias.total.yes
    assert json.loads(printed)["classes"]["dog"]["yes"] == 0
    assert run(["decoys", "lenient", "--against", "baseline.json", "--json", *place]) == 1
    change = json.loads(capsys.readouterr().out)["change"]
    assert change["risen"] and change["p_value"] < 0.05 and change["after"] > change["before"]


def test_runs_without_decoys_and_strange_files_are_told_in_a_sentence(data: Path, capsys) -> None:
    place = ("--data", str(data))
    said = told(capsys, "decoys", "plain", *place, code=2)
    assert "no decoys were asked in 'plain'; label its images as another run" in said
    assert "there is no run 'gone'" in told(capsys, "decoys", "gone", *place, code=2)
    counts = [{"kind": "background", "class_name": "dog", "yes": 1, "no": 2}]
    whole = {reply.value: 0 for reply in DecoyReply} | counts[0]
    for text, cause in (
        ("[", "is no JSON"),
        ("[]", "is not what"),
        (json.dumps({"run": "r", "verifier": "v", "counts": counts}), "is not what"),
        (json.dumps({"run": "r", "verifier": "v", "counts": [whole | {"yes": -1}]}), "-1"),
        (
            json.dumps({"run": "r", "verifier": "v", "counts": [whole | {"yes": 1, "kind": "x"}]}),
            "x",
        ),
        (json.dumps({"run": "r", "verifier": "v", "counts": [whole | {"no": 1.5}]}), "1.5"),
        ("[" * 100_000, "is no JSON"),
    ):
        Path("odd.json").write_text(text)
        with pytest.raises(InvalidInput, match=r"odd.json") as refused:
            read_baseline(Path("odd.json"))
        assert cause in str(refused.value)
    assert "odd.json" in told(capsys, "decoys", "strict", "--against", "odd.json", *place, code=2)
    assert not Path("decoys.html").exists()


def test_an_audit_is_the_same_after_a_file() -> None:
    counts = Counter(
        {
            (DecoyKind.BACKGROUND, "dog", DecoyReply.YES): 3,
            (DecoyKind.OFF_CENTRE, "a ‘cat’", DecoyReply.FAILED): 1,
        }
    )
    audit = DecoyAudit("r", "v@1", counts)
    again = DecoyAudit.from_json(json.loads(json.dumps(audit.to_json())))
    assert again == audit and again.bias == audit.bias


def test_the_page_shows_what_was_answered_yes_and_no_other_decoy(
    store: Store, tmp_path: Path
) -> None:
    names = ["<script>alert(1)</script>", *"bcdefghij"]
    stored_run(store, "r", [labelled(n, answers=LENIENT, decoys=0.5) for n in names])
    audit = audit_of(store, "r")
    wrong = audit.bias.total.yes
    assert 2 < wrong < audit.bias.total.asked
    shown = store.decoys.answered_yes(1, 99)
    path = tmp_path / "decoys.html"
    text = write_audit_page(path, store, audit, 99, ImageSettings(), "a <b>verdict").read_text()
    Page(text)
    assert text.count("<figure title=") == wrong
    for one in shown:
        assert f"<b>{one.decoy.question}</b> {one.decoy.answer.p_yes:.2f}" in text
    assert "a &lt;b&gt;verdict" in text and "<script>alert" not in text
    assert f"{wrong} of {wrong} decoys answered with yes are shown." in text
    fewer = write_audit_page(path, store, audit, 2, ImageSettings()).read_text()
    assert fewer.count("<figure title=") == 2
    assert f"2 of {wrong} decoys answered with yes are shown, the surest first" in fewer


def test_an_image_whose_bytes_are_gone_is_told_on_the_page(store: Store, tmp_path: Path) -> None:
    stored_run(store, "r", [labelled(n, answers=LENIENT, decoys=0.5) for n in NAMES])
    shown = store.decoys.answered_yes(1, 99)
    store.blobs.remove_unless_new(shown[0].sha256, -1.0)
    path = write_audit_page(tmp_path / "p.html", store, audit_of(store, "r"), 99, ImageSettings())
    gone = [one for one in shown if one.sha256 == shown[0].sha256]
    text = path.read_text()
    assert text.count("<figure title=") == len(shown)
    assert text.count('<p class="notice">') >= len(gone)


def test_a_run_that_is_unknown_has_no_audit(store: Store) -> None:
    with pytest.raises(NotFound, match="no run 'x'"):
        audit_of(store, "x")
