"""``Label`` and ``GetServerInfo`` over a real socket, through both clients."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from fakes import ScriptedProposer, ScriptedVerifier
from serving import DOG, png, server_settings, serving, wait_until

from secondlook.config.settings import BatchingSettings, ImageSettings
from secondlook.labeling.engine import Engine
from secondlook.server.app import max_message_bytes, running_server
from secondlook_client import ClassSpec, Client, Outcome, RetryPolicy, errors
from secondlook_client.errors import BadSetting, Unavailable
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc

ONE_TRY = RetryPolicy(unavailable_s=0)


def test_a_image_is_labelled_with_every_score():
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
        assert info.max_message_bytes == max_message_bytes(ImageSettings())
        assert info.max_images == 64


def unchecked(name, **fields):
    """A class as a client without checks of its own would send it."""
    spec = ClassSpec(name)
    for field, value in fields.items():
        object.__setattr__(spec, field, value)
    return spec


BAD = [
    (b"", {}, errors.BadImage, "bad_image", "empty"),
    (b"no image", {}, errors.BadImage, "bad_image", "not an image"),
    (png()[:50], {}, errors.BadImage, "bad_image", "truncated"),
    (png(300, 10), {}, errors.ImageTooLarge, "image_too_large", "300"),
    (png(), {"classes": []}, errors.BadOntology, "bad_ontology", "no class"),
    (png(), {"classes": ["a.b"]}, errors.BadOntology, "bad_ontology", "phrase"),
    (png(), {"classes": ["a", "A"]}, errors.BadOntology, "bad_ontology", "twice"),
    (png(), {"classes": [unchecked("a", accept=2)]}, errors.BadOntology, "bad_ontology", "accept"),
    (png(), {"classes": "dog"}, errors.BadOntology, "bad_ontology", "list"),
    (png(), {"name": "n" * 5000}, errors.InvalidInput, "bad_request", "4,096"),
    (png(), {"detail": "some"}, errors.InvalidInput, "invalid_input", "all"),
]


@pytest.mark.parametrize(("image", "arguments", "kind", "reason", "says"), BAD)
def test_bad_input_is_refused_by_name_and_nothing_else_is_lost(
    image, arguments, kind, reason, says
):
    options = server_settings(max_image_side=200)
    with serving(options=options) as s, Client(s.address) as client:
        with pytest.raises(kind, match=says) as caught:
            client.label(image, **arguments)
        assert caught.value.reason == reason
        assert s.proposer.batches == []
        assert client.label(png()).labels


@pytest.mark.parametrize(("fields", "says"), [({"accept": 2}, "accept"), ({"view": "x"}, "view")])
def test_a_class_that_makes_no_sense_is_refused_before_it_is_sent(fields, says):
    with pytest.raises(errors.BadOntology, match=says) as caught:
        ClassSpec("a", **fields)
    assert caught.value.reason == "bad_ontology"


def test_no_ontology_anywhere_is_told():
    with serving(ontology=None) as s, Client(s.address) as client:
        with pytest.raises(errors.BadOntology, match="send the classes"):
            client.label(png())
        assert client.info().classes is None


def test_a_phrase_that_the_model_refuses_fails_its_own_request_only():
    def script(image, phrases):
        if "long" in phrases:
            from secondlook_client.errors import BadOntology

            raise BadOntology("the phrase has 300 tokens; at most 254")
        return [((0, 0, 10, 10), dict.fromkeys(phrases, 0.9))]

    limits = BatchingSettings(batching_window_ms=200)
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
    options = server_settings(max_image_bytes=1000)
    with serving(options=options) as s, Client(s.address) as client:
        with pytest.raises(errors.ImageTooLarge, match="1,000"):
            client.label(b"x" * 2000)
        started = time.monotonic()
        with pytest.raises(errors.MessageTooLarge, match="max_image_bytes") as caught:
            client.label(b"x" * (max_message_bytes(options.images) + 1))
        assert caught.value.reason == "message_too_large"
        assert time.monotonic() - started < 5


def test_a_deadline_that_passes_in_the_queue_computes_nothing():
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)
    limits = BatchingSettings(propose_batch=1)
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
        serving(proposer, limits=BatchingSettings(propose_batch=1)) as s,
        grpc.insecure_channel(s.address) as channel,
        Client(s.address) as client,
    ):
        stub = labeling_pb2_grpc.LabelingServiceStub(channel)
        running = stub.Label.future(pb.LabelRequest(image=png(), name="running"))
        assert proposer.started.wait(10)
        gone = stub.Label.future(pb.LabelRequest(image=png(), name="gone"))
        wait_until(lambda: s.engine.depth() == 2)
        gone.cancel()
        wait_until(lambda: s.engine.depth() == 1)
        gate.set()
        assert running.result(timeout=10).labelled.judgements
        assert client.label(png(), name="after").labels
        assert "gone" not in proposer.seen


def test_no_server_is_told_with_the_way_out():
    with Client("127.0.0.1:1", retry=ONE_TRY) as client:
        with pytest.raises(errors.Unavailable, match="secondlook serve") as caught:
            client.label(png())
        assert caught.value.reason == "unavailable"


def test_a_port_in_use_is_told_and_the_first_server_goes_on():
    with serving() as s:
        port = int(s.address.rsplit(":", 1)[1])
        for options, says in (
            (server_settings(port=port), "in use"),
            (server_settings(host="192.0.2.1", insecure=True), "cannot listen"),
        ):
            refused = running_server(s.engine, DOG, options)
            with pytest.raises(BadSetting, match=says):
                refused.__enter__()
        with Client(s.address) as client:
            assert client.label(png()).labels


async def _built(ontologies, *requests):
    return [await ontologies.of(request) for request in requests]


def test_repeated_ontologies_are_built_once():
    from secondlook.server.converters import Ontologies
    from secondlook_client.wire import ontology_message

    ontologies = Ontologies(DOG, size=2)
    request = pb.LabelRequest(ontology=ontology_message(DOG.classes))
    others = [pb.LabelRequest(ontology=ontology_message((ClassSpec(name),))) for name in "abc"]
    first, again, *_, later = asyncio.run(_built(ontologies, request, request, *others, request))
    assert first == DOG and again is first and later is not first
