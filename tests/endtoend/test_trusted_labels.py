"""Labels of drawn scenes by the embedded models: duplicates, and the probability they go by."""

import json
from pathlib import Path
from typing import Any

import pytest
from installed import Run

from secondlook.evaluation.coco_files import truth_of
from secondlook.evaluation.matching import Quality, ScoredBox, evaluate
from secondlook.models.embedded_calibrator import embedded_calibrator
from secondlook.review.redecide import redecide
from secondlook.store import Store, open_store
from secondlook_client.values import Judgement, Outcome

AS_BEFORE = ("--calibrator", "none", "--duplicate-iou", 1)
"""As labels were decided before there were calibrators."""


@pytest.fixture(scope="module")
def labelled(world: Path, tmp_path_factory: pytest.TempPathFactory, secondlook: Run) -> Path:
    """The folder of ``secondlook label`` with all defaults."""
    folder = tmp_path_factory.mktemp("trusted")
    words = ("--ontology", world / "ontology.yaml", "--out", "labels")
    secondlook("label", world / "images", *words, cwd=folder)
    job = json.loads((folder / "labels/run.json").read_text())["job"]
    place = ("--data", "labels/.store")
    secondlook("redecide", job, "before", *AS_BEFORE, *place, cwd=folder)
    secondlook("redecide", job, "answers", "--calibrator", "none", *place, cwd=folder)
    return folder / "labels"


def job_of(labelled: Path) -> str:
    return str(json.loads((labelled / "run.json").read_text())["job"])


def judged(store: Store, name: str) -> dict[str, tuple[Judgement, ...]]:
    """By name of the image."""
    page = store.results.page(store.results.run(name).id, limit=100)
    return {one.labelled.name: one.labelled.judgements for one in page}


def quality(store: Store, name: str, world: Path) -> Quality:
    truth = truth_of(world / "truth.json")
    images = [
        ([ScoredBox(j.class_name, j.box, j.probability) for j in of if j.outcome == "accept"], true)
        for of, true in ((of, truth[image]) for image, of in judged(store, name).items())
    ]
    return evaluate(images, store.results.run(name).ontology.names)


def test_of_one_object_one_label_a_class_survives(labelled: Path, world: Path) -> None:
    with open_store(labelled / ".store") as store:
        before, after = (judged(store, name) for name in ("before", "answers"))
        removed = [
            new
            for image, of in after.items()
            for old, new in zip(before[image], of, strict=True)
            if (old.outcome, new.outcome) == (Outcome.ACCEPT, Outcome.REJECT)
        ]
        then, now = (quality(store, name, world).total() for name in ("before", "answers"))
    assert removed
    assert all(one.reason.startswith("duplicate of a '") for one in removed)
    assert then.wrong - now.wrong + then.right - now.right == len(removed)
    assert then.right - now.right <= len(removed) / 10


def test_the_embedded_calibrator_decides(labelled: Path, world: Path) -> None:
    with open_store(labelled / ".store") as store:
        run = store.results.run(job_of(labelled))
        assert run.calibrator == embedded_calibrator().digest
        assert store.calibrators.get(run.calibrator) == embedded_calibrator()
        before, now = (quality(store, name, world) for name in ("before", run.name))
        reasons = {j.reason.split()[0] for of in judged(store, run.name).values() for j in of}
    assert reasons == {"probability", "duplicate"} or reasons == {"probability"}
    assert now.total().wrong < before.total().wrong / 2
    assert now.total().right > 0.95 * before.total().right
    for name, counts in now.by_class.items():
        assert (counts.precision or 1.0) >= (before.by_class[name].precision or 0.0), name


def test_a_label_says_why_it_has_its_probability(labelled: Path, secondlook: Run) -> None:
    with open_store(labelled / ".store") as store:
        (first, *_) = store.results.page(store.results.run(job_of(labelled)).id, limit=1)
    said = secondlook("explain", first.label_id(0), labelled, "--json", cwd=labelled.parent).stdout
    told: dict[str, Any] = json.loads(said)
    assert told["calibrator"] == embedded_calibrator().digest
    assert {"base", "score", "p_yes"} <= {one["feature"] for one in told["contributions"]}


def test_a_run_does_not_go_on_with_another_calibrator(
    labelled: Path, world: Path, secondlook: Run
) -> None:
    words = ("--ontology", world / "ontology.yaml", "--out", labelled, "--calibrator", "none")
    refused = secondlook("label", world / "images", *words, cwd=labelled.parent, code=2)
    assert "different calibrator (" in refused.stderr
    assert "now none" in refused.stderr


def test_a_calibrator_of_other_classes_is_refused_before_anything_is_labelled(
    world: Path, secondlook: Run, tmp_path: Path
) -> None:
    whole = json.loads(embedded_calibrator().to_json())
    del whole["classes"]["dog"]
    whole["accept"].pop("dog", None)
    del whole["before"], whole["budgets"]
    (tmp_path / "nodogs.json").write_text(json.dumps(whole))
    words = ("--ontology", world / "ontology.yaml", "--out", "labels")
    with_it = (*words, "--calibrator", "nodogs.json")
    refused = secondlook("label", world / "images", *with_it, cwd=tmp_path, code=1)
    assert "the calibrator has no class 'dog'" in refused.stderr
    assert not (tmp_path / "labels/gallery.html").exists()


def test_a_budget_asks_less_than_half_and_labels_nearly_the_same(
    labelled: Path, world: Path, secondlook: Run, tmp_path: Path
) -> None:
    few_of = ("--ontology", world / "ontology.yaml", "--out", "few", "--verify-budget", "auto")
    said = secondlook("label", world / "images", *few_of, cwd=tmp_path).stdout
    assert "which could be decided without (--verify-budget)" in said
    job = job_of(tmp_path / "few")
    with open_store(labelled / ".store") as store:
        full = quality(store, job_of(labelled), world).total()
    with open_store(tmp_path / "few/.store") as store:
        assert store.results.run(job).verify_budget == "auto"
        few, page = quality(store, job, world).total(), judged(store, job)
        redecide(store, job, "again", store.results.run(job).ontology)
        assert judged(store, "again") == page
        (first,) = store.results.page(store.results.run(job).id, limit=1)
    both = [judgement for of in page.values() for judgement in of]
    asked = [one for one in both if one.p_yes is not None]
    assert len(asked) < 0.5 * len(both)
    unasked = [one for one in both if one.p_yes is None]
    assert all("not asked: " in one.reason for one in unasked if one.outcome != "unsure")
    assert few.right >= full.right - 2
    assert few.wrong <= full.wrong + 2
    index = next(at for at, one in enumerate(page[first.labelled.name]) if one.p_yes is None)
    words = (first.label_id(index), "few", "--rerun", "--json")
    told = json.loads(secondlook("explain", *words, cwd=tmp_path).stdout)
    assert told["reason"].startswith("not asked: probability ")
    assert told["contributions"][0]["feature"] == "base"


def test_a_budget_without_a_calibrator_is_refused_before_anything_is_labelled(
    world: Path, secondlook: Run, tmp_path: Path
) -> None:
    words = ("--ontology", world / "ontology.yaml", "--out", "labels", "--calibrator", "none")
    refused = secondlook(
        "label", world / "images", *words, "--verify-budget", 0.4, cwd=tmp_path, code=1
    )
    assert "--verify-budget 0.4 needs a calibrator that can judge these classes" in refused.stderr
    assert not (tmp_path / "labels/gallery.html").exists()
