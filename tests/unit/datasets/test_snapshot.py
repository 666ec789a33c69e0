"""What a query freezes: the right images and boxes, one hash for one content."""

import io
import json
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from fakes import Row
from frozen import (
    DOG_BOX,
    HALVES,
    LIMITS,
    PETS,
    SURE,
    drawn,
    encoded,
    entries_of,
    frozen,
    one_dog,
    photos,
    stored,
)
from PIL import Image as PILImage
from stored import review_box

from secondlook.core.ontology_yaml import ontology_from_yaml
from secondlook.core.types import Image
from secondlook.datasets.manifest import (
    Entry,
    entry_from_json,
    entry_to_json,
    load_manifest,
)
from secondlook.datasets.query import Query, SplitShare, query_of
from secondlook.datasets.snapshot import create_snapshot, empty_counts
from secondlook.store import Store, open_store, runs
from secondlook.store.runs import create_run
from secondlook_client.errors import AlreadyExists, InvalidInput, NotFound
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import BoxKind, EmptyReason, Outcome


def by_name(found: list[Entry]) -> dict[str, Entry]:
    return {entry.name: entry for entry in found}


MANY: dict[str, Sequence[Row]] = {
    "sure.jpg": [(DOG_BOX, {"dog": 0.8, "cat": 0.1})],
    "empty.jpg": [],
    "refuted.jpg": [(DOG_BOX, {"cat": 0.8})],
    "doubtful.jpg": [(DOG_BOX, {"dog": 0.8}), ((40, 40, 60, 60), {"bird": 0.9})],
}
EVERY = tuple(EmptyReason)
BIRDS = Ontology((*PETS.classes, ClassSpec("bird", question="Bird?")))


def many(store: Store) -> None:
    def script(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
        return MANY[image.name]

    images = {name: encoded(drawn(place)) for place, name in enumerate(MANY)}
    answers = {**SURE, "Bird?": 0.5}
    stored(store, "r", images, ontology=BIRDS, script=script, answers=answers)


def test_a_image_has_its_labels_and_ignore_regions(store: Store) -> None:
    many(store)
    found = by_name(frozen(store, empty=EVERY))
    assert set(found) == set(MANY)
    (label,) = found["sure.jpg"].boxes
    assert (label.class_index, label.xyxy, label.kind) == (0, DOG_BOX, BoxKind.LABEL)
    assert (label.probability, label.score, label.p_yes) == (0.95, 0.8, 0.95)
    assert [b.kind for b in found["doubtful.jpg"].boxes] == [BoxKind.LABEL, BoxKind.IGNORE]
    assert found["empty.jpg"].empty is EmptyReason.NOTHING_PROPOSED
    assert found["refuted.jpg"].empty is EmptyReason.ALL_REJECTED
    assert found["sure.jpg"].empty is found["doubtful.jpg"].empty is None
    assert [e.sha256 for e in found.values()] == sorted(e.sha256 for e in found.values())
    assert found["sure.jpg"].format == "jpg"
    assert (found["sure.jpg"].width, found["sure.jpg"].height) == (72, 64)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, {"sure.jpg", "doubtful.jpg", "refuted.jpg"}),
        ({"empty": ()}, {"sure.jpg", "doubtful.jpg"}),
        ({"empty": (EmptyReason.NOTHING_PROPOSED,)}, {"sure.jpg", "doubtful.jpg", "empty.jpg"}),
        ({"ignore": False}, {"sure.jpg", "refuted.jpg"}),
        ({"classes": ("bird",), "empty": ()}, {"doubtful.jpg"}),
        ({"since": 1.0, "until": 2e9 * 2, "empty": EVERY}, set(MANY)),
    ],
)
def test_what_a_query_leaves_out(store: Store, query: dict[str, object], names: set[str]) -> None:
    many(store)
    found = frozen(store, **query)
    assert {entry.name for entry in found} == names
    left_out = store.snapshots.get("s0").statistics["left_out"]
    assert sum(left_out.values()) == len(MANY) - len(names)


def test_hard_negatives_come_only_when_asked_for(store: Store) -> None:
    many(store)
    assert by_name(frozen(store))["refuted.jpg"].boxes == ()
    (negative,) = by_name(frozen(store, hard_negatives=True))["refuted.jpg"].boxes
    assert (negative.kind, negative.class_index) == (BoxKind.HARD_NEGATIVE, 1)


