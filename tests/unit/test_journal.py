"""A run's record on disk: nothing lost, nothing twice, whatever interrupts it."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled import judged, result

from secondlook.errors import OutputExists, StorageFull
from secondlook.runs.folder import Source
from secondlook.runs.journal import Journal

IDENTITY = {"version": 1, "ontology": "abc", "settings": {"floor": 0.1}}


def source(name: str, size: int = 1) -> Source:
    return Source(name, Path(name), size, 5)


def names(journal: Journal) -> list[str]:
    return [name for name, _ in journal.results()]


def test_what_was_recorded_is_done_at_the_next_start(tmp_path):
    labelled = result(judged("dog"))
    with Journal(tmp_path, IDENTITY) as journal:
        journal.record(source("a.jpg"), labelled)
    with Journal(tmp_path, IDENTITY) as journal:
        assert journal.is_done(source("a.jpg"))
        assert not journal.is_done(source("b.jpg")) and not journal.is_done(source("a.jpg", 2))
        journal.see(source("a.jpg"))
        assert list(journal.results()) == [("a.jpg", labelled)]


def test_results_come_in_the_order_of_the_folder(tmp_path):
    with Journal(tmp_path, IDENTITY) as journal:
        for name in "abc":
            journal.see(source(name))
        for name in "cab":
            journal.record(source(name), result())
        assert names(journal) == ["a", "b", "c"]


def test_a_replaced_or_removed_picture_leaves_the_outputs(tmp_path):
    with Journal(tmp_path, IDENTITY) as journal:
        for name in ("a", "b", "c"):
            journal.record(source(name), result())
    with Journal(tmp_path, IDENTITY) as journal:
        journal.see(source("a", size=2))
        journal.see(source("c"))
        assert names(journal) == ["c"]
        journal.record(source("a", size=2), result(judged("dog")))
        assert [(n, len(r.judgements)) for n, r in journal.results()] == [("a", 1), ("c", 0)]


@given(cut=st.integers(0, 2000))
def test_a_torn_end_costs_one_picture_at_most(tmp_path_factory, cut):
    out = tmp_path_factory.mktemp("run")
    with Journal(out, IDENTITY) as journal:
        for name in "abc":
            journal.record(source(name), result(judged("dog")))
    path = out / "results.jsonl"
    whole = path.read_bytes()
    kept = whole[: len(whole) - min(cut, len(whole))]
    path.write_bytes(kept)
    with Journal(out, IDENTITY) as journal:
        done = [name for name in "abc" if journal.is_done(source(name))]
        assert len(done) == kept.count(b"\n")
        for name in "abc":
            journal.see(source(name))
            if not journal.is_done(source(name)):
                journal.record(source(name), result(judged("dog")))
        assert names(journal) == ["a", "b", "c"]
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_damaged_line_in_the_middle_is_told_and_nothing_is_removed(tmp_path):
    with Journal(tmp_path, IDENTITY) as journal:
        journal.record(source("a"), result())
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"\0" * 30 + b"\n" + path.read_bytes())
    before = path.read_bytes()
    with pytest.raises(OutputExists, match=r"line 1 is damaged; remove that line"):
        Journal(tmp_path, IDENTITY)
    assert path.read_bytes() == before


def test_another_run_is_refused_with_what_differs(tmp_path):
    Journal(tmp_path, IDENTITY).__exit__(None, None, None)
    with pytest.raises(OutputExists, match=r"different ontology \(abc, now def\).*--fresh"):
        Journal(tmp_path, {**IDENTITY, "ontology": "def"})
    with Journal(tmp_path, {**IDENTITY, "ontology": "def"}, fresh=True) as journal:
        assert not journal.is_done(source("a"))


def test_fresh_removes_the_run_s_own_files_only(tmp_path):
    (tmp_path / "holiday.txt").write_text("mine")
    with Journal(tmp_path, IDENTITY) as journal:
        journal.record(source("a"), result())
    (tmp_path / "yolo").mkdir()
    with Journal(tmp_path, IDENTITY, fresh=True) as journal:
        assert not journal.is_done(source("a"))
    assert (tmp_path / "holiday.txt").read_text() == "mine"
    assert not (tmp_path / "yolo").exists()


def test_somebody_else_s_files_are_not_overwritten(tmp_path):
    (tmp_path / "coco.json").write_text("precious")
    for fresh in (False, True):
        with pytest.raises(OutputExists, match=r"holds a coco\.json that no run here made"):
            Journal(tmp_path, IDENTITY, fresh=fresh)
    assert (tmp_path / "coco.json").read_text() == "precious"


def test_two_runs_never_share_a_folder(tmp_path):
    with Journal(tmp_path, IDENTITY), pytest.raises(OutputExists, match="in use by another run"):
        Journal(tmp_path, IDENTITY)
    with Journal(tmp_path, IDENTITY):
        pass


def test_a_refused_start_lets_go_of_the_folder(tmp_path):
    Journal(tmp_path, IDENTITY).__exit__(None, None, None)
    with pytest.raises(OutputExists):
        Journal(tmp_path, {})
    with Journal(tmp_path, IDENTITY):
        pass


def test_final_failures_are_given_up_and_transient_ones_are_not(tmp_path):
    with Journal(tmp_path, IDENTITY) as journal:
        journal.record_failure(source("bad"), "bad_image", "it is truncated")
        journal.record_failure(source("slow"), "deadline_exceeded", "too slow", transient=True)
    with Journal(tmp_path, IDENTITY) as journal:
        assert journal.gave_up(source("bad")) and not journal.gave_up(source("slow"))
        assert not journal.gave_up(source("bad", size=2))


def test_failed_jsonl_tells_how_things_stand_now(tmp_path):
    with Journal(tmp_path, IDENTITY) as journal:
        for name in ("mended", "bad", "gone"):
            journal.record_failure(source(name), "bad_image", "first try")
        journal.record_failure(source("bad"), "bad_image", "second try")
        journal.record(source("mended"), result())
        for name in ("mended", "bad", "new"):
            journal.see(source(name))
        assert journal.tidy_failures() == 1
        journal.record_failure(source("new"), "bad_image", "after tidying")
    lines = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    assert [(line["name"], line["message"]) for line in lines] == [
        ("bad", "second try"),
        ("new", "after tidying"),
    ]


def test_a_full_disk_keeps_whole_lines_only(tmp_path, monkeypatch):
    with Journal(tmp_path, IDENTITY) as journal:
        journal.record(source("a"), result())
        before = (tmp_path / "results.jsonl").read_bytes()
        write = os.write
        sizes = iter([10])

        def filling(handle, data):
            size = next(sizes, None)
            if size is None:
                raise OSError(28, "No space left on device")
            return write(handle, bytes(data)[:size])

        monkeypatch.setattr(os, "write", filling)
        with pytest.raises(StorageFull, match="make room and run the same command again"):
            journal.record(source("b"), result())
        monkeypatch.undo()
        assert (tmp_path / "results.jsonl").read_bytes() == before
        journal.record(source("b"), result())
        for name in "ab":
            journal.see(source(name))
        assert names(journal) == ["a", "b"]


def test_names_that_are_not_text_survive(tmp_path):
    strange = os.fsdecode(b"\xff\n.jpg")
    with Journal(tmp_path, IDENTITY) as journal:
        journal.see(source(strange))
        journal.record(source(strange), result())
        assert names(journal) == [strange]
