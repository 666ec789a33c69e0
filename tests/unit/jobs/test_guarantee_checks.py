"""Jobs under a guarantee: what they accept, which checks they draw, and what the answers do."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier
from guaranteed import CAT, COUNT, DOG, PETS, pets_truth, store_pets
from job_images import ended, fill, running, soon, wait_for

from secondlook.core.types import Image
from secondlook.evaluation import score_drift
from secondlook.evaluation.guarantee import Promise, Terms
from secondlook.jobs import guarantee_checks, result_writer
from secondlook.jobs.guarantee_checks import checks_status, count_answers, status_sentence
from secondlook.review.doubtful_labels import doubtful_labels
from secondlook.review.guarantees import (
    GuaranteeRequest,
    apply_guarantee,
    create_guarantee,
    job_under,
)
from secondlook.store import Store
from secondlook.store.guarantees import GuaranteeState, checks_queue_of
from secondlook.store.integrity import check
from secondlook.store.retention import Retention, forget
from secondlook_client.errors import InvalidInput, NotFound, StoreUnavailable
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import LabelResult, Outcome, ReviewAnswer

__all__ = ["soon"]
"""A fixture of these tests."""

TERMS = Terms(0.9, 0.9, 40)
MODELS = "scripted@p0", "scripted@v0"
ROWS: tuple[Row, ...] = ((DOG, {"dog": 0.8}), (CAT, {"cat": 0.7}))
RIGHT, WRONG, UNSURE = ReviewAnswer.RIGHT, ReviewAnswer.WRONG, ReviewAnswer.UNSURE


@pytest.fixture
def held(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with the guarantee ``g``, under which every second image is checked."""
    monkeypatch.setattr(guarantee_checks, "RATE", 0.25)
    store_pets(store)
    request = GuaranteeRequest("pets", TERMS)
    assert create_guarantee(store, "g", request, None, pets_truth()).holds
    return store


def under(store: Store, name: str = "g", ontology=None, settings=None, models=MODELS):
    return job_under(store, name, ontology, lambda _: settings or {}, models)


def begin(store: Store, folder: Path, name: str = "j") -> int:
    """A folder job under ``g``; its run."""
    ontology, settings = under(store)
    return store.queue.create(name, "folder", ontology, str(folder), settings).run_id


def proposer(delay_s: float = 0.0) -> ScriptedProposer:
    def script(image: Image, phrases: object) -> tuple[Row, ...]:
        return ROWS

    return ScriptedProposer(script, delay_s=delay_s)


def verifier(dog: float = 0.99, cat: float = 0.5) -> ScriptedVerifier:
    return ScriptedVerifier({"Dog?": dog, "Cat?": cat})


def asked(store: Store) -> list[tuple[str, str]]:
    """The checks: (label, class), in order."""
    return [(one.label_id, one.class_name) for one, _ in store.reviews.items("g-checks", 0, 1000)]


def answer(store: Store, said: ReviewAnswer, count: int = 1000) -> int:
    """Answer the next checks; how many."""
    items = store.reviews.next(checks_queue_of("g"), "ann", count)
    for item in items:
        store.reviews.answer(item.id, "ann", said)
    return len(items)


def run_job(store: Store, tmp_path: Path, count: int, name: str = "j", dog: float = 0.99) -> int:
    run = begin(store, fill(tmp_path / name, count), name)
    with running(store, [tmp_path], proposer(), verifier(dog)):
        assert wait_for(store, name, ended).done == count
    return run


def judged(store: Store, run: int) -> Iterator[LabelResult]:
    return (one.labelled.result for one in store.results.page(run, 0, 1000, reviewed=False))


