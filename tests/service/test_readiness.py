"""Health and metrics tell when the store or the models are away, and when they are back."""

import logging
import shutil
import socket
import time
import urllib.request
from contextlib import ExitStack

import grpc
import pytest
from fakes import ScriptedProposer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from postgres import wait_for_standby
from raw_calls import is_closed
from serving import png, server_settings, serving, wait_until

from secondlook.cli import run
from secondlook.server import health, readiness
from secondlook.server.metrics import SCRAPES
from secondlook.server.readiness import READY, STANDBY, STORE
from secondlook.store import open_store
from secondlook_client import Client, errors

JOBS, LABELING = "secondlook.v1.JobService", "secondlook.v1.LabelingService"


class Health:
    """The health of a server, by name."""

    def __init__(self, channel):
        self._stub = health_pb2_grpc.HealthStub(channel)

    def serving(self, name):
        answer = self._stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        return answer.status == health_pb2.HealthCheckResponse.SERVING


def metrics_of(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=5) as r:
        return r.read().decode()


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(readiness, "PROBE_S", 0.05)
    monkeypatch.setattr(readiness, "PROBE_AWAY_S", 0.05)


def test_a_store_that_goes_away_and_comes_back_shows(tmp_path, soon, caplog):
    caplog.set_level(logging.INFO)
    options = server_settings(metrics_port=0)
    with (
        open_store(tmp_path / "data") as store,
        serving(store=store, options=options) as s,
        grpc.insecure_channel(s.address) as channel,
    ):
        seen = Health(channel)
        assert all(map(seen.serving, ("", READY, STORE, JOBS, LABELING)))
        blobs, elsewhere = tmp_path / "data" / "blobs", tmp_path / "elsewhere"
        shutil.move(blobs, elsewhere)
        wait_until(lambda: not seen.serving(READY))
        assert not any(map(seen.serving, (STORE, JOBS)))
        assert seen.serving("") and seen.serving(LABELING), "it lives, and labels without a store"
        assert 'secondlook_ready{part="store"} 0.0' in metrics_of(s.server)
        shutil.move(elsewhere, blobs)
        wait_until(lambda: seen.serving(READY))
        assert all(map(seen.serving, (STORE, JOBS)))
        assert 'secondlook_ready{part="store"} 1.0' in metrics_of(s.server)
    told = [record.message for record in caplog.records if "the store is" in record.message]
    assert [message.partition(":")[0] for message in told] == [
        "the store is away",
        "the store is back",
    ]


def test_a_store_that_hangs_is_away(tmp_path, soon, monkeypatch):
    monkeypatch.setattr(readiness, "PROBE_TIMEOUT_S", 0.1)
    with (
        open_store(tmp_path / "data") as store,
        serving(store=store) as s,
        grpc.insecure_channel(s.address) as channel,
    ):
        seen, probe = Health(channel), store.probe
        monkeypatch.setattr(store, "probe", lambda: time.sleep(1.0))
        wait_until(lambda: not seen.serving(STORE))
        assert seen.serving("")
        monkeypatch.setattr(store, "probe", probe)
        wait_until(lambda: seen.serving(STORE))


def test_a_standby_that_commits_wait_for_shows(tmp_path, soon, monkeypatch, postgres, capsys):
    monkeypatch.setattr(readiness, "PROBE_TIMEOUT_S", 0.3)
    url = postgres.url(postgres.new_database())
    with (
        open_store(tmp_path / "data", url) as store,
        serving(store=store, options=server_settings(metrics_port=0)) as s,
        grpc.insecure_channel(s.address) as channel,
    ):
        seen = Health(channel)
        wait_until(lambda: seen.serving(READY) and seen.serving(STANDBY))
        wait_for_standby(postgres, "nobody")
        try:
            wait_until(lambda: not seen.serving(STANDBY))
            assert not seen.serving(READY) and seen.serving("")
            assert 'secondlook_ready{part="standby"} 0.0' in metrics_of(s.server)
            assert run(["health", "--server", s.address]) == 1
        finally:
            wait_for_standby(postgres, "")
        told = capsys.readouterr()
        assert told.out == "NOT_SERVING\n"
        assert f"{STANDBY}, {STORE}" in told.err
        wait_until(lambda: seen.serving(READY) and seen.serving(STANDBY))
        assert store.database.waits_for_standby() is False


def test_models_that_fail_show_and_are_tried_again(soon, monkeypatch):
    proposer = ScriptedProposer()
    healthy = proposer.script

    def broken(image, phrases):
        raise RuntimeError("the device is gone")

    with (
        serving(proposer) as s,
        Client(s.address) as client,
        grpc.insecure_channel(s.address) as channel,
    ):
        seen = Health(channel)
        assert seen.serving(READY) and seen.serving(LABELING)
        proposer.script = broken
        for _ in range(health.FAILURES):
            with pytest.raises(errors.ServerFailure):
                client.label(png())
        wait_until(lambda: not seen.serving(READY) and not seen.serving(LABELING))
        assert seen.serving("")
        monkeypatch.setattr(health, "TRY_AGAIN_S", 0.0)
        wait_until(lambda: seen.serving(READY) and seen.serving(LABELING))
        monkeypatch.setattr(health, "TRY_AGAIN_S", 30.0)
        wait_until(lambda: not seen.serving(READY))
        proposer.script = healthy
        assert client.label(png()).labels
        wait_until(lambda: seen.serving(READY))


def test_images_that_cannot_be_labelled_are_not_the_models_fault(soon):
    with (
        serving() as s,
        Client(s.address) as client,
        grpc.insecure_channel(s.address) as channel,
    ):
        for _ in range(2 * health.FAILURES):
            with pytest.raises(errors.BadImage):
                client.label(b"nothing")
        assert not s.server._models_are_away()
        assert Health(channel).serving(READY)


def test_scrapers_that_hang_make_room_for_others():
    with serving(options=server_settings(metrics_port=0)) as s, ExitStack() as stack:
        port = s.server.metrics_port
        hanging = []
        for _ in range(3 * SCRAPES):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(b"GET /met")
            hanging.append(connection)
        assert "secondlook_connections" in metrics_of(s.server)
        wait_until(lambda: sum(map(is_closed, hanging)) >= 2 * SCRAPES)
