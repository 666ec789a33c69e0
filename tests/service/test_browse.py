"""``BrowseService`` on a real server: each call once, and what it refuses."""

import json
from collections.abc import Iterator

import grpc
import pytest
from serving import serving
from stored import image_of, labelled, review_box, stored_run

from secondlook.review.redecide import redecide
from secondlook.store import Store
from secondlook_client.uncertainties import LabelUncertainty, UncertaintyMethod
from secondlook_client.v1 import browse_pb2 as pb
from secondlook_client.v1 import browse_pb2_grpc
from secondlook_client.v1 import labeling_pb2 as labels

DOG = (20.0, 5.0, 39.0, 25.0)
SURE = {"On?": 0.95, "Off?": 0.02, "Dog?": 0.9}


@pytest.fixture
def browse(store: Store) -> Iterator[browse_pb2_grpc.BrowseServiceStub]:
    """A server with the runs ``first``, of three images, and ``strict``, decided again."""
    made = stored_run(
        store, "first", [labelled("a"), labelled("b", answers=SURE), labelled("none", ())]
    )
    redecide(store, "first", "strict", made.ontology, duplicate_iou=0.9)
    review_box(store, image_of(store, "a"), "dog", DOG, "right")
    cursor = store.results.page(made.id)[0].cursor
    doubt = LabelUncertainty(UncertaintyMethod.COMMITTEE, 0.9, 0.1, "two say no", {"votes": (1.0,)})
    store.uncertainties.put(UncertaintyMethod.COMMITTEE, "scripted", {cursor: {2: doubt}})
    with serving(store=store) as running, grpc.insecure_channel(running.address) as channel:
        yield browse_pb2_grpc.BrowseServiceStub(channel)


def test_runs_are_listed_a_page_at_a_time(browse):
    first = browse.ListRuns(pb.ListRunsRequest(page_size=1))
    (strict,) = first.runs
    assert (strict.name, strict.kind, strict.parent) == ("strict", "redecide", "first")
    (other,) = browse.ListRuns(pb.ListRunsRequest(page_token=first.next_page_token)).runs
    assert (other.name, other.images) == ("first", 3)
    assert list(other.classes) == ["glasses on", "glasses off", "dog"]
    assert [r.name for r in browse.ListRuns(pb.ListRunsRequest(text="STR")).runs] == ["strict"]
    assert not browse.ListRuns(pb.ListRunsRequest(text="%")).runs
    run = browse.GetRun(pb.GetRunRequest(run="strict"))
    assert json.loads(run.settings_json)["duplicate_iou"] == 0.9
    assert [spec.accept for spec in run.ontology.classes] == [0.6] * 3
    known = browse.GetRun(pb.GetRunRequest(run="first"))
    assert list(known.uncertainty_methods) == ["committee"]


def test_images_and_counts_of_a_run(browse):
    wanted = pb.RunImageFilter(classes=["dog"], outcomes=[labels.OUTCOME_ACCEPT])
    found = browse.ListRunImages(
        pb.ListRunImagesRequest(
            run="first",
            filter=wanted,
            order=pb.RUN_IMAGE_ORDER_UNCERTAINTY,
            boxes=[labels.OUTCOME_ACCEPT],
        )
    )
    assert (found.total, found.images_of_run) == (2, 3)
    a, b = found.images
    assert (a.name, a.reviewed, b.name, b.reviewed) == ("a", True, "b", False)
    assert (a.uncertainty, a.probability) == (pytest.approx(0.9), 1.0)
    assert (a.accepted, a.width, a.height) == (2, 40, 30)
    place = list(a.boxes.class_index).index(2)
    assert list(a.boxes.xyxy[place * 4 : place * 4 + 4]) == list(DOG)
    empty = pb.ListRunImagesRequest(run="first", filter=pb.RunImageFilter(empty=True))
    (none,) = browse.ListRunImages(empty).images
    assert none.name == "none" and not none.HasField("uncertainty") and not none.boxes.index

    told = browse.SummarizeRun(pb.SummarizeRunRequest(run="first", filter=wanted))
    assert (told.images, told.matching_images) == (3, 2)
    assert [(c.class_name, c.accepted, c.rejected) for c in told.classes][2] == ("dog", 2, 0)
    assert {h.name for h in told.histograms} >= {"probability", "score", "p_yes", "area"}
    one = pb.SummarizeRunRequest(run="first", histograms=["uncertainty"])
    assert [h.name for h in browse.SummarizeRun(one).histograms] == ["uncertainty"]


