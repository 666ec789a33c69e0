"""A job under a guarantee over a loopback server: a change of scene is found, and ends it."""

import re
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier
from guaranteed import CAT, DOG, PETS, pets_truth, store_pets
from job_client import send, wait
from prometheus_client import generate_latest
from serving import Serving, png, serving, wait_until

from secondlook.cli import run
from secondlook.core.types import Image
from secondlook.datasets.query import Query
from secondlook.datasets.snapshot import create_snapshot
from secondlook.evaluation.guarantee import Terms
from secondlook.jobs import guarantee_checks
from secondlook.jobs.guarantee_checks import checks_status
from secondlook.review.doubtful_labels import doubtful_labels
from secondlook.review.guarantees import GuaranteeRequest, create_guarantee
from secondlook.store import Store
from secondlook.store.integrity import check
from secondlook_client import Client, errors
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc
from secondlook_client.values import Outcome, ReviewAnswer

GAUGE = re.compile(r'^secondlook_guarantee_(\w+)\{guarantee="g"\} (\S+)$', re.MULTILINE)


def pets(image: Image, phrases: Sequence[str]) -> tuple[Row, ...]:
    return (DOG, {"dog": 0.8}), (CAT, {"cat": 0.7})


@pytest.fixture
def guaranteed(store: Store, monkeypatch: pytest.MonkeyPatch):
    """A server whose store has the guarantee ``g``, and a client of it."""
    monkeypatch.setattr(guarantee_checks, "RATE", 0.5)
    store_pets(store)
    request = GuaranteeRequest("pets", Terms(0.9, 0.9, 40))
    assert create_guarantee(store, "g", request, None, pets_truth()).holds
    models = ScriptedProposer(pets), ScriptedVerifier({"Dog?": 0.99, "Cat?": 0.5})
    with serving(*models, store=store) as served, Client(served.address) as client:
        yield served, client


def gauges(served: Serving) -> dict[str, float]:
    told = generate_latest(served.metrics.registry).decode()
    return {name: float(value) for name, value in GAUGE.findall(told)}


def answer_all(client: Client, said: ReviewAnswer) -> int:
    """A person answers every check there is; how many."""
    count = 0
    while items := client.reviews.next("g-checks", person="ann", count=50):
        for item in items:
            client.reviews.answer(item, said, person="ann")
        count += len(items)
    return count


def test_a_change_of_scene_ends_the_guarantee_of_a_running_job(
    guaranteed, store: Store, capsys
) -> None:
    served, client = guaranteed
    made = client.jobs.create("day", guarantee="g")
    assert made.classes == PETS.names and gauges(served) == {}
    send(client, "day", 60)
    wait_until(lambda: client.jobs.get("day").done == 60)
    right = answer_all(client, ReviewAnswer.RIGHT)
    wait_until(lambda: gauges(served)["checked"] == right)
    assert gauges(served)["holds"] == 1 and gauges(served)["waiting"] == 0
    job = client.jobs.get("day")
    assert (job.guarantee, job.guarantee_state.split(";")[0]) == ("g", "it holds")

    send(client, "day", 80, start=60)  # the scene has changed: what looks like a dog is none
    wait_until(lambda: client.jobs.get("day").done == 140)
    assert answer_all(client, ReviewAnswer.WRONG) > 10
    wait_until(lambda: gauges(served)["holds"] == 0)
    last = max(found.cursor for found in client.jobs.results("day"))
    told = gauges(served)
    assert told["evidence"] >= 500 and right < told["checked"] and told["wrong"] > 5

    send(client, "day", 20, start=140)
    client.jobs.finish("day")
    job = wait(client, "day")
    assert (job.state, job.done, job.failed) == ("done", 160, 0)
    later = [found.result for found in client.jobs.results("day", after=last)]
    assert len(later) == 20 and not any(result.labels for result in later)
    reasons = [one.reason for result in later for one in result.judgements]
    assert all(reason.startswith("guarantee 'g' no longer holds, since 2") for reason in reasons)

    assert run(["job", "show", "day", "--server", served.address]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "g: guarantee 'g' no longer holds, since 2" in shown
    with pytest.raises(errors.InvalidInput, match="'g' no longer holds; its history says why"):
        client.jobs.create("night", guarantee="g")
    again = client.jobs.create("day", guarantee="g", reuse=True)  # sending goes on all the same
    assert again.done == 160
    assert list(check(store, content=False)) == []


def capture(client: Client, spool: Path, count: int, start: int = 0, **asked: str) -> None:
    """Send that many frames of the stream ``gate``, until they are stored."""
    with client.capture("gate", spool=spool, **asked) as stream:
        for number in range(start, start + count):
            stream.send(png(shade=number))
        stream.flush(30)
    wait_until(lambda: client.jobs.get("gate").done == start + count)


def test_a_captured_stream_is_labelled_and_checked_under_it(
    guaranteed, store: Store, tmp_path: Path
) -> None:
    served, client = guaranteed
    capture(client, tmp_path, 50, guarantee="g")
    job = client.jobs.get("gate")
    assert (job.kind, job.guarantee, job.classes) == ("capture", "g", PETS.names)
    right = answer_all(client, ReviewAnswer.RIGHT)
    wait_until(lambda: gauges(served)["checked"] == right > 0)
    assert (gauges(served)["share"], gauges(served)["holds"]) == (0.5, 1)
    capture(client, tmp_path, 60, start=50)  # begun under it, so it goes on under it
    wrong = answer_all(client, ReviewAnswer.WRONG)
    wait_until(lambda: gauges(served)["holds"] == 0)
    capture(client, tmp_path, 20, start=110, guarantee="g")  # no frame is lost
    labels = [len(found.result.labels) for found in client.jobs.results("gate")]
    assert sum(labels[:50]) == 50 and not any(labels[110:])

    since = store.guarantees.doubtful_since("g")
    doubtful = list(doubtful_labels(store, "g"))
    assert since and 60 <= len(doubtful) + wrong < 110  # those are no labels any more
    assert min(one.decided_at for one in doubtful) > since
    told = create_snapshot(store, "all", Query(runs=("gate",), empty=())).statistics
    (note,) = told["ended_guarantees"]
    assert "under guarantee 'g' after nothing spoke against it for the last time" in note
    early = Query(runs=("gate",), until=since, empty=())
    kept = create_snapshot(store, "early", early).statistics
    assert "ended_guarantees" not in kept and 0 < kept["labels"] < told["labels"]


def test_a_stream_that_does_not_fit_waits_and_says_why(guaranteed, tmp_path: Path) -> None:
    served, client = guaranteed
    with pytest.raises(errors.NotFound, match="no guarantee 'h'"):
        opened(client, tmp_path, "gate", guarantee="h")
    with pytest.raises(errors.InvalidInput, match="is about the classes and questions of run"):
        opened(client, tmp_path, "gate", guarantee="g", classes=["dog"])
    opened(client, tmp_path, "plain", classes=PETS.classes)
    with pytest.raises(errors.AlreadyExists, match="begun with another guarantee, or with none"):
        opened(client, tmp_path, "plain", guarantee="g")
    opened(client, tmp_path, "gate", guarantee="g", classes=PETS.classes)
    with pytest.raises(errors.AlreadyExists, match="was begun with other classes"):
        opened(client, tmp_path, "gate", guarantee="g", classes=["cat"])
    live = pb.StreamOpening(mode=pb.STREAM_MODE_LIVE, guarantee="g")
    with grpc.insecure_channel(served.address) as channel:
        stub = labeling_pb2_grpc.LabelingServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="a live stream keeps nothing"):
            list(stub.LabelStream(iter([pb.LabelStreamRequest(opening=live)]), timeout=30))


