"""``Label`` and ``GetServerInfo`` over a real socket, through both clients."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from fakes import ScriptedProposer, ScriptedVerifier
from serving import DOG, png, serving

from secondlook.engine import Engine, EngineLimits
from secondlook.errors import BadSetting, Unavailable
from secondlook.images import ImageLimits
from secondlook.ontology import ClassSpec as ServiceClass
from secondlook.ontology import Ontology
from secondlook.server.app import CALLS_BESIDES, ServerOptions, running_server
from secondlook_client import AsyncClient, ClassSpec, Client, Outcome, RetryPolicy, errors
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc

ONE_TRY = RetryPolicy(unavailable_s=0)


def test_a_picture_is_labelled_with_every_score():
    with serving(verifier=ScriptedVerifier(0.8)) as s, Client(s.address) as client:
        result = client.label(png(), name="a/b.png")
        (label,) = result.labels
        assert (result.name, result.width, result.height, result.proposals) == (
            "a/b.png",
            40,
            30,
            1,
        )
        assert label.class_name == "dog" and label.box == (10, 7.5, 30, 22.5)
        assert label.score == pytest.approx(0.9) and label.p_yes == 0.8 == label.probability
        assert (label.question, label.view, label.verifier) == (
            "Is this a dog?",
            "crop",
            "scripted@v0",
        )
        assert result.proposer == "scripted@p0" and len(result.sha256) == 64
        assert {"decode", "propose", "verify", "total"} <= set(result.timings_ms)


def test_detail_labels_leaves_out_what_was_not_accepted():
    with serving(verifier=ScriptedVerifier(0.1)) as s, Client(s.address) as client:
        assert client.label(png(), detail="labels").judgements == ()
        (rejected,) = client.label(png()).judgements
        assert rejected.outcome is Outcome.REJECT


def test_a_request_brings_its_own_ontology_with_all_its_fields():
    verifier = ScriptedVerifier({"On?": 0.5, "Off?": 0.95})
    pair = [
        ClassSpec("on", ["lamp", "light"], "On?", "context", "lamp", 0.3, accept=0.45, reject=0.2),
        ClassSpec("off", ["lamp"], "Off?", "image", "lamp"),
    ]
    with serving(verifier=verifier, ontology=None) as s, Client(s.address) as client:
        on, off = client.label(png(), classes=pair).judgements
        assert (on.view, off.view) == ("context", "image")
        assert on.outcome is Outcome.UNSURE and "contradict" in on.reason  # 0.5 passes accept=0.45
        assert client.label(png(), classes=["lamp"], detail="labels").judgements == ()


def test_a_path_is_read_here_and_a_missing_one_is_told(tmp_path):
    (tmp_path / "x.png").write_bytes(png())
    with serving() as s, Client(s.address) as client:
        assert client.label(tmp_path / "x.png").name == "x.png"
        with pytest.raises(errors.UnreadableFile, match="No such file") as caught:
            client.label(str(tmp_path / "y.png"))
        assert caught.value.reason == "unreadable_file"


def test_any_file_name_and_any_kind_of_bytes_can_be_sent(tmp_path):
    path = tmp_path / "d\udce9j\u00e0.png"  # a byte that is no UTF-8, as Python spells it
    path.write_bytes(png())
    with serving() as s, Client(s.address) as client:
        assert client.label(path).name == "d?jà.png"
        ((key, answer),) = client.label_many([(path, path)])
        assert key is path and answer.labels
        assert client.label(bytearray(png())).labels and client.label(memoryview(png())).labels


def test_info_tells_what_runs():
    with serving() as s, Client(s.address) as client:
        info = client.info()
        assert (info.proposer, info.verifier, info.classes) == (
            "scripted@p0",
            "scripted@v0",
            ("dog",),
        )
        assert info.max_message_bytes == ServerOptions().max_message_bytes
        assert info.max_pictures == 64


BAD = [
    (b"", {}, errors.BadImage, "bad_image", "empty"),
    (b"no picture", {}, errors.BadImage, "bad_image", "no picture"),
    (png()[:50], {}, errors.BadImage, "bad_image", "truncated"),
    (png(300, 10), {}, errors.ImageTooLarge, "image_too_large", "300"),
    (png(), {"classes": []}, errors.BadOntology, "bad_ontology", "no class"),
    (png(), {"classes": ["a.b"]}, errors.BadOntology, "bad_ontology", "phrase"),
    (png(), {"classes": ["a", "A"]}, errors.BadOntology, "bad_ontology", "twice"),
    (png(), {"classes": [ClassSpec("a", accept=2)]}, errors.BadOntology, "bad_ontology", "accept"),
    (png(), {"classes": [ClassSpec("a", view="x")]}, errors.BadOntology, "bad_ontology", "view"),
    (png(), {"classes": "dog"}, errors.BadOntology, "bad_ontology", "list"),
    (png(), {"name": "n" * 5000}, errors.InvalidRequest, "bad_request", "4,096"),
    (png(), {"detail": "some"}, errors.InvalidRequest, "invalid_request", "all"),
]


@pytest.mark.parametrize(("image", "arguments", "kind", "reason", "says"), BAD)
def test_bad_input_is_refused_by_name_and_nothing_else_is_lost(
    image, arguments, kind, reason, says
):
    options = ServerOptions(image_limits=ImageLimits(max_side=200))
    with serving(options=options) as s, Client(s.address) as client:
        with pytest.raises(kind, match=says) as caught:
            client.label(image, **arguments)
        assert caught.value.reason == reason
        assert s.proposer.batches == []
        assert client.label(png()).labels


def test_no_ontology_anywhere_is_told():
    with serving(ontology=None) as s, Client(s.address) as client:
        with pytest.raises(errors.BadOntology, match="send the classes"):
            client.label(png())
        assert client.info().classes is None


def test_a_phrase_that_the_model_refuses_fails_its_own_request_only():
    def script(image, phrases):
        if "long" in phrases:
            from secondlook.errors import BadOntology

            raise BadOntology("the phrase has 300 tokens; at most 254")
        return [((0, 0, 10, 10), dict.fromkeys(phrases, 0.9))]

    limits = EngineLimits(max_wait_s=0.2)
    with serving(ScriptedProposer(script), limits=limits) as s, Client(s.address) as client:
        items = [(name, png()) for name in "ab"]
        with ThreadPoolExecutor(2) as pool:
            bad = pool.submit(client.label, png(), classes=["long"])
            good = dict(client.label_many(items))
            assert isinstance(bad.exception(), errors.BadOntology)
        assert all(result.labels for result in good.values())


def test_an_unknown_fault_is_answered_with_a_fixed_sentence(caplog):
    def script(image, phrases):
        raise RuntimeError("/secret/path exploded")

    with serving(ScriptedProposer(script)) as s, Client(s.address) as client:
        with pytest.raises(errors.ServerFailure) as caught:
            client.label(png())
        assert caught.value.reason == "internal"
        message = str(caught.value)
        assert "secret" not in message and "Traceback" not in message
        request_id = message.split()[-1]
        logged = [r for r in caplog.records if getattr(r, "request_id", "") == request_id]
        assert any(r.exc_info and "exploded" in str(r.exc_info[1]) for r in logged)


def test_an_unavailable_model_is_told_as_such_after_tries():
    def script(image, phrases):
        raise Unavailable("the model's server does not answer; start it")

    with (
        serving(ScriptedProposer(script)) as s,
        Client(s.address, retry=RetryPolicy(first_s=0.01, unavailable_s=0.1)) as client,
    ):
        with pytest.raises(errors.Unavailable, match="start it") as caught:
            client.label(png())
        assert caught.value.reason == "unavailable"
        assert len(s.proposer.batches) > 1


def test_a_message_over_the_limit_is_told_in_words_and_not_retried():
    options = ServerOptions(image_limits=ImageLimits(max_bytes=1000))
    with serving(options=options) as s, Client(s.address) as client:
        with pytest.raises(errors.ImageTooLarge, match="1,000"):
            client.label(b"x" * 2000)
        started = time.monotonic()
        with pytest.raises(errors.MessageTooLarge, match="max_image_bytes") as caught:
            client.label(b"x" * (options.max_message_bytes + 1))
        assert caught.value.reason == "message_too_large"
        assert time.monotonic() - started < 5


def test_a_deadline_that_passes_in_the_queue_computes_nothing():
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)
    limits = EngineLimits(propose_batch=1)
    with serving(proposer, limits=limits) as s, Client(s.address) as client:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(client.label, png(), name="first")
            assert proposer.started.wait(10)
            with pytest.raises(errors.DeadlineExceeded, match="timeout_s"):
                client.label(png(), name="late", timeout_s=0.3)
            gate.set()
            assert first.result().labels
        assert client.label(png(), name="after").labels
        assert proposer.seen == ["first", "after"]


def test_the_engine_hears_of_the_callers_deadline(monkeypatch):
    heard = []
    submit = Engine.submit

    def listen(self, task, deadline=None):
        heard.append(deadline)
        return submit(self, task, deadline)

    monkeypatch.setattr(Engine, "submit", listen)
    with serving() as s, Client(s.address) as client:
        client.label(png(), timeout_s=7)
    assert heard[0] == pytest.approx(time.monotonic() + 7, abs=5)


def test_a_cancelled_call_is_not_computed():
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)
    with (
        serving(proposer, limits=EngineLimits(propose_batch=1)) as s,
        grpc.insecure_channel(s.address) as channel,
        Client(s.address) as client,
    ):
        stub = labeling_pb2_grpc.LabelingServiceStub(channel)
        running = stub.Label.future(pb.LabelRequest(image=png(), name="running"))
        assert proposer.started.wait(10)
        gone = stub.Label.future(pb.LabelRequest(image=png(), name="gone"))
        _until(lambda: s.engine.depth() == 2)
        gone.cancel()
        _until(lambda: s.engine.depth() == 1)
        gate.set()
        assert running.result(timeout=10).labelled.judgements
        assert client.label(png(), name="after").labels
        assert "gone" not in proposer.seen


def test_a_full_server_says_when_to_come_back_and_the_client_does():
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)
    limits = EngineLimits(propose_batch=1, max_pictures=2)
    with (
        serving(proposer, limits=limits) as s,
        Client(s.address) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        first = [pool.submit(client.label, png()) for _ in range(2)]
        _until(lambda: s.engine.depth() == 2)
        status, trailing = _refusal(s.address)
        assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert trailing["secondlook-reason"] == "busy"
        assert int(trailing["secondlook-retry-after-ms"]) > 0
        with pytest.raises(errors.Busy) as caught:
            client.label(png(), timeout_s=0.1)
        assert caught.value.retry_after_s and caught.value.retry_after_s > 0
        later = [pool.submit(client.label, png()) for _ in range(2)]
        time.sleep(0.1)
        gate.set()
        assert all(call.result(timeout=20).labels for call in first + later)


def test_requests_that_never_arrive_whole_cannot_take_all_memory():
    never = threading.Event()

    def nothing():
        never.wait(30)
        yield from ()

    limits = EngineLimits(max_pictures=1)
    with serving(limits=limits) as s, grpc.insecure_channel(s.address) as channel:
        upload = channel.stream_unary("/secondlook.v1.LabelingService/Label")
        uploads = [upload.future(nothing()) for _ in range(limits.max_pictures * 2 + CALLS_BESIDES)]
        with Client(s.address, retry=RetryPolicy(longest_s=0.1)) as client:
            with pytest.raises(errors.Busy):
                for _ in range(100):  # gRPC counts a call a moment after it was made
                    client.label(png(), timeout_s=0.3)
                    time.sleep(0.05)
            never.set()
            for call in uploads:
                call.cancel()
            assert client.label(png()).labels


def _refusal(address):
    with grpc.insecure_channel(address) as channel:
        stub = labeling_pb2_grpc.LabelingServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Label(pb.LabelRequest(image=png()), timeout=5)
    return caught.value.code(), dict(caught.value.trailing_metadata())


def test_sixteen_clients_share_batches():
    limits = EngineLimits(max_wait_s=0.01)
    with serving(ScriptedProposer(delay_s=0.02), limits=limits) as s:

        def one_client(number):
            with Client(s.address) as client:
                return [client.label(png(), name=f"{number}-{i}").name for i in range(4)]

        with ThreadPoolExecutor(16) as pool:
            names = [name for names in pool.map(one_client, range(16)) for name in names]
        assert sorted(names) == sorted(f"{n}-{i}" for n in range(16) for i in range(4))
        assert sum(s.proposer.batches) == 64
        assert max(s.proposer.batches) > 1 and len(s.proposer.batches) < 40


def test_label_many_answers_every_key_once_and_reads_no_further_than_it_must():
    taken = []

    def items():
        for i in range(60):
            taken.append(i)
            yield i, (b"broken" if i % 10 == 3 else png(shade=i))

    with serving(ScriptedProposer(delay_s=0.01)) as s, Client(s.address) as client:
        found = {}
        ahead = 0
        for key, answer in client.label_many(items(), concurrency=8, name=str):
            assert key not in found
            found[key] = answer
            ahead = max(ahead, len(taken) - len(found))
        assert sorted(found) == list(range(60))
        assert ahead <= 8
        for key, answer in found.items():
            if key % 10 == 3:
                assert isinstance(answer, errors.BadImage)
            else:
                assert answer.name == str(key)


def test_label_many_retries_a_busy_server_and_loses_nothing():
    limits = EngineLimits(max_pictures=2)
    with (
        serving(ScriptedProposer(delay_s=0.005), limits=limits) as s,
        Client(s.address, retry=RetryPolicy(first_s=0.01)) as client,
    ):
        found = dict(client.label_many(((i, png()) for i in range(30)), concurrency=12))
        assert len(found) == 30 and all(answer.labels for answer in found.values())


def test_leaving_label_many_early_cancels_what_is_under_way():
    proposer = ScriptedProposer(delay_s=0.05)
    limits = EngineLimits(propose_batch=1)
    with serving(proposer, limits=limits) as s, Client(s.address) as client:
        for _ in client.label_many(((i, png()) for i in range(100)), concurrency=16):
            break
        _until(lambda: s.engine.depth() == 0)
        assert sum(proposer.batches) < 10


def test_the_async_client_does_the_same():
    async def main(address, folder):
        async with AsyncClient(address) as client:
            assert (await client.info()).classes == ("dog",)
            assert (await client.label(folder / "x.png")).name == "x.png"
            with pytest.raises(errors.BadImage):
                await client.label(b"nothing")
            items = ((i, b"broken" if i == 3 else png()) for i in range(20))
            found = {key: answer async for key, answer in client.label_many(items, concurrency=4)}
            assert sorted(found) == list(range(20))
            assert isinstance(found.pop(3), errors.BadImage)
            assert all(answer.labels for answer in found.values())

    import tempfile
    from pathlib import Path

    with serving() as s, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.png").write_bytes(png())
        asyncio.run(main(s.address, Path(folder)))


def test_no_server_is_told_with_the_way_out():
    with Client("127.0.0.1:1", retry=ONE_TRY) as client:
        with pytest.raises(errors.Unavailable, match="secondlook serve") as caught:
            client.label(png())
        assert caught.value.reason == "unavailable"


def test_a_port_in_use_is_told_and_the_first_server_goes_on():
    with serving() as s:
        port = int(s.address.rsplit(":", 1)[1])
        for options, says in (
            (ServerOptions(port=port), "in use"),
            (ServerOptions(host="192.0.2.1"), "cannot listen"),
        ):
            refused = running_server(s.engine, DOG, options)
            with pytest.raises(BadSetting, match=says):
                refused.__enter__()
        with Client(s.address) as client:
            assert client.label(png()).labels


def test_repeated_ontologies_are_built_once():
    from secondlook.server.convert import Ontologies, ontology_message

    ontologies = Ontologies(DOG, size=2)
    request = pb.LabelRequest(ontology=ontology_message(DOG))
    first = ontologies.of(request)
    assert first == DOG and ontologies.of(request) is first
    for name in "abc":
        ontologies.of(pb.LabelRequest(ontology=ontology_message(Ontology((ServiceClass(name),)))))
    assert ontologies.of(request) is not first


def _until(condition, seconds=10.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.005)