def test_what_is_rejected_on_a_labelled_object_is_no_hard_negative(store: Store) -> None:
    """A student would unlearn the dog: neither its duplicate, nor a rejected box around it."""
    x1, y1, x2, y2 = DOG_BOX
    moved = (x1 + 0.3 * (x2 - x1), y1, x2 + 0.3 * (x2 - x1), y2)  # IoU 0.54
    rows = [(DOG_BOX, {"dog": 0.9}), (moved, {"dog": 0.8, "cat": 0.7})]
    stored(store, "r", photos(1), script=lambda *_: rows)
    (result,) = store.results.page(store.results.run("r").id)
    rejected = [(j.class_name, j.row) for j in result.labelled.of(Outcome.REJECT)]
    assert rejected == [("dog", 1), ("cat", 1)]
    (entry,) = frozen(store, hard_negatives=True)
    kept = [(PETS.names[box.class_index], box.kind) for box in entry.boxes]
    assert kept == [("dog", BoxKind.LABEL), ("cat", BoxKind.HARD_NEGATIVE)]


PRESENCE = {"Does this picture show a dog?": 0.03, "Does this picture show a cat?": 0.02}


@pytest.mark.parametrize(
    ("said", "rows", "reason", "ignored"),
    [
        (PRESENCE, [], EmptyReason.VERIFIED_EMPTY, []),
        (PRESENCE, [(DOG_BOX, {"cat": 0.8})], EmptyReason.VERIFIED_EMPTY, []),
        (PRESENCE | {"Does this picture show a cat?": 0.9}, [], None, ["cat"]),
        (PRESENCE | {"Does this picture show a cat?": 0.5}, [], None, ["cat"]),
    ],
)
def test_an_image_that_was_asked_about_is_verified_or_ignored_as_a_whole(
    store: Store, said: dict[str, float], rows: list[Row], reason: EmptyReason, ignored: list[str]
) -> None:
    asked = replace(LIMITS, verify_empty=True)
    answers = {**SURE, **said}
    stored(store, "r", photos(1), script=lambda *_: rows, answers=answers, settings=asked)
    (entry,) = frozen(store, hard_negatives=True)
    assert entry.empty is reason
    found = [box for box in entry.boxes if box.kind is BoxKind.IGNORE]
    assert [PETS.names[box.class_index] for box in found] == ignored
    assert all(box.xyxy == (0, 0, entry.width, entry.height) for box in found)
    assert len(entry.of(BoxKind.HARD_NEGATIVE)) == len(rows)


def test_a_person_may_dispel_a_doubt_about_the_whole_image(store: Store) -> None:
    answers = {**SURE, **PRESENCE, "Does this picture show a cat?": 0.9}
    asked = replace(LIMITS, verify_empty=True)
    run = stored(store, "r", photos(1), script=lambda *_: [], answers=answers, settings=asked)
    (found,) = store.results.page(run.id)
    whole = found.labelled.judgements[0].box
    review_box(store, found.image_id, "cat", whole, "wrong", "ada")
    (entry,) = frozen(store, hard_negatives=True)
    assert (entry.empty, entry.boxes) == (EmptyReason.VERIFIED_EMPTY, ())
    # A cat that a person finds is a label of its own, however large, and no answer to the doubt.
    review_box(store, found.image_id, "cat", (1, 0, 72, 64), "right", "ada")
    (again,) = store.results.page(run.id)
    assert [j.box for j in again.labelled.of(Outcome.ACCEPT)] == [(1, 0, 72, 64)]


def test_of_several_runs_the_reason_counts_that_says_least(store: Store) -> None:
    images = photos(1)
    dog, cat = (Ontology((spec,)) for spec in PETS.classes)
    asked = replace(LIMITS, verify_empty=True)
    nothing = {"script": lambda *_: [], "answers": {**SURE, **PRESENCE}}
    stored(store, "dogs", images, ontology=dog, settings=asked, **nothing)  # type: ignore[arg-type]
    stored(store, "cats", images, ontology=cat, **nothing)  # type: ignore[arg-type]
    (both,) = frozen(store, runs=("dogs", "cats"), empty=EVERY)
    assert both.empty is EmptyReason.NOTHING_PROPOSED
    stored(store, "asked", images, ontology=cat, settings=asked, **nothing)  # type: ignore[arg-type]
    (later,) = frozen(store, runs=("dogs", "cats", "asked"))
    assert later.empty is EmptyReason.VERIFIED_EMPTY


def test_what_was_stored_before_reasons_were_kept_is_read(store: Store) -> None:
    many(store)
    query = json.loads(Query(("r",)).to_json())
    del query["empty"]
    assert query_of(json.dumps({**query, "empties": True})).empty == EVERY
    assert query_of(json.dumps({**query, "empties": False})).empty == ()
    (entry,) = [e for e in frozen(store) if e.name == "refuted.jpg"]
    plain = entry_to_json(entry)
    assert plain.pop("empty") == "all_rejected"
    before = entry_from_json(plain)
    assert before.empty is None and before.is_empty


def test_a_label_below_the_probability_is_no_background(store: Store) -> None:
    many(store)
    found = by_name(frozen(store, min_probability=0.96))
    assert [b.kind for b in found["sure.jpg"].boxes] == [BoxKind.IGNORE]


