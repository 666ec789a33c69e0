"""Blobs in an object store: S3 and compatible ones, Google Cloud Storage, Azure."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from secondlook.config.extras import missing_extra
from secondlook.config.redaction import redacted, url_scheme
from secondlook.store.blobs import blob_not_found, blob_path, verify_hash
from secondlook_client.errors import BadSetting, StorageFull, StoreUnavailable
from secondlook_client.private_files import is_sha256

try:
    import obstore
    from obstore import exceptions
    from obstore.store import from_url
except ImportError as missing:
    raise missing_extra("an object store", "s3") from missing

log = logging.getLogger(__name__)

SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
TIMEOUT_S = 30
"""Of one request; failed requests are retried for as long again."""
RENEW_S = 900.0
"""An object older than this is uploaded again when it is put again, to renew its age."""
MISSING = (exceptions.NotFoundError, FileNotFoundError)
"""obstore raises either."""
FULL_WORDS = ("StorageFull", "QuotaExceeded", "InsufficientStorage", "507 Insufficient")


class ObjectBlobs:
    """Blobs as objects ``prefix/ab/ab12…``; durable once the service has answered."""

    def __init__(self, url: str) -> None:
        """``url``: ``s3://bucket/prefix``, with ``?endpoint=http://host:port`` for others.

        Credentials come from the environment (``AWS_ACCESS_KEY_ID`` and so on) or the machine.
        Nothing is connected yet. Raises ``BadSetting``.
        """
        self._store: Any = open_objects(url)
        self._url = url

    def identity(self) -> str:
        """The same for all servers that name bucket, prefix and endpoint alike."""
        parts = urlsplit(self._url)
        endpoint = dict(parse_qsl(parts.query)).get("endpoint", "")
        return f"{parts.hostname}/{parts.path.strip('/')} {endpoint.rstrip('/')}"

    def put(self, content: bytes) -> str:
        """See ``Blobs``. An object whose bytes differ is replaced."""
        sha256 = hashlib.sha256(content).hexdigest()
        with translated_errors():
            if not self._holds(sha256, content):
                obstore.put(self._store, blob_path(sha256), content, use_multipart=False)
        return sha256

    def get(self, sha256: str) -> bytes:
        """See ``Blobs``."""
        with translated_errors():
            try:
                content = bytes(obstore.get(self._store, blob_path(sha256)).bytes())
            except MISSING as failure:
                _raise_if_bucket(failure)
                raise blob_not_found(sha256) from None
        return verify_hash(sha256, content)

    def has(self, sha256: str) -> bool:
        """See ``Blobs``."""
        return self._head(sha256) is not None

    def remove(self, sha256: str) -> None:
        """See ``Blobs``."""
        with translated_errors():
            try:
                obstore.delete(self._store, blob_path(sha256))
            except MISSING as failure:
                _raise_if_bucket(failure)

    def remove_unless_new(self, sha256: str, age_s: float) -> bool:
        """See ``Blobs``. There are no locks here: bytes that are put between the check of the age
        and the deletion are lost."""
        head = self._head(sha256)
        if head is not None and _age_s(head) < age_s:
            return False
        self.remove(sha256)
        return True

    def all(self) -> Iterator[str]:
        """See ``Blobs``."""
        with translated_errors():
            for page in obstore.list(self._store):
                names = (entry["path"].rpartition("/")[2] for entry in page)
                yield from (name for name in names if is_sha256(name))

    def _holds(self, sha256: str, content: bytes) -> bool:
        head = self._head(sha256)
        if head is None or head["size"] != len(content) or _age_s(head) > RENEW_S:
            return False
        # S3's ETag is the MD5 of most objects. Where it is not, they are just uploaded once more.
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return str(head["e_tag"]).strip('"') == md5

    def _head(self, sha256: str) -> Any:
        with translated_errors():
            try:
                return obstore.head(self._store, blob_path(sha256))
            except MISSING:
                return None


def _age_s(head: Any) -> float:
    return (datetime.now(UTC) - head["last_modified"]).total_seconds()


def open_objects(url: str) -> Any:
    """An obstore store of the objects beneath ``url``. Raises ``BadSetting``."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise BadSetting(
            f"a blob URL is s3://bucket/prefix (or {', '.join(SCHEMES[2:])}), not {url_scheme(url)}"
        )
    config = dict(parse_qsl(parts.query))
    if parts.scheme in ("s3", "s3a"):
        config.setdefault("checksum_algorithm", "SHA256")  # verified by the service
    plain = config.get("endpoint", "").startswith("http://")
    client: dict[str, Any] = {"timeout": f"{TIMEOUT_S}s", "connect_timeout": "5s"}
    if plain:
        client["allow_http"] = True
    retry: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=TIMEOUT_S)}
    options: dict[str, Any] = {"config": config, "client_options": client, "retry_config": retry}
    try:
        return from_url(parts._replace(query="").geturl(), **options)
    except (exceptions.BaseError, ValueError) as failure:
        raise BadSetting(f"the blob URL cannot be used: {_line(failure)}") from failure


def _raise_if_bucket(failure: BaseException) -> None:
    """A missing bucket is an outage, not a lost blob."""
    if "NoSuchBucket" in str(failure):
        raise StoreUnavailable(
            "the blob store has no such bucket; create it, or correct --blob-url"
        ) from failure


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raises ``StorageFull`` and ``StoreUnavailable`` for what obstore raises."""
    try:
        yield
    except (exceptions.BaseError, OSError) as failure:
        log.warning("the blob store failed: %s", _line(failure))
        _raise_if_bucket(failure)
        if any(word in str(failure) for word in FULL_WORDS):
            raise StorageFull(
                "the blob store is full; free some space or raise its quota, what was stored "
                "before is intact"
            ) from failure
        raise StoreUnavailable(
            f"the blob store is unavailable ({_cause(failure)}); pending work resumes once it is "
            "back"
        ) from failure


def _cause(failure: Exception) -> str:
    """A few words without addresses or keys."""
    causes: dict[type[Exception], str] = {
        exceptions.PermissionDeniedError: "it denies us access: check the credentials",
        exceptions.UnauthenticatedError: "it does not accept our credentials",
    }
    return causes.get(type(failure), "no valid answer")


def _line(failure: BaseException) -> str:
    return " ".join(redacted(str(failure)).split())[:300]
