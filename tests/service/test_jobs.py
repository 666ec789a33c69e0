"""JobService over a loopback server, on both databases: only the models are scripted."""

import asyncio
import threading
import time
from pathlib import Path

import grpc
import pytest
from fakes import ScriptedProposer
from serving import DOG, png, serving

from secondlook.server.app import ServerOptions
from secondlook.server.following import TELL_EVERY_S
from secondlook_client import AsyncClient, ClassSpec, Client, JobState, RetryPolicy, errors
from secondlook_client.v1 import jobs_pb2 as pb
from secondlook_client.v1 import jobs_pb2_grpc


def numbered(count: int, start: int = 0):
    """Pictures that differ, by number."""
    return ((number, png(shade=number)) for number in range(start, start + count))


def send(client: Client, job: str, count: int, start: int = 0):
    """Upload that many pictures by their numbers; what became of each."""
    return dict(client.jobs.upload(job, numbered(count, start), number=lambda number: number))


def wait(client: Client, job: str):
    """The job once it is over."""
    for news in client.jobs.watch(job):
        last = news.job
    return last


@pytest.fixture
def served(store):
    """A server with a store, and a client of it."""
    with serving(store=store) as s, Client(s.address) as client:
        yield s, client


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


def test_a_picture_sent_twice_is_kept_once(served):
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
    pictures = [("a", png()), ("b", png()), ("a", png(shade=9)), ("a", png())]
    kept = [one for _, one in client.jobs.upload("named", pictures, concurrency=1)]
    assert [one.already for one in kept] == [False, False, False, True]
    assert kept[0].key == kept[3].key and len({one.key for one in kept}) == 3


def test_bad_pictures_are_set_aside_and_tried_again_when_asked(served):
    _, client = served
    client.jobs.create("mixed")
    pictures = [("good\0.png", png()), ("bad.png", b"no picture"), ("empty.png", b"")]
    assert all(not isinstance(one, Exception) for _, one in client.jobs.upload("mixed", pictures))
    client.jobs.finish("mixed")
    job = wait(client, "mixed")
    assert (job.state, job.done, job.failed) == ("done", 1, 2)
    failed = {one.name: one for one in client.jobs.failures("mixed")}
    assert set(failed) == {"bad.png", "empty.png"}
    assert {one.reason for one in failed.values()} == {"bad_image"}
    assert all(one.message and one.tries == 1 for one in failed.values())
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
        threading.Timer(0.5, gate.set).start()
        assert next(followed).key == 0
        send(client, "live", 1, start=1)
        client.jobs.finish("live")
        assert [one.key for one in followed] == [1]


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
        with pytest.raises(errors.InvalidRequest, match="is cancelled and takes no more"):
            raise send(client, "stop", 1, start=99)[99]


def test_a_name_is_taken_once_and_given_back_when_asked(served):
    _, client = served
    client.jobs.create("mine", classes=["dog"])
    with pytest.raises(errors.AlreadyExists, match="mine"):
        client.jobs.create("mine", classes=["dog"])
    assert client.jobs.create("mine", classes=["dog"], reuse=True).name == "mine"
    with pytest.raises(errors.AlreadyExists):
        client.jobs.create("mine", classes=["cat"], reuse=True)


def test_jobs_are_listed_newest_first_over_pages(served):
    _, client = served
    for number in range(53):
        client.jobs.create(f"job {number}")
    assert [job.name for job in client.jobs.list()] == [f"job {n}" for n in range(52, -1, -1)]
    assert next(client.jobs.list()).classes is None
    assert client.jobs.get("job 3").classes == ("dog",)


def test_news_tell_pace_and_time_left(store):
    with (
        serving(ScriptedProposer(delay_s=0.2), store=store) as s,
        Client(s.address) as client,
    ):
        client.jobs.create("pace")
        send(client, "pace", 80)
        client.jobs.finish("pace")
        news = list(client.jobs.watch("pace"))
        assert news[-1].job.state == "done"
        timed = [n for n in news if n.seconds_left is not None]
        assert timed and all(n.pictures_per_second > 0 for n in timed)
        assert [n.job.done for n in news] == sorted(n.job.done for n in news)


def test_a_watcher_of_a_quiet_job_hears_that_the_line_stands(served):
    _, client = served
    client.jobs.create("quiet")
    watched = client.jobs.watch("quiet")
    next(watched)
    started = time.monotonic()
    next(watched)
    assert time.monotonic() - started < 3 * TELL_EVERY_S
    watched.close()


