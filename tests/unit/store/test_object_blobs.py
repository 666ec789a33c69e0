import hashlib
from pathlib import Path

import pytest
from s3 import client

from secondlook.store import open_store
from secondlook.store.object_blobs import ObjectBlobs
from secondlook_client.errors import BadSetting, Damaged, NotFound, StoreUnavailable

CONTENT = b"an image" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
KEY = f"some/prefix/{SHA256[:2]}/{SHA256}"


def bucket_of(url: str) -> str:
    return url.split("/")[2]


def test_what_was_put_can_be_had(bucket_url: str, s3_endpoint: str) -> None:
    blobs = ObjectBlobs(bucket_url)
    assert not blobs.has(SHA256)
    assert blobs.put(CONTENT) == SHA256 == blobs.put(CONTENT)
    assert blobs.get(SHA256) == CONTENT and blobs.has(SHA256)
    assert list(blobs.all()) == [SHA256]
    seen = client(s3_endpoint).get_object(Bucket=bucket_of(bucket_url), Key=KEY)
    assert seen["Body"].read() == CONTENT


def test_servers_know_whether_they_have_the_same_bucket(bucket_url: str) -> None:
    url, _, query = bucket_url.partition("?")
    same = ObjectBlobs(f"{url}/?{query}")
    assert ObjectBlobs(bucket_url).identity() == same.identity()
    assert ObjectBlobs(bucket_url).identity() != ObjectBlobs(f"{url}/other?{query}").identity()


def test_what_was_removed_is_gone(bucket_url: str) -> None:
    blobs = ObjectBlobs(bucket_url)
    blobs.put(CONTENT)
    blobs.remove(SHA256)
    blobs.remove(SHA256)
    assert not blobs.has(SHA256) and list(blobs.all()) == []
    with pytest.raises(NotFound, match="secondlook restore"):
        blobs.get(SHA256)


def test_bytes_that_rotted_are_noticed_and_put_right(bucket_url: str, s3_endpoint: str) -> None:
    blobs = ObjectBlobs(bucket_url)
    blobs.put(CONTENT)
    wrong = CONTENT[:-1] + b"?"
    client(s3_endpoint).put_object(Bucket=bucket_of(bucket_url), Key=KEY, Body=wrong)
    with pytest.raises(Damaged, match="no longer matches its hash"):
        blobs.get(SHA256)
    blobs.put(CONTENT)
    assert blobs.get(SHA256) == CONTENT


def test_all_lists_every_blob_and_nothing_else(bucket_url: str, s3_endpoint: str) -> None:
    blobs = ObjectBlobs(bucket_url)
    names = {blobs.put(str(number).encode()) for number in range(20)}
    for key in ("some/prefix/README", f"elsewhere/{KEY}"):
        client(s3_endpoint).put_object(Bucket=bucket_of(bucket_url), Key=key, Body=b"x")
    assert set(blobs.all()) == names


def test_a_bucket_that_is_not_there_is_an_outage_that_says_so(bucket_url: str) -> None:
    blobs = ObjectBlobs(bucket_url.replace("s3://b", "s3://other"))
    for ask in (lambda: blobs.put(CONTENT), lambda: blobs.get(SHA256), lambda: [*blobs.all()]):
        with pytest.raises(StoreUnavailable, match="no such bucket"):
            ask()


def test_a_store_that_does_not_answer_is_an_outage(
    bucket_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.store.object_blobs.TIMEOUT_S", 1)
    blobs = ObjectBlobs("s3://bucket/prefix?endpoint=http://127.0.0.1:1")
    with pytest.raises(StoreUnavailable, match="resumes once it is back") as caught:
        blobs.put(CONTENT)
    assert "127.0.0.1" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "http://bucket", "s3://", "file:///tmp", "s3://b?nonsense=1"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(BadSetting, match="blob URL"):
        ObjectBlobs(url)


def test_only_hashes_are_names(bucket_url: str) -> None:
    with pytest.raises(NotFound, match="not a sha256"):
        ObjectBlobs(bucket_url).get("../secret")


def test_a_store_with_its_blobs_elsewhere_makes_no_folder_for_them(
    tmp_path: Path, bucket_url: str
) -> None:
    with open_store(tmp_path / "data", blob_url=bucket_url) as store:
        assert store.blobs.get(store.blobs.put(CONTENT)) == CONTENT
    assert not (tmp_path / "data" / "blobs").exists()
