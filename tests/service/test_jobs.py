"""JobService over a loopback server, on both databases: only the models are scripted."""

import asyncio
import threading
from pathlib import Path

import pytest
from fakes import ScriptedProposer
from job_client import numbered, send, wait
from serving import DOG, png, serving

from secondlook.store.runs import create_run
from secondlook_client import AsyncClient, ClassSpec, Client, JobState, errors


def test_an_upload_becomes_results(served):
    _, client = served
    made = client.jobs.create("street", classes=["dog", ClassSpec("cat", threshold=0.5)])
    assert (made.kind, made.state, made.total, made.open) == ("upload", "running", 0, True)
    assert made.classes == ("dog", "cat")
    kept = send(client, "street", 20)
    assert [kept[n].key for n in range(20)] == list(range(20))
    assert not any(one.already for one in kept.values())
    assert client.jobs.finish("street").open is False
    job = wait(client, "street")
    assert (job.state, job.total, job.done, job.failed) == (JobState.DONE, 20, 20, 0)
    assert job.over and job.waiting == 0
    found = {one.key: one for one in client.jobs.results("street")}
    assert sorted(found) == list(range(20))
    sample = found[7].result
    assert [j.class_name for j in sample.judgements] == ["dog", "cat"]
    assert sample.width == 40 and sample.labels[0].p_yes == pytest.approx(1.0)
    assert found[7].label_id(1) == f"{found[7].cursor}.1"


def test_a_image_sent_twice_is_kept_once(served):
    s, client = served
    client.jobs.create("twice")
    send(client, "twice", 3)
    again = send(client, "twice", 4)
    assert [again[n].already for n in range(4)] == [True, True, True, False]
    client.jobs.finish("twice")
    assert wait(client, "twice").done == 4
    assert len(s.proposer.seen) == 4


def test_one_number_sent_at_one_time_by_two_is_kept_once(served):
    _, client = served
    client.jobs.create("race")
    same = [(n, png(shade=1)) for n in range(16)]
    answers = dict(client.jobs.upload("race", same, number=lambda _: 5))
    assert sorted(one.already for one in answers.values()) == [False] + [True] * 15
    assert client.jobs.get("race").total == 1


def test_only_what_is_lacking_is_wanted(served):
    _, client = served
    client.jobs.create("offer")
    send(client, "offer", 3)
    assert client.jobs.offer("offer", [2, 9, -1, 0, 9]) == [9, -1]
    assert client.jobs.offer("offer", range(25_000))[:2] == [3, 4]  # more than one message


def test_a_finished_upload_opens_again(served):
    _, client = served
    client.jobs.create("more")
    send(client, "more", 2)
    client.jobs.finish("more")
    assert wait(client, "more").done == 2
    send(client, "more", 2)  # nothing new
    assert client.jobs.get("more").state == "done"
    send(client, "more", 2, start=2)
    assert client.jobs.get("more").open
    client.jobs.finish("more")
    job = wait(client, "more")
    assert (job.state, job.done) == ("done", 4)


def test_without_a_number_name_and_content_are_the_identity(served):
    _, client = served
    client.jobs.create("named")
    images = [("a", png()), ("b", png()), ("a", png(shade=9)), ("a", png())]
    kept = [one for _, one in client.jobs.upload("named", images, concurrency=1)]
    assert [one.already for one in kept] == [False, False, False, True]
    assert kept[0].key == kept[3].key and len({one.key for one in kept}) == 3


def test_bad_images_fail_and_are_retried_on_request(served):
    _, client = served
    client.jobs.create("mixed")
    images = [("good.png", png()), ("bad.png", b"no image"), ("empty.png", b"")]
    assert all(not isinstance(one, Exception) for _, one in client.jobs.upload("mixed", images))
    client.jobs.finish("mixed")
    job = wait(client, "mixed")
    assert (job.state, job.done, job.failed) == ("done", 1, 2)
    failed = {one.name: one for one in client.jobs.failures("mixed")}
    assert set(failed) == {"bad.png", "empty.png"}
    assert {one.reason for one in failed.values()} == {"bad_image"}
    assert all(one.message and one.attempts == 1 for one in failed.values())
    assert client.jobs.retry("mixed", reasons=["internal"]) == 0
    assert client.jobs.retry("mixed", reasons=["internal", "bad_image"]) == 2
    assert wait(client, "mixed").failed == 2


def test_many_failures_come_page_by_page(served):
    _, client = served
    client.jobs.create("bad")
    bad = ((n, f"bad {n}".encode()) for n in range(230))
    list(client.jobs.upload("bad", bad, number=lambda n: n))
    client.jobs.finish("bad")
    assert wait(client, "bad").failed == 230
    assert sorted(one.key for one in client.jobs.failures("bad")) == list(range(230))