def test_one_image_and_one_label_whole_and_what_other_rules_would_decide(browse):
    listed = browse.ListRunImages(pb.ListRunImagesRequest(run="first")).images
    a = listed[0]
    wanted = pb.GetRunImagesRequest(
        run="first", cursors=[a.cursor, 10**9], sha256=[listed[1].sha256]
    )
    first, second = browse.GetRunImages(wanted).images
    assert (first.labelled.name, second.labelled.name) == ("a", "b")
    assert list(first.reviewed) == [2] and first.reviews[0].person == "Ann"
    (measured,) = first.uncertainties
    assert (measured.index, measured.methods[0].reason) == (2, "two say no")

    told = browse.ExplainLabel(pb.ExplainLabelRequest(label_id=f"{a.cursor}.2"))
    assert (told.run, told.judgement.outcome) == ("first", labels.OUTCOME_ACCEPT)
    assert told.decided.outcome == labels.OUTCOME_UNSURE
    dog = next(one for one in told.classes if one.same_group)
    assert (dog.spec.name, dog.spec.accept, dog.verdict.p_yes) == ("dog", 0.6, 0.5)
    assert len(told.classes) == 3 and told.reviews and told.uncertainties

    stricter = [pb.ClassThresholds(accept=0.97), pb.ClassThresholds(class_name="dog", accept=0.6)]
    cursors = [listed[1].cursor, a.cursor]
    preview = browse.PreviewDecisions(
        pb.PreviewDecisionsRequest(run="first", cursors=cursors, classes=stricter, count=True)
    )
    assert [image.cursor for image in preview.images] == cursors
    outcomes = {j.class_name: j.outcome for j in preview.images[0].judgements}
    assert outcomes["glasses on"] == labels.OUTCOME_UNSURE
    assert outcomes["dog"] == labels.OUTCOME_ACCEPT
    assert (preview.images_counted, preview.changed_images) == (3, 2)
    on = preview.classes[0]
    assert (on.accepted_before, on.accepted, on.unsure) == (2, 0, 2)


def test_what_differs_between_two_runs_is_told_part_by_part(browse, store):
    moved = (((1, 1, 12, 14), {"person": 0.8}),)  # without the dog, and the person is smaller
    other = {"On?": 0.02, "Off?": 0.95, "Dog?": 0.9}
    found = [labelled("b", moved, SURE), labelled("a", answers=other), labelled("new")]
    stored_run(store, "later", found)
    request = pb.CompareRunsRequest(before="first", after="later", page_size=1)
    first = browse.CompareRuns(request)
    (image,) = first.images
    assert (image.name, image.width, image.height) == ("a", 40, 30)
    turned = next(one for one in image.labels if one.change == pb.LABEL_CHANGE_CLASS)
    assert (turned.before.class_name, turned.after.class_name) == ("glasses on", "glasses off")
    assert first.next_cursor == image.before_cursor

    rest = browse.CompareRuns(
        pb.CompareRunsRequest(before="first", after="later", cursor=first.next_cursor)
    )
    (image,) = rest.images
    assert image.name == "b" and rest.next_cursor == 0
    changes = {(one.change, one.before.class_name) for one in image.labels}
    assert changes == {(pb.LABEL_CHANGE_MOVED, "glasses on"), (pb.LABEL_CHANGE_LOST, "dog")}
    assert not any(one.before.HasField("verdict") for one in image.labels)
    assert (first.compared, rest.compared, rest.only_before) == (1, 1, 1)
    (dog,) = [one for one in rest.classes if one.class_name == "dog"]
    assert (dog.same, dog.moved, dog.lost, dog.gained) == (0, 0, 1, 0)
    end = pb.CompareRunsRequest(before="first", after="later", cursor=2**63 - 1)
    assert not browse.CompareRuns(end).images


REFUSED = (
    ("CompareRuns", pb.CompareRunsRequest(before="first", after="no"), "NOT_FOUND", "run 'no'"),
    ("GetRun", pb.GetRunRequest(run="no"), "NOT_FOUND", "there is no run 'no'"),
    ("ListRuns", pb.ListRunsRequest(page_token="x"), "INVALID_ARGUMENT", "page_token"),
    (
        "ListRunImages",
        pb.ListRunImagesRequest(run="first", order=99),
        "INVALID_ARGUMENT",
        "an order",
    ),
    (
        "ListRunImages",
        pb.ListRunImagesRequest(run="first", filter=pb.RunImageFilter(outcomes=[77])),
        "INVALID_ARGUMENT",
        "an outcome",
    ),
    (
        "ListRunImages",
        pb.ListRunImagesRequest(run="first", filter=pb.RunImageFilter(guaranteed=False)),
        "INVALID_ARGUMENT",
        "not decided under a guarantee",
    ),
    (
        "SummarizeRun",
        pb.SummarizeRunRequest(run="first", histograms=["colour"]),
        "INVALID_ARGUMENT",
        "histograms of probability",
    ),
    (
        "GetRunImages",
        pb.GetRunImagesRequest(run="first", sha256=["../x"]),
        "INVALID_ARGUMENT",
        "64 hex digits",
    ),
    ("ExplainLabel", pb.ExplainLabelRequest(label_id="1"), "INVALID_ARGUMENT", "a label"),
    (
        "PreviewDecisions",
        pb.PreviewDecisionsRequest(run="first", classes=[pb.ClassThresholds(accept=0.1)]),
        "INVALID_ARGUMENT",
        "reject",
    ),
    (
        "PreviewDecisions",
        pb.PreviewDecisionsRequest(run="first", classes=[pb.ClassThresholds()] * 2),
        "INVALID_ARGUMENT",
        "once",
    ),
)


def test_what_cannot_be_shown_is_told_why(browse):
    for call, request, status, words in REFUSED:
        with pytest.raises(grpc.RpcError) as refused:
            getattr(browse, call)(request)
        assert refused.value.code().name == status and words in refused.value.details()


def test_a_server_without_a_store_has_no_runs():
    with serving() as running, grpc.insecure_channel(running.address) as channel:
        stub = browse_pb2_grpc.BrowseServiceStub(channel)
        for call, request in (
            (stub.ListRuns, pb.ListRunsRequest()),
            (stub.ListRunImages, pb.ListRunImagesRequest()),
        ):
            with pytest.raises(grpc.RpcError, match="--data FOLDER"):
                call(request)
