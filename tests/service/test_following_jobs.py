"""Results and news of jobs, told as they come."""

import threading
import time

from fakes import ScriptedProposer
from job_client import send, wait
from serving import serving

from secondlook.server import jobs
from secondlook_client import Client, RetryPolicy, errors


def test_results_go_on_behind_a_cursor(served):
    _, client = served
    client.jobs.create("cursor")
    send(client, "cursor", 10)
    client.jobs.finish("cursor")
    wait(client, "cursor")
    every = list(client.jobs.results("cursor"))
    assert [r.cursor for r in every] == sorted(r.cursor for r in every)
    rest = list(client.jobs.results("cursor", after=every[5].cursor))
    assert [r.cursor for r in rest] == [r.cursor for r in every[6:]]
    labels = list(client.jobs.results("cursor", detail="labels"))
    assert all(r.result.judgements == r.result.labels for r in labels)


def test_followed_results_come_as_they_are_made(store):
    gate = threading.Event()
    with serving(ScriptedProposer(gate=gate), store=store) as s, Client(s.address) as client:
        client.jobs.create("live")
        send(client, "live", 1)
        followed = client.jobs.results("live", follow=True)
        threading.Timer(0.2, gate.set).start()
        assert next(followed).key == 0
        send(client, "live", 1, start=1)
        client.jobs.finish("live")
        assert [one.key for one in followed] == [1]


def test_news_tell_pace_and_time_left(store):
    with (
        serving(ScriptedProposer(delay_s=0.1), store=store) as s,
        Client(s.address) as client,
    ):
        client.jobs.create("pace")
        send(client, "pace", 80)
        client.jobs.finish("pace")
        news = list(client.jobs.watch("pace"))
        assert news[-1].job.state == "done"
        timed = [n for n in news if n.seconds_left is not None]
        assert timed and all(n.images_per_second > 0 for n in timed)
        assert [n.job.done for n in news] == sorted(n.job.done for n in news)


def test_a_watcher_of_a_quiet_job_hears_that_the_line_stands(served, monkeypatch):
    monkeypatch.setattr(jobs, "HEARTBEAT_S", 0.2)
    _, client = served
    client.jobs.create("quiet")
    watched = client.jobs.watch("quiet")
    next(watched)
    started = time.monotonic()
    next(watched)
    assert 0.1 < time.monotonic() - started < 3
    watched.close()


def test_a_stop_ends_those_who_follow(store):
    with serving(store=store) as s:
        client = Client(s.address, retry=RetryPolicy(unavailable_s=0))
        client.jobs.create("open")
        watched, followed = client.jobs.watch("open"), client.jobs.results("open", follow=True)
        next(watched)
        ended: list[Exception] = []

        def follow(stream: object) -> None:
            try:
                list(stream)  # type: ignore[call-overload]
            except errors.SecondlookError as failure:
                ended.append(failure)

        threads = [threading.Thread(target=follow, args=(x,)) for x in (watched, followed)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join(10)
    client.close()
    assert [type(failure) for failure in ended] == [errors.ShuttingDown] * 2
