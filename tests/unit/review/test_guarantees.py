"""A guarantee from the request to the certificate, and what it makes of its run."""

import json
from dataclasses import replace

import numpy as np
import pytest
from guaranteed import COUNT, DOG, PETS, pets_truth, store_pets
from sqlalchemy import update
from stored import done_item, encoded, labelled, stored_run

from secondlook.datasets.query import Query
from secondlook.datasets.snapshot import create_snapshot
from secondlook.evaluation.certificate import Certificate
from secondlook.evaluation.guarantee import Promise, Terms
from secondlook.labeling.calibrator import Calibrator, ClassFit
from secondlook.review.guarantees import (
    CERTIFIED,
    GuaranteeRequest,
    GuaranteeStatus,
    apply_guarantee,
    create_guarantee,
    default_name,
    guarantee_status,
    queue_of,
)
from secondlook.review.oracle import Oracle
from secondlook.review.population import read_population
from secondlook.store import Store
from secondlook.store.guarantees import GuaranteeState
from secondlook.store.images import NewImage, add_images
from secondlook.store.integrity import check
from secondlook.store.reviews import QueueItem
from secondlook.store.schema import guarantees, review_queues
from secondlook_client.errors import (
    AlreadyExists,
    BadOntology,
    BadSetting,
    InvalidInput,
    NotFound,
)
from secondlook_client.values import BoxKind, NewReview, Outcome, ReviewAnswer

TERMS = Terms(0.9, 0.9, 40)


@pytest.fixture
def pets(store: Store) -> Store:
    """A store with the run ``pets``."""
    store_pets(store)
    return store


def create(store: Store, name: str = "g", who: Oracle | None = None, **changes) -> GuaranteeStatus:
    request = replace(GuaranteeRequest("pets", TERMS), **changes)
    return create_guarantee(store, name, request, None, who)


def accepted(store: Store, run: str) -> list[tuple[str, str]]:
    found = store.results.page(store.results.run(run).id, 0, 1000)
    return [(r.labelled.name, j.class_name) for r in found for j in r.labelled.of(Outcome.ACCEPT)]


def test_with_a_truth_file_one_call_gives_a_certificate(pets: Store) -> None:
    status = create(pets, who=pets_truth())
    assert status.holds and status.row.state is GuaranteeState.HOLDS
    certificate = status.certificate
    assert certificate is not None
    (result,) = certificate.results
    assert result.class_name == "" and result.threshold is not None and result.bound >= 0.9
    assert (certificate.images, certificate.run) == (COUNT, "pets")
    assert Certificate.from_json(status.row.certificate) == certificate
    assert len(status.answers) == result.answers <= TERMS.budget
    assert list(status.answers.values()).count("wrong") == result.wrong
    whole = status.to_json()
    assert json.loads(json.dumps(whole)) == whole
    assert [event["kind"] for event in whole["history"]] == ["asking", "queue made", CERTIFIED]
    assert list(check(pets, content=False)) == []


def test_what_is_applied_is_exactly_what_reaches_the_limit(pets: Store) -> None:
    status = create(pets, who=pets_truth(right=47))
    assert status.certificate is not None
    (result,) = status.certificate.results
    assert result.threshold is not None
    made = apply_guarantee(pets, "g", "surer")
    assert (made.run, made.images, made.classes) == ("surer", COUNT, ("dog", "cat"))
    run = pets.results.run("surer")
    count = 0
    for found in pets.results.page(run.id, 0, 1000):
        for judgement in found.labelled.judgements:
            answered = "oracle" in judgement.reason
            if not answered:
                reached = judgement.probability >= result.threshold
                assert (judgement.outcome is Outcome.ACCEPT) == reached, judgement
            count += judgement.p_yes is not None and judgement.p_yes >= result.threshold
    assert count == result.accepted
    again = apply_guarantee(pets, "g", "surer")
    assert (again.images, pets.results.count(run.id)) == (COUNT, COUNT)
    assert [e.kind for e in pets.guarantees.events("g")].count("applied") == 1
    with pytest.raises(AlreadyExists, match="another one; choose another name with --run"):
        apply_guarantee(pets, "g", "pets")
    assert list(check(pets, content=False)) == []