def opened(client: Client, tmp_path: Path, stream: str, **asked) -> None:
    """Send one frame; raises the problem of a stream that cannot be opened."""
    spool = tmp_path / f"{stream} {len(list(tmp_path.iterdir()))}"
    with client.capture(stream, spool=spool, **asked) as sending:
        sending.send(png())
        wait_until(lambda: sending.state.problem is not None or not sending.state.pending)
        if sending.state.problem:
            raise sending.state.problem


def test_refusals_say_what_does_not_fit(guaranteed) -> None:
    _, client = guaranteed
    with pytest.raises(errors.NotFound, match="no guarantee 'h'"):
        client.jobs.create("a", guarantee="h")
    with pytest.raises(errors.InvalidInput, match="is about the classes and questions of run"):
        client.jobs.create("a", classes=["dog"], guarantee="g")
    client.jobs.create("plain", classes=PETS.classes)
    with pytest.raises(errors.AlreadyExists, match="or another guarantee; choose another name"):
        client.jobs.create("plain", guarantee="g", reuse=True)
    assert [job.name for job in client.jobs.list()] == ["plain"]
    assert client.jobs.get("plain").guarantee == ""


def test_an_image_kept_in_the_job_is_decided_under_it(guaranteed) -> None:
    _, client = guaranteed
    client.jobs.create("kept", guarantee="g")
    result = client.label(png(), classes=PETS.classes, keep="kept")
    assert [one.outcome for one in result.judgements] == [Outcome.ACCEPT, Outcome.UNSURE]
    assert result.judgements[0].reason.endswith("guaranteed from there")


def test_the_commands_begin_a_job_under_it_and_tell_of_its_checks(
    guaranteed, store: Store, tmp_path: Path, capsys
) -> None:
    served, client = guaranteed
    for shade in range(20):
        (tmp_path / f"{shade}.png").write_bytes(png(shade=shade))
    create = ["job", "create", "j", str(tmp_path), "--guarantee", "g", "--watch"]
    assert run([*create, "--server", served.address]) == 0
    assert "j: done, 20 labelled, 0 failed" in capsys.readouterr().out
    assert client.jobs.get("j").guarantee == "g"
    waiting = client.reviews.queue("g-checks").total
    assert waiting > 1
    (row,) = store.guarantees.page()
    status = checks_status(store, row)
    assert status is not None and str(status) == f"0 checked, 0 wrong; {waiting} to answer"
