"""What one client may have of a server, and that others have theirs meanwhile."""

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Event

import grpc
import pytest
from door_callers import token
from prometheus_client import generate_latest
from serving import Serving, png, server_settings, serving, wait_until

from secondlook.core.access import Role, TokenAccess
from secondlook.store import Store, open_store
from secondlook_client import Client, RetryPolicy
from secondlook_client.errors import Busy, StorageFull
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc

NO_RETRY = RetryPolicy(unavailable_s=0)
CONNECTIONS = 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with open_store(tmp_path_factory.mktemp("limits")) as opened:
        yield opened


@pytest.fixture(scope="module")
def limited(store: Store) -> Iterator[Serving]:
    """A server where a client has few of everything."""
    options = server_settings(
        client_images_per_minute=12,
        client_streams=1,
        client_stored_bytes=80,
        client_connections=CONNECTIONS,
        client_verifier_s_per_day=86_400,
    )
    with serving(store=store, options=options) as s:
        yield s


def client_of(s: Serving, store: Store, name: str) -> Client:
    return Client(s.address, token=token(store, name, Role.LABELER), retry=NO_RETRY)


def test_who_sends_too_many_images_is_told_when_to_come_back_and_others_go_on(
    limited: Serving, store: Store
) -> None:
    with client_of(limited, store, "eva") as eva, client_of(limited, store, "tom") as tom:
        eva.label(png())
        eva.label(png())
        with pytest.raises(Busy, match=r"client \(token eva\) sends images faster") as refused:
            eva.label(png(), timeout_s=2)  # which is less than the hint
        assert 2 < (refused.value.retry_after_s or 0) <= 5.0
        tom.label(png())
    told = generate_latest(limited.metrics.registry).decode()
    assert 'secondlook_limited_total{what="client",why="rate"} 1.0' in told
    assert 'secondlook_client_images_total{client="token tom"} 1.0' in told


def test_a_token_may_send_as_much_as_its_own_limit_says(limited: Serving, store: Store) -> None:
    def client(name: str, a_minute: int) -> Client:
        access = TokenAccess(frozenset({Role.LABELER}), limits=(("images_per_minute", a_minute),))
        return Client(limited.address, token=store.tokens.create(name, access), retry=NO_RETRY)

    with client("batch", 0) as batch, client("slow", 1) as slow:
        for _ in range(4):  # the others may send two
            batch.label(png())
        slow.label(png())
        with pytest.raises(Busy, match=r"token slow\) sends images faster"):
            slow.label(png(), timeout_s=2)


def test_a_second_stream_of_one_token_is_refused_and_of_another_is_not(
    limited: Serving, store: Store
) -> None:
    opening = pb.LabelStreamRequest(opening=pb.StreamOpening(mode=pb.STREAM_MODE_LIVE))
    with grpc.insecure_channel(limited.address) as channel, ExitStack() as stack:

        def opened(secret: str) -> str:
            ending = Event()
            stack.callback(ending.set)

            def requests() -> Iterator[pb.LabelStreamRequest]:
                yield opening
                ending.wait(30)

            stub = labeling_pb2_grpc.LabelingServiceStub(channel)
            call = stub.LabelStream(
                requests(), metadata=[("authorization", f"Bearer {secret}")], timeout=30
            )
            stack.callback(call.cancel)  # and it is kept until then
            try:
                return str(next(call).WhichOneof("message"))
            except grpc.RpcError:
                return str(call.code().name)

        mine, other = token(store, "cam", Role.LABELER), token(store, "tim", Role.LABELER)
        assert [opened(mine), opened(mine), opened(other)] == [
            "opened",
            "RESOURCE_EXHAUSTED",
            "opened",
        ]


def test_a_token_stores_so_many_bytes_over_all_its_jobs(limited: Serving, store: Store) -> None:
    with client_of(limited, store, "ann") as ann:
        ann.label(png(), keep="one")
        with pytest.raises(StorageFull, match=r"token ann has stored \d+ bytes .* may 80"):
            ann.label(png(shade=1), keep="two")
        ann.label(png())  # what is not kept


def test_one_address_has_so_many_connections(limited: Serving, store: Store) -> None:
    host, port = limited.address.rsplit(":", 1)
    with client_of(limited, store, "ida") as ida:
        ida.info()
        idle = [socket.create_connection((host, int(port))) for _ in range(3 * CONNECTIONS)]

        def left() -> int:
            for one in idle:
                one.setblocking(False)
            readable, _, _ = select.select(idle, [], [], 0)
            for one in readable:
                try:
                    if not one.recv(4096):  # the server's settings, and then its end
                        idle.remove(one)
                except ConnectionError:
                    idle.remove(one)
            return len(idle)

        wait_until(lambda: left() <= CONNECTIONS)
        assert ida.info().version
        for one in idle:
            one.close()