def test_cancelled_work_stops_and_stays_stopped(store):
    with (
        serving(ScriptedProposer(delay_s=0.1), store=store) as s,
        Client(s.address) as client,
    ):
        client.jobs.create("stop")
        send(client, "stop", 60)
        assert client.jobs.cancel("stop").state == "cancelled"
        assert client.jobs.cancel("stop").state == "cancelled"
        job = wait(client, "stop")
        assert job.done < 60 and job.over
        with pytest.raises(errors.InvalidInput, match="is cancelled and takes no more"):
            raise send(client, "stop", 1, start=99)[99]


def test_a_name_is_taken_once_and_given_back_when_asked(served, store):
    _, client = served
    client.jobs.create("mine", classes=["dog"])
    with pytest.raises(errors.AlreadyExists, match="mine"):
        client.jobs.create("mine", classes=["dog"])
    assert client.jobs.create("mine", classes=["dog"], reuse=True).name == "mine"
    with pytest.raises(errors.AlreadyExists):
        client.jobs.create("mine", classes=["cat"], reuse=True)
    with store.database.writing() as connection:
        create_run(connection, "decided", "redecide", DOG, {})
    for reuse in (False, True):  # a run that is no job
        with pytest.raises(errors.AlreadyExists, match="'decided'"):
            client.jobs.create("decided", reuse=reuse)


def test_jobs_are_listed_newest_first_over_pages(served):
    _, client = served
    for number in range(53):
        client.jobs.create(f"job {number}")
    assert [job.name for job in client.jobs.list()] == [f"job {n}" for n in range(52, -1, -1)]
    assert next(client.jobs.list()).classes is None
    assert client.jobs.get("job 3").classes == ("dog",)


def test_a_job_goes_on_on_the_next_server(store):
    gate = threading.Event()
    proposer = ScriptedProposer(delay_s=0.3, gate=gate)
    with serving(proposer, store=store) as s, Client(s.address) as client:
        client.jobs.create("long", classes=["dog"])
        send(client, "long", 60)
        client.jobs.finish("long")
        gate.set()
    done = store.queue.get("long").done
    assert done < 60
    with serving(store=store) as s, Client(s.address) as client:
        assert wait(client, "long").state == "done"
        assert sorted(r.key for r in client.jobs.results("long")) == list(range(60))
        assert len(s.proposer.seen) == 60 - done  # what was under way was kept


def test_the_client_for_event_loops_does_the_same(store):
    async def run(address: str) -> None:
        async with AsyncClient(address) as client:
            jobs = client.jobs
            await jobs.create("async", classes=["dog"])
            answers = [
                one async for _, one in jobs.upload("async", numbered(6), number=lambda n: n)
            ]
            assert len(answers) == 6 and not any(one.already for one in answers)
            assert await jobs.offer("async", [5, 6]) == [6]
            bad = [one async for _, one in jobs.upload("async", [("bad", b"bad")])]
            assert len(bad) == 1
            await jobs.finish("async")
            news = [one async for one in jobs.watch("async")]
            assert (news[-1].job.done, news[-1].job.failed) == (6, 1)
            assert sorted([r.key async for r in jobs.results("async")]) == list(range(6))
            assert [f.reason async for f in jobs.failures("async")] == ["bad_image"]
            assert [job.name async for job in jobs.list()] == ["async"]
            assert (await jobs.get("async")).state == "done"
            assert await jobs.retry("async") == 1
            assert (await jobs.cancel("async")).over
            with pytest.raises(errors.NotFound):
                await jobs.get("nobody")

    with serving(store=store) as s:
        asyncio.run(run(s.address))


def test_the_names_of_a_job_are_any_text(served):
    _, client = served
    name = "Straße 😀 / ../x"
    client.jobs.create(name)
    send(client, name, 1)
    client.jobs.finish(name)
    assert wait(client, name).done == 1


def test_what_was_acknowledged_is_in_the_store(served, store):
    _, client = served
    client.jobs.create("kept", classes=["dog"])
    for number, answer in client.jobs.upload("kept", numbered(5), number=lambda n: n):
        assert not isinstance(answer, Exception)
        run_id = store.queue.get("kept").run_id
        assert store.queue.known(run_id, [number]) == {number}
    assert sum(1 for _ in store.blobs.all()) == 5
    assert DOG.digest == store.results.run("kept").ontology.digest


def test_paths_are_uploaded_by_name(served, tmp_path):
    _, client = served
    path = Path(tmp_path / "street.png")
    path.write_bytes(png())
    client.jobs.create("paths")
    pairs = [(path, path), (tmp_path / "gone.png", tmp_path / "gone.png")]
    answers = dict(client.jobs.upload("paths", pairs))
    assert isinstance(answers[tmp_path / "gone.png"], errors.UnreadableFile)
    client.jobs.finish("paths")
    wait(client, "paths")
    (found,) = client.jobs.results("paths")
    assert found.result.name == str(path)
