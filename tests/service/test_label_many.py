"""Many images at a time, of one client and of many, and more than there is room for."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from fakes import ScriptedProposer
from serving import png, serving, wait_until

from secondlook.config.settings import BatchingSettings
from secondlook_client import AsyncClient, Client, RetryPolicy, errors
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc

ONE_TRY = RetryPolicy(unavailable_s=0)


def test_sixteen_clients_share_batches():
    limits = BatchingSettings(batching_window_ms=10)
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
    limits = BatchingSettings(max_in_flight=2)
    with (
        serving(ScriptedProposer(delay_s=0.005), limits=limits) as s,
        Client(s.address, retry=RetryPolicy(first_s=0.01)) as client,
    ):
        found = dict(client.label_many(((i, png()) for i in range(30)), concurrency=12))
        assert len(found) == 30 and all(answer.labels for answer in found.values())


def test_leaving_label_many_early_cancels_what_is_under_way():
    proposer = ScriptedProposer(delay_s=0.05)
    limits = BatchingSettings(propose_batch=1)
    with serving(proposer, limits=limits) as s, Client(s.address) as client:
        for _ in client.label_many(((i, png()) for i in range(100)), concurrency=16):
            break
        wait_until(lambda: s.engine.depth() == 0)
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


def test_a_full_server_says_when_to_come_back_and_the_client_does():
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)
    limits = BatchingSettings(propose_batch=1, max_in_flight=2)
    with (
        serving(proposer, limits=limits) as s,
        Client(s.address) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        first = [pool.submit(client.label, png()) for _ in range(2)]
        wait_until(lambda: s.engine.depth() == 2)
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


def _refusal(address):
    with grpc.insecure_channel(address) as channel:
        stub = labeling_pb2_grpc.LabelingServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Label(pb.LabelRequest(image=png()), timeout=5)
    return caught.value.code(), dict(caught.value.trailing_metadata())
