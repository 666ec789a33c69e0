"""The images of Label Studio's tasks, from the Label Studio that a flag names and from no other.

A task says where its image is, and anybody may write tasks: so nothing else is asked, no redirect
is followed, and what comes has a size and a time.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

import aiohttp

from secondlook.core.files import FolderRoot
from secondlook_client.errors import (
    BadSetting,
    ImageTooLarge,
    InvalidInput,
    NotAllowed,
    NotFound,
    NotSupported,
    Unavailable,
)

FETCH_S = 30.0
"""For one image, all of it."""
TOKEN_S = 240.0
"""How long an access token is used; Label Studio's last for five minutes."""
MAX_PLACE = 4096
"""Characters of where an image is."""
LOCAL_FILES = "/data/local-files/"
"""The path below which Label Studio serves a folder of its machine."""
_MAX_ANSWER = 1 << 16
_PART = 1 << 16
_PARTS_OF_PERSONAL_TOKEN = 3


@dataclass(frozen=True)
class LabelStudioSite:
    """A Label Studio."""

    address: str
    """``http://host:port``, perhaps with a path; without a slash at its end."""
    token: str = ""
    """Of an account there; empty where images need none."""

    @classmethod
    def parse(cls, address: str, token: str = "") -> "LabelStudioSite":
        """Raises ``BadSetting`` for what is no address."""
        try:
            origin = _origin(urlsplit(address))
        except ValueError:
            origin = None
        if origin is None or {*"?#@\\ "} & {*address}:
            raise BadSetting(
                f"'{address:.200}' is no address of a Label Studio; expected http://HOST:PORT"
            )
        return cls(address.rstrip("/"), token)

    def path_of(self, place: str) -> str | None:
        """The path and query of an image here; None for what is elsewhere."""
        parts = urlsplit(place)
        if not parts.scheme and not parts.netloc and place.startswith("/"):
            return place
        if _origin(parts) != _origin(urlsplit(self.address)):
            return None
        base = urlsplit(self.address).path
        if not parts.path.startswith(f"{base}/"):
            return None
        query = f"?{parts.query}" if parts.query else ""
        return parts.path.removeprefix(base) + query


def _origin(parts: SplitResult) -> tuple[str, str, int] | None:
    """Scheme, host and port of a web address; None for another one. Raises ``ValueError``."""
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        return None
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


class TaskImages:
    """Reads the images of tasks; for one event loop."""

    def __init__(
        self,
        site: LabelStudioSite | None,
        local_files: Path | None,
        max_image_bytes: int,
        session: aiohttp.ClientSession,
    ) -> None:
        """``local_files``: the folder that Label Studio serves below ``LOCAL_FILES``, where this
        process may read it."""
        self._site, self._max_image_bytes, self._session = site, max_image_bytes, session
        self._files = FolderRoot(local_files.resolve()) if local_files else None
        self._access, self._access_until = "", 0.0

    async def read(self, place: str) -> bytes:
        """The bytes of the image that a task says is at ``place``, unchecked.

        Raises ``NotAllowed`` for what is elsewhere, ``NotSupported``, ``NotFound``, ``Unavailable``
        and ``ImageTooLarge``.
        """
        if not place or len(place) > MAX_PLACE or not place.isprintable():
            raise InvalidInput("a task says in its data where its image is, as a path or a URL")
        if self._files and place.startswith(LOCAL_FILES):
            return await asyncio.to_thread(self._read_file, self._files, place)
        url = self._url(place)
        try:
            async with asyncio.timeout(FETCH_S):
                return await self._fetch(url)
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise Unavailable("Label Studio does not give the image; is it running?") from None

    def _read_file(self, root: FolderRoot, place: str) -> bytes:
        name = parse_qs(urlsplit(place).query).get("d", [""])[0]
        try:
            with os.fdopen(root.open(name.lstrip("/")), "rb") as file:
                content = file.read(self._max_image_bytes + 1)
        except OSError:
            raise NotFound(f"--local-files has no file '{name:.200}'") from None
        _check_size(len(content), self._max_image_bytes)
        return content

    def _url(self, place: str) -> str:
        """Where to fetch it: always a path of ours, whatever the task says. Raises ``NotAllowed``
        and ``NotSupported``."""
        try:
            scheme = urlsplit(place).scheme
            path = self._site.path_of(place) if self._site else None
        except ValueError:
            raise InvalidInput(f"'{place:.100}' is no address of an image") from None
        if scheme not in ("http", "https", ""):
            raise NotSupported(
                "images are read from Label Studio, and not from cloud storage or by data URLs"
            )
        if self._site is None or path is None:
            known = self._site.address if self._site else "nowhere"
            raise NotAllowed(
                f"images are fetched from {known}, as --label-studio says, and not from "
                f"'{place:.100}'"
            )
        return self._site.address + path

    async def _fetch(self, url: str) -> bytes:
        headers = {"Accept-Encoding": "identity", **await self._credentials()}
        async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
            if answer.status in (401, 403):
                raise NotAllowed(
                    "Label Studio refuses to give the image; give the token of an account there "
                    "with --label-studio-token FILE"
                )
            if answer.status == 404:
                raise NotFound("Label Studio has no such image")
            if answer.status != 200:
                raise Unavailable(f"Label Studio answers with status {answer.status}")
            return await self._content(answer, self._max_image_bytes)

    async def _content(self, answer: aiohttp.ClientResponse, most: int) -> bytes:
        parts, size = [], 0
        async for part in answer.content.iter_chunked(_PART):
            size += len(part)
            _check_size(size, most)
            parts.append(part)
        return b"".join(parts)

    async def _credentials(self) -> dict[str, str]:
        """The header of the account; a personal access token is first exchanged, as it has to
        be."""
        token = self._site.token if self._site else ""
        if not token:
            return {}
        if token.count(".") != _PARTS_OF_PERSONAL_TOKEN - 1:
            return {"Authorization": f"Token {token}"}
        now = asyncio.get_running_loop().time()
        if not self._access or now > self._access_until:
            self._access = await self._exchanged(token)
            self._access_until = now + TOKEN_S
        return {"Authorization": f"Bearer {self._access}"}

    async def _exchanged(self, token: str) -> str:
        assert self._site
        url = self._site.address + "/api/token/refresh"
        asked = self._session.post(url, json={"refresh": token}, allow_redirects=False)
        async with asked as answer:
            content = await self._content(answer, _MAX_ANSWER)
        try:
            found = (await asyncio.to_thread(_json, content)).get("access", "")
        except (ValueError, AttributeError):
            found = ""
        if answer.status != 200 or not isinstance(found, str) or not found.isascii():
            raise NotAllowed("Label Studio does not accept the token of --label-studio-token")
        return found


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise ImageTooLarge(f"the image has more than {most:,} bytes; raise --max-image-bytes")


def _json(content: bytes) -> "dict[str, object]":
    found: dict[str, object] = json.loads(content)
    return found


@asynccontextmanager
async def opened_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Connections that keep no cookie, follow no proxy of the environment and unpack nothing."""
    async with aiohttp.ClientSession(
        auto_decompress=False,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=FETCH_S),
    ) as session:
        yield session
