"""An S3 of the tests' own: moto's server on a real socket."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

__all__ = ["bucket_url", "s3_endpoint"]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a server that answers like S3, for all tests."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``--blob-url`` takes: a prefix in a new, empty bucket."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    name = f"b{uuid4().hex}"
    client(s3_endpoint).create_bucket(Bucket=name)
    return f"s3://{name}/some/prefix?endpoint={s3_endpoint}"


def client(endpoint: str) -> Any:
    """Another program's way to the same objects."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