@pytest.mark.parametrize("call", ["get", "cancel", "retry", "finish"])
def test_a_job_that_is_not_there_is_told(served, call):
    _, client = served
    with pytest.raises(errors.NotFound, match="nobody"):
        getattr(client.jobs, call)("nobody")


def test_streams_and_pages_of_a_job_that_is_not_there_are_told(served):
    _, client = served
    for found in (client.jobs.watch, client.jobs.results, client.jobs.failures):
        with pytest.raises(errors.NotFound, match="nobody"):
            next(found("nobody"))
    (answer,) = (one for _, one in client.jobs.upload("nobody", numbered(1), name=str))
    assert isinstance(answer, errors.NotFound)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (pb.CreateJobRequest(name="a"), "has no source"),
        (pb.CreateJobRequest(upload=pb.UploadSource()), "1 to 200 printable"),
        (pb.CreateJobRequest(name="a\nb", upload=pb.UploadSource()), "printable"),
        (pb.CreateJobRequest(name="a" * 201, upload=pb.UploadSource()), "1 to 200"),
        (pb.ListJobsRequest(page_token="nonsense"), "page_token"),
        (pb.ListJobsRequest(page_size=501), "up to 500, got 501"),
        (pb.ListFailuresRequest(page_size=1001), "up to 1000"),
        (pb.OfferPicturesRequest(keys=[1] * 10_001), "10,000 keys, got 10,001"),
    ],
)
def test_requests_that_make_no_sense_are_refused(served, request_, said):
    s, _ = served
    with grpc.insecure_channel(s.address) as channel:
        method = type(request_).__name__.removesuffix("Request")
        with pytest.raises(grpc.RpcError) as refused:
            getattr(jobs_pb2_grpc.JobServiceStub(channel), method)(request_)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in refused.value.details()


def test_a_cursor_that_none_can_be_is_refused(served):
    _, client = served
    client.jobs.create("c")
    with pytest.raises(errors.InvalidRequest, match="cursor"):
        next(client.jobs.results("c", after=2**64 - 1))


def test_a_server_that_keeps_nothing_says_how_to_start_one_that_does():
    with serving() as s, Client(s.address) as client:
        for call in (
            lambda: client.jobs.create("a"),
            lambda: next(client.jobs.list()),
            lambda: next(client.jobs.watch("a")),
            lambda: client.jobs.offer("a", [1]),
        ):
            with pytest.raises(errors.NotSupported, match="--data FOLDER"):
                call()


def test_a_folder_is_read_only_where_it_is_allowed(store, tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    for number, data in numbered(5):
        (tmp_path / f"in/deep/{number}.png").write_bytes(data)
    options = ServerOptions(roots=(tmp_path / "in",))
    with serving(store=store, options=options) as s, Client(s.address) as client:
        job = client.jobs.create("folder", folder=str(tmp_path / "in"))
        assert (job.kind, job.folder) == ("folder", str(tmp_path / "in"))
        assert wait(client, "folder").done == 5
        names = {one.result.name for one in client.jobs.results("folder")}
        assert names == {f"deep/{n}.png" for n in range(5)}
        for folder in (str(tmp_path), "/etc", str(tmp_path / "in/../..")):
            with pytest.raises(errors.NotAllowed):
                client.jobs.create("other", folder=folder)
        with pytest.raises(errors.NotFound):
            client.jobs.create("other", folder=str(tmp_path / "in/nowhere"))
        with pytest.raises(errors.InvalidRequest, match="no upload"):
            client.jobs.offer("folder", [1])


def test_a_job_goes_on_on_the_next_server(store):
    proposer = ScriptedProposer(delay_s=0.05)
    with serving(proposer, store=store) as s, Client(s.address) as client:
        client.jobs.create("long", classes=["dog"])
        send(client, "long", 60)
        client.jobs.finish("long")
    done = store.queue.get("long").done
    assert done < 60
    with serving(store=store) as s, Client(s.address) as client:
        assert wait(client, "long").state == "done"
        assert sorted(r.key for r in client.jobs.results("long")) == list(range(60))
        assert len(s.proposer.seen) == 60 - done  # what was under way was kept


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
            except errors.ClientError as failure:
                ended.append(failure)

        threads = [threading.Thread(target=follow, args=(x,)) for x in (watched, followed)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
    for thread in threads:
        thread.join(10)
    client.close()
    assert [type(failure) for failure in ended] == [errors.ShuttingDown] * 2


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
    assert DOG.digest == store.records.run("kept").ontology.digest


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