def test_a_job_accepts_what_the_guarantee_covers_and_asks_about_a_few(
    held: Store, tmp_path: Path
) -> None:
    run = run_job(held, tmp_path, 40)
    for result in judged(held, run):
        dog, cat = result.judgements
        assert (dog.outcome, cat.outcome) == (Outcome.ACCEPT, Outcome.UNSURE)
        assert dog.reason.startswith("P(right) 0.990 ≥ 0.") and dog.reason.endswith("from there")
        assert cat.reason.startswith("P(right) 0.500 < 0.")
    checks = asked(held)
    assert 3 <= len(checks) <= 20 and {name for _, name in checks} == {"dog"}
    assert len(set(checks)) == len(checks)
    status = checks_status(held, held.guarantees.get("g"))
    assert status is not None and (status.checked, status.waiting) == (0, len(checks))
    assert answer(held, RIGHT, 2) == 2
    count_answers(held)
    assert status_sentence(held, "g") == (
        f"it holds; 2 checked, 0 wrong, about 100.0% right; {len(checks) - 2} to answer"
    )
    assert list(check(held, content=False)) == []


def test_the_decisions_are_those_of_the_applied_guarantee(held: Store, tmp_path: Path) -> None:
    """The run of the guarantee, labelled anew under it, is the run that applying it makes."""
    apply_guarantee(held, "g", "applied")
    ontology, settings = under(held)
    made = held.queue.create("j", "upload", ontology, "", settings)
    run = held.results.run("j")
    job = guarantee_checks.GuaranteedJob(held, run)
    applied = held.results.page(held.results.run("applied").id, 0, 1000, reviewed=False)
    source = held.results.page(held.results.run("pets").id, 0, 1000, reviewed=False)
    assert len(applied) == len(source) == COUNT and made.settings["guarantee"] == "g"
    outcomes = set()
    for theirs, before in zip(applied, source, strict=True):
        ours = job.decide(before.labelled)
        assert ours.judgements == theirs.labelled.judgements
        outcomes |= {one.outcome for one in ours.judgements}
    assert outcomes == set(Outcome)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_job_draws_the_same_checks_and_none_twice(
    held: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "images", 60)
    begin(held, folder)
    drawn, kills = guarantee_checks.save_monitor, iter([True, False, True] + [False] * 99)

    def save(*given: object, **more: object) -> None:
        drawn(*given, **more)
        if next(kills):
            raise LostPower

    monkeypatch.setattr(guarantee_checks, "save_monitor", save)
    monkeypatch.setattr(result_writer, "BATCH", 8)
    with running(held, [tmp_path], proposer(0.01), verifier()):  # takes up a job that was left
        job = wait_for(held, "j", ended)
    assert (job.done, job.failed) == (60, 0)
    assert not any(list(kills)), "it was killed twice"
    checks = asked(held)
    assert len(set(checks)) == len(checks) > 5
    told = json.loads(json.loads(held.guarantees.get("g").monitor)["monitor"])
    assert (told["accepted"], told["drawn"]) == (60, len(checks))
    assert list(check(held, content=False)) == []