def test_classes_are_numbered_as_the_query_names_them(store: Store) -> None:
    many(store)
    found = by_name(frozen(store, classes=("bird", "dog")))
    assert [b.class_index for b in found["doubtful.jpg"].boxes] == [1, 0]
    manifest = load_manifest(store.blobs, store.snapshots.get("s0").manifest)
    assert manifest.classes == ("bird", "dog")
    assert manifest.models == ("scripted@p0", "scripted@v0")


def test_a_person_outranks_the_run(store: Store) -> None:
    many(store)
    first = store.snapshots.get(create_snapshot(store, "before", Query(("r",))).name)
    (run,) = store.snapshots.runs(["r"], "")
    image = store.results.page(run.id)[0].image_id
    review_box(store, image, "dog", DOG_BOX, "wrong", "ada")
    found = by_name(frozen(store))
    assert found["sure.jpg"].empty is EmptyReason.ALL_REJECTED
    assert by_name(entries_of(store, "before"))["sure.jpg"].boxes  # and a snapshot never changes
    assert store.snapshots.get("before") == first


def test_the_same_content_has_the_same_hash_on_both_databases(store_places) -> None:
    def made(dialect: str, order: int) -> str:
        data, url = store_places(dialect)
        with open_store(data, url) as other:
            images = dict(sorted(photos(12).items(), reverse=order == 1))
            stored(other, "r", images)
            snapshot = create_snapshot(other, "s", Query(("r",), split=HALVES))
            return snapshot.manifest

    hashes = {made("sqlite", 0), made("sqlite", 1), made("postgresql", 0)}
    assert len(hashes) == 1


def test_another_content_has_another_hash(store: Store) -> None:
    stored(store, "r", photos(6))
    stored(store, "one more", photos(7))
    hashes = {
        create_snapshot(store, name, Query(**query)).manifest
        for name, query in {
            "a": {"runs": ("r",)},
            "b": {"runs": ("one more",)},
            "c": {"runs": ("r",), "split": HALVES},
            "d": {"runs": ("r",), "min_probability": 0.99},
        }.items()
    }
    assert len(hashes) == 4


def test_the_later_run_counts_for_what_it_judged(store: Store) -> None:
    images = photos(2)
    stored(store, "dogs", images, ontology=Ontology(PETS.classes[:1]))
    stored(store, "cats", images, ontology=Ontology(PETS.classes[1:]), answers={"Cat?": 0.9})
    for place, entry in enumerate(frozen(store, runs=("dogs", "cats"))):
        assert [b.class_index for b in entry.boxes] == [0, 1], place
    stored(store, "again", images, answers={"Dog?": 0.1, "Cat?": 0.1})
    for entry in frozen(store, runs=("dogs", "cats", "again")):
        assert entry.empty is EmptyReason.ALL_REJECTED


def test_a_image_that_was_not_judged_for_every_class_is_left_out(store: Store) -> None:
    stored(store, "dogs", photos(3), ontology=Ontology(PETS.classes[:1]))
    stored(store, "cats", photos(2, first=2), ontology=Ontology(PETS.classes[1:]))
    (only,) = frozen(store, runs=("dogs", "cats"))
    assert only.sha256 in {e.sha256 for e in frozen(store, runs=("cats",))}
    assert store.snapshots.get("s0").statistics["left_out"] == {"not judged for every class": 3}


def test_the_same_content_under_two_names_is_one_image(store: Store) -> None:
    content = encoded(drawn(0))
    stored(store, "r", {"b.jpg": content, "a.jpg": content})
    assert [entry.name for entry in frozen(store)] == ["a.jpg"]


def test_statistics_count_everything(store: Store) -> None:
    many(store)
    whole = (SplitShare("all", 1),)
    create_snapshot(store, "s", Query(("r",), hard_negatives=True, split=whole, empty=EVERY))
    counted = store.snapshots.get("s").statistics
    assert (counted["images"], counted["labels"]) == (4, 2)
    split = counted["splits"]["all"]
    assert (split["images"], split["with_ignore"]) == (4, 1)
    assert split["empty"] == {"nothing_proposed": 1, "all_rejected": 1, "verified_empty": 0}
    assert empty_counts([split, {"verified_empty": 3}]) == {
        "empty, nothing proposed": [1, 0],
        "empty, every box rejected": [1, 0],
        "empty, the reason was not kept": [0, 3],
    }
    assert split["classes"]["dog"] == {"label": 2, "ignore": 0, "hard_negative": 0}
    assert split["classes"]["bird"] == {"label": 0, "ignore": 1, "hard_negative": 0}
    assert split["classes"]["cat"] == {"label": 0, "ignore": 0, "hard_negative": 1}
    assert counted["bytes"] == sum(len(encoded(drawn(n))) for n in range(4))


