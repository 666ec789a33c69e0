"""What comes is begun at once, and what is done is told at once: nobody waits for the next look."""

import time

import pytest
from serving import png, serving

from secondlook.jobs import runner, worker
from secondlook.server import jobs
from secondlook_client import Client, JobState

NEVER_S = 600.0
SOON_S = 30.0


@pytest.fixture
def client(store, monkeypatch):
    """Of a server that never looks for changes by itself."""
    for module, name in (
        (runner, "POLL_S"),
        (worker, "POLL_S"),
        (jobs, "POLL_S"),
    ):
        monkeypatch.setattr(module, name, NEVER_S)
    with serving(store=store) as served, Client(served.address) as client:
        yield client


def upload(client: Client, numbers: range) -> None:
    images = ((number, png(shade=number)) for number in numbers)
    assert len(dict(client.jobs.upload("street", images, number=lambda n: n))) == len(numbers)


def test_a_job_is_begun_gone_on_with_and_told_of_at_once(client):
    began = time.monotonic()
    client.jobs.create("street")
    results = client.jobs.results("street", follow=True)
    upload(client, range(3))
    assert {next(results).key for _ in range(3)} == {0, 1, 2}
    upload(client, range(3, 5))
    assert {next(results).key for _ in range(2)} == {3, 4}
    client.jobs.finish("street")
    assert list(results) == []
    assert client.jobs.get("street").state is JobState.DONE
    assert time.monotonic() - began < SOON_S


def test_news_of_a_job_are_told_at_once(client):
    client.jobs.create("street")
    news = client.jobs.watch("street")
    assert next(news).job.total == 0
    upload(client, range(3))
    client.jobs.finish("street")
    began = time.monotonic()
    assert [told.job for told in news][-1].done == 3
    assert time.monotonic() - began < SOON_S
