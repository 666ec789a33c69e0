"""``Label`` with ``keep``: an image of an upload job, answered with its stored result."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from fakes import ScriptedProposer, ScriptedVerifier
from job_client import numbered, send, wait
from job_images import try_again_soon
from serving import DOG, png, serving, wait_until

from secondlook.config.settings import BatchingSettings
from secondlook_client import AsyncClient, Client, Outcome, RetryPolicy, errors
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc

ONE_TRY = RetryPolicy(unavailable_s=0)


def results(client, run):
    """Results of a run by the image's name."""
    return {found.result.name: found.result for found in client.jobs.results(run)}


def test_a_kept_image_is_answered_and_found_among_the_results_of_its_run(served, store):
    _, client = served
    answer = client.label(png(), name="a/b.png", classes=["dog", "cat"], keep="street")
    assert [label.class_name for label in answer.labels] == ["dog", "cat"]
    assert (answer.name, answer.width, answer.proposer) == ("a/b.png", 40, "scripted@p0")
    assert results(client, "street") == {"a/b.png": answer}
    assert store.blobs.get(answer.sha256) == png()
    job = client.jobs.get("street")
    assert (job.kind, job.open, job.total, job.done) == ("upload", True, 1, 1)
    assert client.label(png(shade=5), classes=["dog", "cat"]).labels  # without keep: as before
    assert client.jobs.get("street").total == 1


def test_the_detail_is_that_of_the_request(store):
    verifier = ScriptedVerifier(0.1)
    with serving(verifier=verifier, store=store) as s, Client(s.address) as client:
        assert client.label(png(), keep="street", detail="labels").judgements == ()
        (rejected,) = client.label(png(), keep="street").judgements
        assert rejected.outcome is Outcome.REJECT


def test_an_image_sent_twice_has_one_result_and_one_answer(served):
    s, client = served
    first = client.label(png(), name="a.png", keep="street")
    assert client.label(png(), name="a.png", keep="street") == first
    assert s.proposer.seen == ["a.png"]
    client.jobs.finish("street")
    assert wait(client, "street").done == 1
    assert client.label(png(), name="a.png", keep="street") == first  # reads, and reopens nothing
    assert client.jobs.get("street").state == "done"
    assert client.label(png(), name="b.png", keep="street").name == "b.png"
    assert (client.jobs.get("street").total, client.jobs.get("street").open) == (2, True)


def test_a_run_that_jobs_made_is_added_to_and_others_are_refused(served, store):
    _, client = served
    client.jobs.create("mine", classes=["dog"])
    send(client, "mine", 2)
    assert client.label(png(shade=9), classes=["dog"], keep="mine").labels
    with pytest.raises(errors.AlreadyExists, match=r"'mine' already, .* choose another name"):
        client.label(png(), classes=["cat"], keep="mine")
    store.queue.create("camera", "capture", DOG)
    with pytest.raises(errors.AlreadyExists, match="'camera' already"):
        client.label(png(), keep="camera")
    client.jobs.cancel("mine")
    with pytest.raises(errors.InvalidInput, match="cancelled and takes no more"):
        client.label(png(), classes=["dog"], keep="mine")
    with pytest.raises(errors.InvalidInput, match="printable"):
        client.label(png(), keep="a\nb")
    assert client.jobs.get("mine").total == 3


def test_without_a_store_it_is_refused_with_the_way_out():
    with serving() as s, Client(s.address) as client:
        with pytest.raises(errors.NotSupported, match="--data FOLDER"):
            client.label(png(), keep="street")
        assert s.proposer.batches == []


def test_a_bad_image_has_its_own_error_and_fails_in_the_run(served):
    _, client = served
    for _ in range(2):
        with pytest.raises(errors.BadImage, match="not an image") as caught:
            client.label(b"no image", name="bad.png", keep="street")
    assert caught.value.reason == "bad_image"
    (failed,) = client.jobs.failures("street")
    assert (failed.name, failed.reason) == ("bad.png", "bad_image")
    assert client.label(png(), keep="street").labels


def test_a_fault_of_the_server_is_told_as_one(store, monkeypatch):
    try_again_soon(monkeypatch)

    def script(image, phrases):
        raise RuntimeError("/secret/path exploded")

    with (
        serving(ScriptedProposer(script), store=store) as s,
        Client(s.address) as client,
        pytest.raises(errors.ServerFailure, match="log has the details") as caught,
    ):
        client.label(png(), keep="street")
    assert caught.value.reason == "internal" and "secret" not in str(caught.value)


def test_sixteen_at_a_time_share_batches_and_all_are_kept(store):
    limits = BatchingSettings(batching_window_ms=20)
    proposer = ScriptedProposer(delay_s=0.02)
    with serving(proposer, limits=limits, store=store) as s, Client(s.address) as client:
        answers = dict(client.label_many(numbered(48), keep="street", name=str))
        assert {answer.name for answer in answers.values()} == set(map(str, range(48)))
        assert results(client, "street") == {str(key): found for key, found in answers.items()}
        assert sum(s.proposer.batches) == 48 and len(s.proposer.batches) < 24