def test_results_that_were_stored_unheard_are_drawn_from_once(
    held: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, lost = result_writer.ResultWriter._write, iter([True, False, True] + [False] * 99)

    def unheard(*given: object) -> None:
        write(*given)
        if next(lost):
            raise StoreUnavailable("the connection broke after the commit")

    monkeypatch.setattr(result_writer.ResultWriter, "_write", unheard)
    monkeypatch.setattr(result_writer, "BATCH", 8)
    run_job(held, tmp_path, 60)
    assert not any(list(lost)), "it was lost twice"
    checks = asked(held)
    told = json.loads(json.loads(held.guarantees.get("g").monitor)["monitor"])
    assert (told["accepted"], told["drawn"]) == (60, len(set(checks))) == (60, len(checks))


def test_once_people_say_so_nothing_more_is_accepted(held: Store, tmp_path: Path) -> None:
    before = run_job(held, tmp_path, 60)
    assert answer(held, RIGHT) > 5
    count_answers(held)
    assert held.guarantees.get("g").state is GuaranteeState.HOLDS
    dark = run_job(held, tmp_path, 80, "dark")  # another scene
    assert answer(held, WRONG) > 10
    count_answers(held)
    row = held.guarantees.get("g")
    assert row.state is GuaranteeState.BROKEN
    event = held.guarantees.events("g")[-1]
    assert event.kind == "broken" and event.content["evidence"] >= 500
    assert event.content["wrong"] <= event.content["checked"] < event.content["accepted"]
    assert "against a precision of 0.9, and the limit is 500" in event.content["reason"]
    count_answers(held)
    assert held.guarantees.get("g") == row and held.guarantees.events("g")[-1] == event
    last_right = held.results.page(before, 0, 1000)[-1].decided_at
    assert event.content["held_until"] <= last_right
    doubtful = list(doubtful_labels(held, "g"))
    assert {one.label for one in doubtful if one.run == "dark"} == (
        {r.label_id(0) for r in held.results.page(dark, 0, 1000, reviewed=False)} - rejected(held)
    )
    assert {one.run for one in doubtful} <= {"j", "dark"} and len(doubtful) < 140
    asked_before = asked(held)
    after = run_job_of(held, tmp_path, 10, "after", like="dark")
    for result in judged(held, after):
        assert not result.labels
        reasons = {one.reason for one in result.judgements if one.outcome is Outcome.UNSURE}
        assert all(r.startswith("guarantee 'g' no longer holds, since 20") for r in reasons)
    assert asked(held) == asked_before
    assert sum(len(one.labels) for one in judged(held, before)) == 60
    assert sum(len(one.labels) for one in judged(held, dark)) == 80
    with pytest.raises(InvalidInput, match="'g' no longer holds; its history says why"):
        under(held)
    assert status_sentence(held, "g").startswith("guarantee 'g' no longer holds, since 20")


def rejected(store: Store) -> set[str]:
    """The checks that people answered with "wrong"."""
    items = store.reviews.items("g-checks", 0, 1000)
    return {item.label_id for item, said in items if said and said.answer is WRONG}


def test_a_guarantee_that_ends_while_results_are_decided_covers_none_of_them(
    held: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = guarantee_checks.GuaranteedJob.decide

    def withdraw(job, labelled):
        if held.guarantees.get("g").state is GuaranteeState.HOLDS:
            held.guarantees.change("g", "withdrawn", state=GuaranteeState.WITHDRAWN)
        return decided(job, labelled)

    run_job(held, tmp_path, 1, "first")  # while its population is read it holds
    monkeypatch.setattr(guarantee_checks.GuaranteedJob, "decide", withdraw)
    results = list(judged(held, run_job(held, tmp_path, 8)))
    reasons = {one.reason for result in results for one in result.judgements}
    assert len(results) == 8 and not any(result.labels for result in results)
    assert all(reason.startswith("guarantee 'g' was withdrawn, since 20") for reason in reasons)


def test_nothing_is_in_doubt_while_it_holds(held: Store) -> None:
    with pytest.raises(InvalidInput, match="'g' is neither broken nor withdrawn"):
        next(doubtful_labels(held, "g"))
    held.guarantees.change("g", "withdrawn", state=GuaranteeState.WITHDRAWN)
    assert list(doubtful_labels(held, "g")) == []


def test_scores_unlike_those_of_its_run_raise_the_checks(
    held: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_drift, "FEWEST", 30)
    monkeypatch.setattr(guarantee_checks, "RATE", 0.05)
    run_job(held, tmp_path, 120, dog=1.0)  # of the run it is always below
    event = held.guarantees.events("g")[-1]
    assert event.kind == "checks raised"
    assert event.content["reason"].startswith("P(") and "is usual" in event.content["reason"]
    status = checks_status(held, held.guarantees.get("g"))
    assert status is not None and status.share == pytest.approx(0.25)
    assert status.raised == event.content["reason"]
    assert f"25% of the boxes are checked: {status.raised}" in status_sentence(held, "g")
    chances = [one.inclusion for one, _ in held.reviews.items("g-checks", 0, 1000)]
    assert {round(chance, 4) for chance in chances} <= {0.05, 0.25} and max(chances) > 0.2
    assert chances == sorted(chances)


def run_job_of(store: Store, tmp_path: Path, count: int, name: str, like: str) -> int:
    """A job that was begun when the guarantee still held, and is labelled now."""
    of = store.results.run(like)
    folder = str(fill(tmp_path / name, count))
    run = store.queue.create(name, "folder", of.ontology, folder, dict(of.settings)).run_id
    with running(store, [tmp_path], proposer(), verifier()):
        assert wait_for(store, name, ended).done == count
    return run


def test_answers_count_in_the_order_of_the_queue_and_once(held: Store, tmp_path: Path) -> None:
    run_job(held, tmp_path, 60)
    first, second, third = held.reviews.next("g-checks", "ann", 3)
    held.reviews.answer(third.id, "ann", WRONG)
    held.reviews.answer(second.id, "ann", UNSURE)
    assert counted(held) == (0, 0)
    said = held.reviews.answer(first.id, "ann", RIGHT)
    assert counted(held) == (3, 2)
    held.reviews.undo(said.id, "ann")
    held.reviews.answer(first.id, "ann", WRONG)
    assert counted(held) == counted(held) == (3, 2)


def counted(store: Store) -> tuple[int, int]:
    count_answers(store)
    status = checks_status(store, store.guarantees.get("g"))
    assert status is not None
    return status.checked, status.wrong


def test_a_student_and_other_models_are_not_under_it(held: Store, tmp_path: Path) -> None:
    begin(held, tmp_path)
    job = guarantee_checks.GuaranteedJob(held, held.results.run("j"))
    (found,) = held.results.page(held.results.run("pets").id, 0, 1)
    assert any(one.outcome is Outcome.ACCEPT for one in job.decide(found.labelled).judgements)
    for changed, why in (
        ({"verifier": "scripted@v1"}, "labelled by other models than guarantee 'g' is about"),
        ({"proposer": "student:s@1"}, "labelled by a student, of which guarantee 'g' says nothing"),
    ):
        evidence = replace(found.labelled.evidence, **changed)
        judgements = job.decide(replace(found.labelled, evidence=evidence)).judgements
        assert judgements and {one.outcome for one in judgements} == {Outcome.UNSURE}
        assert {one.reason for one in judgements} == {why}


def test_a_job_that_does_not_fit_is_refused(held: Store) -> None:
    def refused(match: str, *, ontology: Ontology | None = None, settings=None, models=MODELS):
        with pytest.raises(InvalidInput, match=match):
            under(held, "g", ontology, settings, models)

    refused("about the classes and questions", ontology=Ontology((ClassSpec("dog"),)))
    refused(
        "about labels of scripted@p0 and scripted@v0, .* scripted@v1", models=("scripted@v1", "")
    )
    refused("about labels made with score_floor 0.1, unlike", settings={"score_floor": 0.2})
    refused("made with verify_budget all, unlike", settings={"verify_budget": "auto"})
    same = Ontology(tuple(replace(spec, accept=0.9) for spec in PETS.classes))
    assert under(held, ontology=same)[0] == PETS
    with pytest.raises(NotFound, match="no guarantee 'h'"):
        under(held, "h")
    request = GuaranteeRequest("pets", replace(TERMS, promise=Promise.RUN))
    assert create_guarantee(held, "own", request, None, pets_truth()).holds
    with pytest.raises(InvalidInput, match="its run and no others; make one with --promise scenes"):
        under(held, "own")
    held.guarantees.change("g", "withdrawn", state=GuaranteeState.WITHDRAWN)
    refused("'g' was withdrawn")


def test_what_was_forgotten_takes_its_checks_along(held: Store, tmp_path: Path) -> None:
    run_job(held, tmp_path, 40)
    held.guarantees.change("g", "withdrawn", state=GuaranteeState.WITHDRAWN)
    forget(held, Retention(runs=("pets",), reviewed=True))
    with pytest.raises(NotFound):
        held.reviews.queue("g-checks")
    assert status_sentence(held, "g") == "guarantee 'g' is not in the store any more"
    run = run_job_of(held, tmp_path, 3, "later", like="j")
    assert not any(result.labels for result in judged(held, run))
    assert list(check(held, content=False)) == []


class LostPower(BaseException):
    """As if the process ended here."""
