"""What ``JobService`` refuses, and in which words."""

import grpc
import pytest
from job_client import numbered, wait
from serving import server_settings, serving

from secondlook_client import Client, errors
from secondlook_client.v1 import jobs_pb2 as pb
from secondlook_client.v1 import jobs_pb2_grpc


@pytest.mark.parametrize("call", ["get", "cancel", "retry", "finish"])
def test_a_job_that_is_not_there_is_reported(served, call):
    _, client = served
    with pytest.raises(errors.NotFound, match="nobody"):
        getattr(client.jobs, call)("nobody")


def test_streams_and_pages_of_a_job_that_is_not_there_are_reported(served):
    _, client = served
    for found in (client.jobs.watch, client.jobs.results, client.jobs.failures):
        with pytest.raises(errors.NotFound, match="nobody"):
            next(found("nobody"))
    (answer,) = (one for _, one in client.jobs.upload("nobody", numbered(1), name=str))
    assert isinstance(answer, errors.NotFound)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.CreateJobRequest(name="a"), "has no source"),
        (pb.CreateJobRequest(upload=pb.UploadSource()), "printable characters"),
        (pb.CreateJobRequest(name="a\nb", upload=pb.UploadSource()), "printable"),
        (
            pb.CreateJobRequest(name="a" * 201, upload=pb.UploadSource()),
            "name: expected at most 200 characters, got 201",
        ),
        (pb.ListJobsRequest(page_token="nonsense"), "page_token"),
        (pb.ListJobsRequest(page_size=501), "page_size: expected at most 500, got 501"),
        (pb.ListFailuresRequest(page_size=1001), "page_size: expected at most 1,000"),
        (
            pb.OfferImagesRequest(keys=[1] * 10_001),
            "keys: expected at most 10,000 items, got 10,001",
        ),
    ],
)
def test_requests_that_make_no_sense_are_refused(served, request_, message):
    s, _ = served
    with grpc.insecure_channel(s.address) as channel:
        method = type(request_).__name__.removesuffix("Request")
        with pytest.raises(grpc.RpcError) as refused:
            getattr(jobs_pb2_grpc.JobServiceStub(channel), method)(request_)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()


def test_a_cursor_that_none_can_be_is_refused(served):
    _, client = served
    client.jobs.create("c")
    with pytest.raises(errors.InvalidInput, match=r"after: expected a number below 2\^63"):
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
    options = server_settings(image_roots=str(tmp_path / "in"))
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
        with pytest.raises(errors.InvalidInput, match="takes no uploads"):
            client.jobs.offer("folder", [1])