def test_an_interrupted_application_goes_on(pets: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    create(pets, who=pets_truth())
    whole = apply_guarantee(pets, "g", "whole")
    monkeypatch.setattr("secondlook.review.redecide.BATCH", 20)
    calls: list[int] = []

    def stop(what: str, done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply_guarantee(pets, "g", "part", stop)
    assert pets.results.count(pets.results.run("part").id) == calls[-1] == 40
    assert apply_guarantee(pets, "g", "part").images == whole.images
    assert accepted(pets, "part") == accepted(pets, "whole")


def test_classes_are_guaranteed_each_by_itself(pets: Store) -> None:
    status = create(pets, who=pets_truth(), classes=("dog",))
    assert status.certificate is not None
    assert set(status.certificate.thresholds) == {"dog"}
    apply_guarantee(pets, "g", "dogs")
    # What people called right is a label, of whatever class; everything else of a cat is unsure.
    assert {name for _, name in accepted(pets, "dogs")} == {"dog"}
    found = pets.results.page(pets.results.run("dogs").id, 0, 1000)
    cats = [j for r in found for j in r.labelled.judgements if j.class_name == "cat"]
    assert all("not under the guarantee" in j.reason for j in cats if j.outcome is Outcome.UNSURE)
    with pytest.raises(BadOntology, match="no class 'bird'"):
        create(pets, "h", classes=("bird",))


def test_people_answer_the_queue_and_the_same_call_goes_on(pets: Store) -> None:
    status = create(pets)
    assert (status.certified, status.answered, status.row.state) == (
        False,
        0,
        GuaranteeState.ASKING,
    )
    assert 0 < status.asked <= TERMS.budget
    truth = pets_truth()
    for answered in range(status.asked):
        (item,) = pets.reviews.next(queue_of("g"), "Ada")
        said = truth.answer(item)
        pets.reviews.answer(item.id, "Ada", said.answer, said.reason)
        if answered == 10:
            assert create(pets).answered == 11
    by_people = create(pets)
    other = create(pets, "by-oracle", pets_truth())
    assert by_people.certificate is not None and other.certificate is not None
    assert by_people.certificate.results == other.certificate.results
    assert by_people.certificate.sample == other.certificate.sample


def test_unsure_counts_as_wrong(pets: Store) -> None:
    status = create(pets)
    while items := pets.reviews.next(queue_of("g"), "Ada", 50):
        for item in items:
            pets.reviews.answer(item.id, "Ada", ReviewAnswer.UNSURE)
    status = create(pets)
    assert status.certificate is not None and status.row.state is GuaranteeState.NOT_REACHED
    (result,) = status.certificate.results
    assert result.unsure == result.wrong == result.answers
    with pytest.raises(InvalidInput, match="guarantees nothing"):
        apply_guarantee(pets, "g")


def test_contradictions_are_named_and_must_be_settled(pets: Store) -> None:
    create(pets)
    items = pets.reviews.next(queue_of("g"), "Ada", 100)
    for item in items:
        pets.reviews.answer(item.id, "Ada", ReviewAnswer.RIGHT)
    one = items[0]
    new = NewReview(one.image, one.class_name, one.box, ReviewAnswer.WRONG, person="Bob")
    (review,) = pets.reviews.add([new])
    with pytest.raises(InvalidInput, match=r"Ada says 'right' and Bob says 'wrong'.*review undo"):
        create(pets)
    assert guarantee_status(pets, "g").row.state is GuaranteeState.ASKING
    pets.reviews.undo(review.id, "Bob")
    assert create(pets).holds


@pytest.mark.parametrize("killed_in", ["create_queue", "answer", "change"])
def test_a_call_that_is_killed_goes_on_to_the_same_certificate(
    pets: Store, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    whole = create(pets, "whole", pets_truth())
    owner = pets.guarantees if killed_in == "change" else pets.reviews
    original, calls = getattr(owner, killed_in), 0

    def dies(*given, **named):
        nonlocal calls
        calls += 1
        if calls == (7 if killed_in == "answer" else 1):
            raise KeyboardInterrupt
        return original(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, killed_in, dies)
        with pytest.raises(KeyboardInterrupt):
            create(pets, who=pets_truth())
    done = create(pets, who=pets_truth())
    assert done.certificate is not None and whole.certificate is not None
    assert done.certificate.results == whole.certificate.results
    assert done.certificate.answers == whole.certificate.answers


def test_a_queue_that_was_left_half_made_is_made_again(pets: Store) -> None:
    create(pets, "whole", pets_truth())
    settings = pets.guarantees.get("whole").settings
    pets.guarantees.create("g", "pets", settings)
    with pets.database.writing() as connection:
        row = {"name": queue_of("g"), "run_id": pets.results.run("pets").id, "order": "guarantee"}
        row |= {"settings": "{}", "complete": False, "total": 0, "answered": 0, "created_at": 0.0}
        connection.execute(review_queues.insert().values(row))
    assert create(pets, "g", pets_truth()).holds


def test_a_queue_that_somebody_deleted_is_made_again(pets: Store) -> None:
    asked = create(pets).asked
    pets.reviews.delete_queue(queue_of("g"))
    assert guarantee_status(pets, "g").asked == 0
    assert create(pets).asked == asked
    own = [QueueItem(1, 0, "dog", DOG, 0.9, Outcome.ACCEPT)]
    pets.reviews.create_queue(queue_of("h"), "pets", own, "random")
    with pytest.raises(AlreadyExists, match="a queue 'guarantee-h' already"):
        create(pets, "h")


def test_a_name_with_other_settings_is_refused(pets: Store) -> None:
    create(pets)
    for changes, what in (
        ({"terms": replace(TERMS, target=0.95)}, r"another precision \(0.9 instead of 0.95\)"),
        ({"terms": replace(TERMS, promise=Promise.RUN)}, "another promise"),
        ({"classes": ("dog",)}, "another classes"),
        ({"seed": 1}, "another seed"),
    ):
        with pytest.raises(AlreadyExists, match=what):
            create(pets, **changes)
    assert create(pets).asked == guarantee_status(pets, "g").asked


def test_an_oracle_of_other_images_leaves_nothing(pets: Store) -> None:
    with pytest.raises(InvalidInput, match="has no image 'p"):
        create(pets, who=pets_truth(images=5))
    with pytest.raises(InvalidInput, match=r"truth.json has a true box for only 0 of .* other im"):
        create(pets, who=pets_truth(right=0))
    assert pets.guarantees.page() == [] and pets.reviews.queues() == []


def test_a_calibrator_ranks_and_other_ones_are_refused(pets: Store) -> None:
    run = pets.results.run("pets")
    fits = (ClassFit(1.0, (2.0,)), ClassFit(-1.0, (2.0,)))
    own = Calibrator(
        ("dog", "cat"),
        ("p_yes",),
        (0.5,),
        fits,
        accept={"dog": 0.9},
        proposer=run.proposer,
        verifier=run.verifier,
    )
    status = create_guarantee(pets, "g", GuaranteeRequest("pets", TERMS), own, pets_truth(47))
    free = replace(own, accept={})
    assert status.row.calibrator == free.digest and pets.calibrators.get(free.digest) == free
    raw = read_population(pets, run, None)
    ranked = read_population(pets, run, own)
    assert len(ranked) > 0 and not np.array_equal(raw.probabilities, ranked.probabilities)
    apply_guarantee(pets, "g", "calibrated")
    assert pets.results.run("calibrated").calibrator == free.digest
    for wrong, error, what in (
        (replace(own, classes=("dog", "bird"), accept={}), InvalidInput, "no class 'cat'"),
        (replace(own, verifier="another@1"), BadSetting, "fitted to the verifier another@1"),
    ):
        with pytest.raises(error, match=what):
            create_guarantee(pets, "h", GuaranteeRequest("pets", TERMS), wrong)
    with pytest.raises(AlreadyExists, match="another calibrator"):
        create(pets)
    assert [row.name for row in pets.guarantees.page()] == ["g"]


def test_an_empty_run_and_an_unknown_one(store: Store) -> None:
    results = [labelled("a", (), {"Dog?": 0.9, "Cat?": 0.9}, PETS)]
    stored_run(store, "pets", results, PETS)
    with pytest.raises(InvalidInput, match="no box that could be a label"):
        create(store)
    with pytest.raises(NotFound, match="no run 'nowhere'"):
        create(store, run="nowhere")
    with pytest.raises(InvalidInput, match="name has 1 to 200"):
        create(store, "a name")
    assert store.guarantees.page() == []


def test_too_small_a_budget_says_what_it_takes(pets: Store) -> None:
    status = create(pets, who=pets_truth(), terms=Terms(0.95, 0.95, 20))
    assert status.certificate is not None and not status.holds
    (result,) = status.certificate.results
    assert "59 answers" in result.reason and result.answers == 0
    with pytest.raises(InvalidInput, match="guarantees nothing"):
        create_snapshot(pets, "s", Query(guarantee="g"))


def test_results_that_were_removed_end_it(pets: Store) -> None:
    create(pets)
    with pets.database.writing() as connection:
        row = pets.guarantees.get("g")
        settings = json.dumps({**row.settings, "population": "0" * 64})
        connection.execute(update(guarantees).values(settings=settings))
    with pytest.raises(InvalidInput, match="not those that guarantee 'g' was begun with"):
        create(pets)


def test_results_that_came_later_are_not_covered(pets: Store) -> None:
    create(pets, who=pets_truth())
    run = pets.results.run("pets")
    late = labelled("late", ((DOG, {"dog": 0.9}),), {"Dog?": 0.99, "Cat?": 0.01}, PETS)
    with pets.database.writing() as connection:
        content = encoded("late")
        sha256 = pets.blobs.put(content)
        image = add_images(connection, [NewImage(sha256, len(content), "png")])[sha256]
        item = done_item(connection, run, 999, "late", len(content), image)
        pets.results.add(connection, run, [(item, image, late)])
    made = apply_guarantee(pets, "g", "applied")
    assert made.images == COUNT
    assert "late" not in {name for name, _ in accepted(pets, "applied")}


def test_a_snapshot_holds_what_is_guaranteed_and_no_more(pets: Store) -> None:
    status = create(pets, who=pets_truth(), classes=("dog",))
    with pytest.raises(InvalidInput, match="not applied yet: `secondlook guarantee apply g`"):
        create_snapshot(pets, "s", Query(guarantee="g"))
    apply_guarantee(pets, "g", "dogs")
    made = create_snapshot(pets, "s", Query(guarantee="g"))
    assert made.statistics["classes"] == ["dog"]
    frozen = json.loads(made.query)
    assert (frozen["guarantee"], frozen["runs"], frozen["classes"]) == ("g", ["dogs"], ["dog"])
    assert json.loads(frozen["certificate"]) == json.loads(status.row.certificate)
    labels = made.statistics["splits"]["train"]["classes"]["dog"] if made.images else {}
    assert labels[BoxKind.LABEL.value] > 0 and labels[BoxKind.HARD_NEGATIVE.value] == 0
    for query, what in (
        (Query(guarantee="g", runs=("pets",)), "run 'pets' is not under the guarantee 'g'"),
        (Query(guarantee="g", classes=("cat",)), "class 'cat' is not under the guarantee 'g'"),
    ):
        with pytest.raises(InvalidInput, match=what):
            create_snapshot(pets, "t", query)
    for state, what in (
        (GuaranteeState.BROKEN, "no longer holds"),
        (GuaranteeState.WITHDRAWN, "was withdrawn"),
    ):
        pets.guarantees.change("g", state.value, state=state)
        with pytest.raises(InvalidInput, match=what):
            create_snapshot(pets, "t", Query(guarantee="g"))
        with pytest.raises(InvalidInput, match=what):
            apply_guarantee(pets, "g")
    with pytest.raises(NotFound, match="no guarantee 'h'"):
        create_snapshot(pets, "t", Query(guarantee="h"))


def test_names_that_are_made_up_can_be_used() -> None:
    request = GuaranteeRequest("x", Terms(0.95), ("red car",))
    assert default_name("label photos 12ab", request) == "label-photos-12ab-red-car-0.95"
    assert default_name("…", GuaranteeRequest("x", Terms(0.9))) == "0.9"
    assert len(default_name("a" * 500, request)) <= 150