def test_a_snapshot_keeps_the_ontology(store: Store) -> None:
    many(store)
    create_snapshot(store, "s", Query(("r",), classes=("bird", "dog")))
    asked = ontology_from_yaml(str(store.snapshots.get("s").statistics["ontology"]))
    assert asked.names == ("bird", "dog")
    assert [spec.question for spec in asked.classes] == ["Bird?", PETS.classes[0].question]


def test_one_class_of_a_contrast_group_leaves_the_group(store: Store) -> None:
    sides = ("awake", "asleep")
    pair = Ontology(tuple(ClassSpec(name, phrases=("dog",), group="state") for name in sides))
    stored(store, "r", photos(2), ontology=pair, script=one_dog, answers={})
    create_snapshot(store, "s", Query(("r",), classes=("asleep",)))
    (spec,) = ontology_from_yaml(str(store.snapshots.get("s").statistics["ontology"])).classes
    assert (spec.name, spec.phrases, spec.group) == ("asleep", ("dog",), "")


def test_a_name_in_use_is_refused_and_a_removed_one_is_free(store: Store) -> None:
    stored(store, "r", photos(2))
    create_snapshot(store, "s", Query(("r",)))
    with pytest.raises(AlreadyExists, match="never changes; choose another name"):
        create_snapshot(store, "s", Query(("r",)))
    with pytest.raises(AlreadyExists):
        store.snapshots.add("s", "0" * 64, "{}", {}, [1])
    store.snapshots.remove("s")
    with pytest.raises(NotFound):
        store.snapshots.get("s")
    assert create_snapshot(store, "s", Query(("r",))).images == 2


def test_snapshots_are_listed_newest_first_in_pages(store: Store) -> None:
    stored(store, "r", photos(1))
    for name in "abcde":
        create_snapshot(store, name, Query(("r",)))
    first = store.snapshots.page(limit=3)
    assert [s.name for s in first] == ["e", "d", "c"]
    assert [s.name for s in store.snapshots.page(first[-1].id, 3)] == ["b", "a"]


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        ({"runs": ("nobody",)}, NotFound, "no run 'nobody'"),
        ({"ontology": "0" * 16}, NotFound, "ontology"),
        ({"runs": ("r",), "ontology": "0" * 16}, InvalidInput, "leave the run or the ontology"),
        ({"runs": ("r",), "classes": ("cow",)}, InvalidInput, "'cow'; there are dog, cat"),
        ({"runs": ("r",), "since": 4e9}, InvalidInput, "finds no image"),
        ({"runs": ("r",), "ignore": False, "min_probability": 1.0}, InvalidInput, "2 with an igno"),
    ],
)
def test_a_query_that_cannot_be_met(store: Store, query, error, words) -> None:
    stored(store, "r", photos(2))
    with pytest.raises(error, match=words):
        create_snapshot(store, "s", Query(**query))
    assert store.snapshots.page() == []


def test_many_names_are_compared_in_no_time() -> None:
    names = tuple(map(str, range(200_000)))
    began = time.thread_time()
    assert Query(runs=names, classes=names).runs == names
    with pytest.raises(InvalidInput, match="run '7' is given twice"):
        Query(runs=(*names, "7"))
    assert time.thread_time() - began < 5


def test_many_runs_are_read_in_their_order(store: Store) -> None:
    names = [f"r{number}" for number in range(20)]
    with store.database.writing() as connection:
        for name in reversed(names):
            create_run(connection, name, "folder", PETS, {})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runs, "BATCH", 7)
        assert [run.name for run in store.snapshots.runs(names, "")] == names
        with pytest.raises(NotFound, match="there is no run 'x' in the store; the newest are"):
            store.snapshots.runs([*names, "x"], "")


def test_runs_of_an_ontology(store: Store) -> None:
    stored(store, "a", photos(2))
    stored(store, "b", photos(2, first=2))
    stored(store, "c", photos(2, first=4), ontology=Ontology(PETS.classes[:1]))
    snapshot = create_snapshot(store, "s", Query(ontology=PETS.digest))
    assert snapshot.images == 4


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "a" * 201, "ä", "a b"])
def test_names_that_no_snapshot_can_have(store: Store, name: str) -> None:
    with pytest.raises(InvalidInput, match="letters, digits"):
        create_snapshot(store, name, Query(("r",)))


def test_a_snapshot_holds_its_images(store: Store) -> None:
    stored(store, "r", photos(3))
    create_snapshot(store, "s", Query(("r",)))
    known = [entry.sha256 for entry in entries_of(store, "s")]
    assert store.snapshots.holds("s", known)
    assert not store.snapshots.holds("s", [*known, "0" * 64])
    assert PILImage.open(io.BytesIO(store.blobs.get(known[0]))).size == (72, 64)