def test_the_async_client_keeps_too(served):
    s, client = served

    async def main():
        async with AsyncClient(s.address) as other:
            one = await other.label(png(shade=99), name="one", keep="street")
            many = [
                answer async for _, answer in other.label_many(numbered(4), keep="street", name=str)
            ]
            return {answer.name: answer for answer in [one, *many]}

    assert asyncio.run(main()) == results(client, "street")


def test_kept_images_in_flight_are_bounded(store):
    gate = threading.Event()
    limits = BatchingSettings(max_in_flight=2)
    with (
        serving(ScriptedProposer(gate=gate), limits=limits, store=store) as s,
        Client(s.address) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        kept = [pool.submit(client.label, image, keep="a") for _, image in numbered(2)]
        wait_until(lambda: s.server._admission.in_flight() == 2)
        with pytest.raises(errors.Busy) as caught:
            client.label(png(shade=9), keep="a", timeout_s=0.2)
        assert caught.value.retry_after_s
        gate.set()
        assert all(one.result().labels for one in kept)
        assert client.label(png(shade=9), keep="a").labels


def test_after_its_deadline_the_image_is_labelled_all_the_same(store):
    gate = threading.Event()
    with serving(ScriptedProposer(gate=gate), store=store) as s, Client(s.address) as client:
        with pytest.raises(
            errors.DeadlineExceeded, match="stored in 'street' and will be labelled"
        ):
            client.label(png(), name="late", keep="street", timeout_s=2.0)
        gate.set()
        client.jobs.finish("street")
        assert wait(client, "street").done == 1
        assert client.label(png(), name="late", keep="street") == results(client, "street")["late"]


def test_a_client_that_goes_away_loses_nothing(store):
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)
    with (
        serving(proposer, store=store) as s,
        grpc.insecure_channel(s.address) as channel,
        Client(s.address) as client,
    ):
        stub = labeling_pb2_grpc.LabelingServiceStub(channel)
        gone = stub.Label.future(pb.LabelRequest(image=png(), name="gone", keep="street"))
        assert proposer.started.wait(10)
        gone.cancel()
        wait_until(lambda: s.server._admission.in_flight() == 0)
        gate.set()
        client.jobs.finish("street")
        assert wait(client, "street").done == 1
        assert results(client, "street")["gone"].labels


def test_a_job_that_is_cancelled_ends_the_calls_that_wait_for_it(store):
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)
    with (
        serving(proposer, store=store) as s,
        Client(s.address) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(client.label, png(), keep="street")
        assert proposer.started.wait(10)
        client.jobs.cancel("street")
        failure = waiting.exception(10)
        gate.set()
    assert isinstance(failure, errors.InvalidInput) and "cancelled before" in str(failure)


def test_a_stop_answers_what_is_labelled_and_a_restart_labels_the_rest(store):
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)
    limits = BatchingSettings(propose_batch=1)
    images = dict(numbered(24))  # the job runner has 16 in flight
    with ThreadPoolExecutor(len(images)) as pool:
        with serving(proposer, limits=limits, store=store) as s:
            client = Client(s.address, retry=ONE_TRY)
            client.jobs.create("street")
            calls = {
                number: pool.submit(client.label, image, name=str(number), keep="street")
                for number, image in images.items()
            }
            wait_until(lambda: store.queue.get("street").total == 24 and s.engine.depth() == 16)
            threading.Timer(0.3, gate.set).start()
        failures = {number: call.exception() for number, call in calls.items()}
    client.close()
    stored = [number for number, failure in failures.items() if failure]
    assert len(stored) == 8
    for number in stored:
        assert isinstance(failures[number], errors.ShuttingDown)
        assert "is stored in 'street' and will be labelled" in str(failures[number])
    answered = {str(n): call.result() for n, call in calls.items() if n not in stored}
    with serving(store=store) as s, Client(s.address) as client:
        client.jobs.finish("street")
        assert wait(client, "street").done == 24
        found = results(client, "street")
        assert len(found) == 24 and found.items() >= answered.items()
        again = {n: client.label(images[n], name=str(n), keep="street") for n in stored}
        assert again == {n: found[str(n)] for n in stored}
        assert s.proposer.seen and len(s.proposer.seen) == 8


def test_every_kept_image_counts(store):
    with serving(store=store) as s, Client(s.address) as client:
        client.label(png(), keep="street")
        counted = s.metrics.registry.get_sample_value
        assert counted("secondlook_judgements_total", {"outcome": "accept"}) == 1
        assert counted("secondlook_batch_size_count", {"stage": "propose"}) == 1
