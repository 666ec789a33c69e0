"""A run's folder: held by one process, never another run's, and only its own files removed."""

import json

import pytest

from secondlook.cli.output_folder import OutputFolder
from secondlook_client.errors import OutputExists

IDENTITY = {"version": 1, "ontology": "abc", "settings": {"score_floor": 0.1}}


def test_the_same_run_has_the_same_job_again(tmp_path):
    with OutputFolder(tmp_path / "out") as folder:
        job = folder.claim(IDENTITY)
        assert folder.claim(IDENTITY) == job
    with OutputFolder(tmp_path / "out") as folder:
        assert folder.claim(IDENTITY) == job
    with OutputFolder(tmp_path / "other") as folder:
        assert folder.claim(IDENTITY) != job


def test_a_run_of_an_earlier_version_is_resumed(tmp_path):
    with OutputFolder(tmp_path) as folder:
        job = folder.claim(IDENTITY)
        run = tmp_path / "run.json"
        run.write_text(run.read_text().replace("score_floor", "floor"))
        assert folder.claim(IDENTITY) == job
        run.unlink()
        demo = {"proposer": "demo-proposer@1", "verifier": "demo-verifier@2"}
        job = folder.claim({**IDENTITY, **demo})
        run.write_text(run.read_text().replace("demo-", ""))
        assert folder.claim({**IDENTITY, **demo}) == job


def test_a_run_of_before_goes_on_by_its_own_rules_only(tmp_path):
    """Such runs had no calibrator, and kept duplicates."""

    def by(calibrator, duplicate_iou):
        settings = {"score_floor": 0.1, "duplicate_iou": duplicate_iou}
        return {**IDENTITY, "settings": settings, "calibrator": calibrator}

    with OutputFolder(tmp_path) as folder:
        job = folder.claim(IDENTITY)
        assert folder.claim(by("", 1.0)) == job
        with pytest.raises(OutputExists, match=r"different calibrator \(none, now 3fa\).*--fresh"):
            folder.claim(by("3fa", 1.0))
        with pytest.raises(OutputExists, match=r"duplicate_iou \(1\.0, now 0\.45\)"):
            folder.check_same_run(by("", 0.45))


def test_another_run_is_refused_with_what_differs(tmp_path):
    with OutputFolder(tmp_path) as folder:
        job = folder.claim(IDENTITY)
        with pytest.raises(OutputExists, match=r"different ontology \(abc, now def\).*--fresh"):
            folder.claim({**IDENTITY, "ontology": "def"})
        folder.clear()
        assert folder.left_job == job
        assert folder.claim({**IDENTITY, "ontology": "def"}) != job


def test_what_is_known_before_the_models_are_loaded_is_compared_first(tmp_path):
    known = {"version": 1, "ontology": "abc"}
    with OutputFolder(tmp_path) as folder:
        folder.check_same_run(known)
        folder.claim(IDENTITY)
        folder.check_same_run(known)
        with pytest.raises(OutputExists, match=r"different ontology \(abc, now def\).*--fresh"):
            folder.check_same_run({**known, "ontology": "def"})
        (tmp_path / "run.json").write_text("{")
        with pytest.raises(OutputExists, match="cannot be read"):
            folder.check_same_run(known)


def test_clearing_removes_the_run_s_own_files_only(tmp_path):
    (tmp_path / "holiday.txt").write_text("mine")
    with OutputFolder(tmp_path) as folder:
        folder.claim(IDENTITY)
        for name in ("yolo", ".store"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "content").write_text("ours")
        folder.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_somebody_else_s_files_are_not_overwritten(tmp_path):
    (tmp_path / "gallery.html").write_text("precious")
    with OutputFolder(tmp_path) as folder:
        folder.clear()
        with pytest.raises(OutputExists, match=r"a gallery\.html that was not written by a run"):
            folder.claim(IDENTITY)
    assert (tmp_path / "gallery.html").read_text() == "precious"


def test_a_store_that_a_crash_left_before_the_run_was_named_is_no_hindrance(tmp_path):
    with OutputFolder(tmp_path) as folder:
        folder.store.mkdir()
        assert folder.claim(IDENTITY)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', '{"version": 1}'])
def test_a_run_json_that_says_something_else_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with OutputFolder(tmp_path) as folder, pytest.raises(OutputExists, match="--fresh"):
        folder.claim(IDENTITY)


def test_two_runs_never_share_a_folder(tmp_path):
    with OutputFolder(tmp_path), pytest.raises(OutputExists, match="in use by another run"):
        OutputFolder(tmp_path)
    with OutputFolder(tmp_path):
        pass


@pytest.mark.parametrize(
    "name", ["out", "\N{GRINNING FACE} ночь", "x" * 250, "new\nline", "\udcff"]
)
def test_a_job_s_name_is_one_that_every_server_takes(tmp_path, name):
    with OutputFolder(tmp_path / name) as folder:
        job = folder.claim(IDENTITY)
    assert job.isprintable() and 1 <= len(job) <= 200 and job == job.strip()
    assert json.loads((tmp_path / name / "run.json").read_text())["job"] == job
