"""TLS, tokens and roles: who is let in, who is not, and what becomes of those who were."""

import json
import logging
import ssl
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from certificates import Authority, authority
from door_callers import bearer, callers, calls_of_everybody, methods, outcome, token
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving import Serving, png, server_settings, serving, wait_until

from secondlook.core.access import Role, new_secret
from secondlook.server.app import SERVICES
from secondlook.store import Store, open_store
from secondlook_client import AsyncClient, Client, RetryPolicy
from secondlook_client.errors import (
    BadSetting,
    Busy,
    NotAllowed,
    NotAuthenticated,
    SecondlookError,
    Unavailable,
)
from secondlook_client.v1 import access_pb2 as pb
from secondlook_client.v1 import datasets_pb2

AT_ONCE = RetryPolicy(unavailable_s=0)
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store; the databases are tested elsewhere."""
    with open_store(tmp_path / "data") as opened:
        yield opened


# --- The intruder: every method, every role, every kind of token ---


def test_every_call_of_everybody_ends_as_the_protos_declare(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.server.auth.ATTEMPTS", 10**6)
    people = callers(store)
    wrong: list[object] = []
    count = 0
    with serving(store=store) as s, grpc.insecure_channel(s.address) as channel:
        for called in calls_of_everybody(channel, people):
            count += 1
            if not called.as_declared:
                wrong.append(called)
        for caller in people:
            reads = caller.roles and pb.ROLE_DEVICE not in caller.roles
            denied = "PERMISSION_DENIED" if caller.roles else "UNAUTHENTICATED"
            got = outcome(channel, REFLECTION, b"", caller.secret)
            if got != ("in" if reads else denied):
                wrong.append((REFLECTION, caller.who, got))
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == 1  # without any token
    assert wrong == []
    assert count == len(people) * len(list(methods())) > 500


def test_only_what_is_of_no_device_has_no_field_that_binds_it() -> None:
    """A method for devices without such a field would be open to all of them."""
    free = {
        path.rpartition("/")[2]
        for path, access, request in methods()
        if pb.ROLE_DEVICE in access.roles
        and not any(
            field.GetOptions().Extensions[pb.scope]
            for message in (
                request.DESCRIPTOR,
                *(f.message_type for f in request.DESCRIPTOR.fields if f.message_type),
            )
            for field in message.fields
        )
    }
    assert free == {"GetServerInfo"}  # versions, names of models, classes, limits


# --- Tokens ---


def test_without_a_token_in_the_store_nobody_is_asked_and_from_the_first_on_everybody(
    store: Store,
) -> None:
    with serving(store=store) as s, Client(s.address, token=new_secret()) as client:
        assert client.info().version
        stream = client.stream()
        stream.send(png())
        wait_until(lambda: bool(list(stream.ready())))
        secret = token(store, "eva", Role.LABELER)
        with pytest.raises(NotAuthenticated, match="not one of this server's"):
            client.info()
        with pytest.raises(NotAuthenticated, match="wants a token since"):
            list(stream)
        with Client(s.address, token=secret) as eva:
            assert eva.label(png(), keep="street").labels
        # Programs of the server's own user, such as trainings, have a socket of their own.
        store.tokens.revoke("eva")
        with Client(s.address, token=secret) as eva, pytest.raises(NotAuthenticated, match="revok"):
            eva.info()


def test_a_token_revoked_by_another_process_ends_open_streams_within_two_seconds(
    store: Store, tmp_path: Path
) -> None:
    secret = token(store, "gate-3", Role.DEVICE)
    with serving(store=store) as s, Client(s.address, token=secret) as device:
        live = device.stream(stream_id="gate-3")
        live.send(png())
        wait_until(lambda: bool(list(live.ready())))
        with device.capture("gate-3", spool=tmp_path / "spool") as capture:
            capture.send(png())
            capture.flush(timeout_s=10)
            with open_store(tmp_path / "data") as elsewhere:
                elsewhere.tokens.revoke("gate-3")
            revoked = time.monotonic()
            with pytest.raises(NotAuthenticated, match="ended while the call was open"):
                list(live)
            assert time.monotonic() - revoked < 2.2  # 2 s, and the time of this test
            capture.send(png(shade=9))
            wait_until(lambda: isinstance(capture.state.problem, NotAuthenticated))
            assert capture.state.pending == 1  # nothing is lost; the device tries on
    [row] = store.tokens.all()
    assert row.used_at and row.ended(time.time()) == "revoked"


async def _info(address: str, secret: str) -> str:
    async with AsyncClient(address, token=secret) as client:
        label = await client.label(png())
        return label.proposer


def test_the_asynchronous_client_and_the_datasets_send_the_token_too(store: Store) -> None:
    import asyncio

    from secondlook_client.dataset import SnapshotDataset
    from secondlook_client.errors import NotFound

    secret = token(store, "lab", Role.LABELER)
    with serving(store=store) as s:
        assert asyncio.run(_info(s.address, secret))
        with pytest.raises(NotFound):  # and not NotAuthenticated
            SnapshotDataset(s.address, "none", token=secret)
        with pytest.raises(NotAuthenticated):
            SnapshotDataset(s.address, "none")


def test_guessing_is_slowed_down_and_disturbs_nobody_else(store: Store) -> None:
    secret = token(store, "eva", Role.VIEWER)
    with serving(store=store) as s, grpc.insecure_channel(s.address) as channel:
        info = channel.unary_unary("/secondlook.v1.LabelingService/GetServerInfo")
        codes = []
        for _ in range(14):
            with pytest.raises(grpc.RpcError) as refused:
                info(b"", metadata=(("authorization", f"Bearer {new_secret()}"),), timeout=5)
            codes.append(refused.value.code().name)
        assert codes[:10] == ["UNAUTHENTICATED"] * 10
        assert "RESOURCE_EXHAUSTED" in codes[10:]
        assert info(b"", metadata=(("authorization", f"bearer {secret}"),), timeout=5)
        two = (("authorization", f"Bearer {secret}"),) * 2
        with pytest.raises(grpc.RpcError):
            info(b"", metadata=two, timeout=5)


# --- The audit log, and secrets ---


def test_the_audit_log_says_who_changed_what_and_no_log_has_a_secret(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "audit.log"
    secrets = [token(store, "lab", Role.LABELER), token(store, "gate-3", Role.DEVICE)]
    secrets.append(new_secret())
    with serving(store=store, options=server_settings(audit_log=str(file))) as s:
        with Client(s.address, token=secrets[0]) as lab:
            lab.label(png())  # changes nothing
            lab.label(png(), keep="street")
            lab.jobs.get("street")
            with pytest.raises(NotAllowed, match=r"labeler, and PromoteModel needs trainer"):
                lab.models.promote("street", 1)
        with Client(s.address, token=secrets[1]) as device:
            device.info()
            with pytest.raises(NotAllowed, match="models do not include 'other'"):
                device.models.current("other")
            with pytest.raises(NotAllowed, match="name one"):
                list(device.models.list())
        with Client(s.address, token=secrets[2]) as stranger, pytest.raises(NotAuthenticated):
            stranger.info()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    told = [(line["who"], line["roles"], line["method"], line["result"]) for line in lines]
    assert told == [
        ("lab", "labeler", "Label", "OK"),
        ("lab", "labeler", "PromoteModel", "PERMISSION_DENIED"),
        ("gate-3", "device", "GetModel", "PERMISSION_DENIED"),
        ("gate-3", "device", "ListModels", "PERMISSION_DENIED"),
        ("", "", "GetServerInfo", "UNAUTHENTICATED"),
    ]
    assert {line["address"] for line in lines} == {"127.0.0.1"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "'who': 'lab'" in str([vars(record) for record in caplog.records])
    everything = file.read_text() + caplog.text + str([vars(r) for r in caplog.records])
    assert not [secret for secret in secrets if secret[4:] in everything]


# --- TLS ---


def tls(folder: Path, by: Authority | None = None, **more: object) -> dict[str, object]:
    """Settings with a new certificate of ``localhost``."""
    cert, key = (by or authority()).certify("server").write(folder, "server")
    return {"tls_cert": cert, "tls_key": key, **more}


def ca_file(folder: Path, by: Authority | None = None) -> str:
    path = folder / "ca.crt"
    path.write_bytes((by or authority()).certificate)
    return str(path)


@contextmanager
def stranger(address: str, **access: object) -> Iterator[Client]:
    with Client(address, retry=AT_ONCE, **access) as client:  # type: ignore[arg-type]
        yield client


def test_a_certificate_is_replaced_while_a_stream_goes_on(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = authority(), Authority("the next one")
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    old_ca, new_ca = ca_file(old), ca_file(new, after)
    secret = token(store, "lab", Role.LABELER)
    options = server_settings(**tls(tmp_path, before))
    with (
        serving(store=store, options=options) as s,
        Client(f"tls://{s.address}", ca=old_ca, token=secret) as client,
    ):
        stream = client.stream()

        def answered(shade: int) -> bool:
            stream.send(png(shade=shade), key=shade)
            wait_until(lambda: any(found.result for found in stream.ready()))
            return True

        assert answered(1)
        (tmp_path / "server.crt").write_bytes(after.certify("x").certificate)  # half of a pair
        with stranger(f"tls://{s.address}", ca=old_ca, token=secret) as late:
            assert late.info().version  # the pair of before stays in use
        assert "was not reloaded" in caplog.text
        tls(tmp_path, after)
        with stranger(s.address, ca=new_ca, token=secret) as fresh:
            assert fresh.info().version
        with (
            stranger(s.address, ca=old_ca, token=secret) as late,
            pytest.raises(Unavailable, match="no TLS connection"),
        ):
            late.info()
        assert answered(2)  # on the connection of before
        stream.close()
        with stranger(s.server.own_address) as own:  # trainings that this server starts
            assert own.info().version
        forwarded = (("secondlook-forwarded", "10.0.0.7"),)  # what it passes on for others
        for metadata, code in ((forwarded, "UNAUTHENTICATED"), (bearer(secret) + forwarded, "OK")):
            with grpc.insecure_channel(s.server.own_address) as channel:
                info = channel.unary_unary("/secondlook.v1.LabelingService/GetServerInfo")
                assert info.future(b"", metadata=metadata).code().name == code


def test_with_mutual_tls_a_stranger_cannot_even_connect(store: Store, tmp_path: Path) -> None:
    ca = ca_file(tmp_path)
    secret = token(store, "lab", Role.LABELER)
    mine = authority().certify("lab").write(tmp_path, "lab")
    theirs = Authority("somebody else").certify("lab").write(tmp_path, "else")
    with serving(store=store, options=server_settings(**tls(tmp_path, tls_client_ca=ca))) as s:
        with stranger(s.address, ca=ca, token=secret, cert=mine[0], key=mine[1]) as client:
            assert client.label(png()).labels
        for cert, key in (("", ""), theirs):
            other = stranger(s.address, ca=ca, token=secret, cert=cert, key=key)
            with other as client, pytest.raises(Unavailable):
                client.info()
        with stranger(s.address) as plain, pytest.raises(Unavailable):
            plain.info()


def test_metrics_beyond_this_machine_take_tls_and_a_token(store: Store, tmp_path: Path) -> None:
    ca, secret = ca_file(tmp_path), token(store, "prometheus", Role.VIEWER)
    device = token(store, "gate-3", Role.DEVICE)
    options = server_settings(metrics_port=0, metrics_host="0.0.0.0", **tls(tmp_path))
    context = ssl.create_default_context(cafile=ca)

    def scrape(scheme: str, header: str, port: int | None) -> int:
        request = urllib.request.Request(
            f"{scheme}://127.0.0.1:{port}/metrics", headers={"Authorization": header}
        )
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                assert b"secondlook_calls" in answer.read()
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            assert b"secondlook_calls" not in refused.read()
            return refused.code
        except OSError:
            return 0

    with serving(store=store, options=options) as s:
        port = s.server.metrics_port
        assert scrape("https", f"Bearer {secret}", port) == 200
        assert scrape("https", f"Bearer {new_secret()}", port) == 401
        assert scrape("https", f"Bearer {device}", port) == 403
        assert scrape("http", f"Bearer {secret}", port) == 0


# --- The bind ---


@pytest.mark.parametrize("open_to", ["host", "metrics_host"])
def test_a_network_is_let_in_with_tls_and_tokens_only(
    open_to: str, store: Store, tmp_path: Path
) -> None:
    opened = {open_to: "0.0.0.0", "metrics_port": 0}
    encrypted = tls(tmp_path)

    def starts(*, with_store: bool = True, **options: object) -> Serving:
        settings = server_settings(**opened, **options)
        with serving(options=settings, store=store if with_store else None) as s:
            return s

    with pytest.raises(BadSetting, match=r"takes TLS \(.*\) and a token in the store .*--insecure"):
        starts()
    with pytest.raises(BadSetting, match="takes a token in the store"):
        starts(**encrypted)
    assert starts(insecure=True, with_store=False)
    token(store, "eva", Role.VIEWER)
    with pytest.raises(BadSetting, match=r"takes TLS \("):
        starts()
    with pytest.raises(BadSetting, match="takes a token"):
        starts(**encrypted, with_store=False)
    assert starts(**encrypted)


def test_a_token_is_not_sent_to_another_machine_unencrypted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = new_secret()
    file = tmp_path / "secret"
    file.write_text(f"{secret}\n")
    for no_token in ("slt_a\nb", "slt a", "ключ"):
        with pytest.raises(BadSetting, match="is no token") as refused:
            Client("127.0.0.1:1", token=no_token)
        assert no_token not in str(refused.value)
    for variable, value in (("SECONDLOOK_TOKEN", secret), ("SECONDLOOK_TOKEN_FILE", str(file))):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with pytest.raises(BadSetting, match=r"labels\.lan:50051 unencrypted") as refused:
                Client("labels.lan:50051")
            assert secret not in str(refused.value)
            Client("tls://labels.lan:50051").close()
            Client("labels.lan:50051", plain_token=True).close()
            for here in ("127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/nowhere"):
                Client(here).close()


def test_a_busy_door_says_when_to_come_back() -> None:
    from secondlook.server.auth import ATTEMPTS, FailedAttempts, network_of

    now = [0.0]
    attempts = FailedAttempts(lambda: now[0])
    for _ in range(ATTEMPTS):
        attempts.count("2001:db8::1")
    with pytest.raises(Busy) as full:
        attempts.count("2001:db8::2")  # of the same customer
    assert full.value.retry_after_s == 1.0
    attempts.count("10.0.0.1")
    now[0] = 1.0
    attempts.count("2001:db8::1")
    assert network_of("2001:db8:0:1::5") == "2001:db8:0:1::" and network_of("::1") == "::1"


def test_a_method_without_a_role_stops_the_server_from_starting() -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool

    from secondlook.server.method_access import declared_access

    file = descriptor_pb2.FileDescriptorProto(name="doors_test.proto", package="doors.test")
    file.dependency.append(datasets_pb2.DESCRIPTOR.name)
    method = file.service.add(name="Forgotten").method.add(name="Copy")
    method.input_type = method.output_type = ".secondlook.v1.GetSnapshotRequest"
    descriptor_pool.Default().Add(file)
    with pytest.raises(SecondlookError, match=r"doors\.test\.Forgotten\.Copy declares no role"):
        declared_access([*SERVICES, "doors.test.Forgotten"])
