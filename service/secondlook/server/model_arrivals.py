"""A student that comes in chunks: each file is checked as soon as it is whole, and kept."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from secondlook.detector.manifest import Manifest
from secondlook.errors import BadRequest, Busy, DeadlineExceeded
from secondlook.server.models_messages import checked_header
from secondlook_client.v1 import models_pb2 as pb

AT_ONCE = 2
"""Students on their way at one time: a file of each may lie in memory."""
MAX_CHUNK = 2**20
SILENCE_S = 60.0
"""A sender that says nothing for so long gives its place to others."""

Put = Callable[[bytes], Awaitable[Any]]
"""Keeps the bytes of a file."""


class ModelArrivals:
    """Takes students in. Belongs to one event loop."""

    def __init__(self, put: Put) -> None:
        self._put = put
        self._inside = 0

    async def take(
        self, requests: AsyncIterator[pb.AddVersionRequest]
    ) -> tuple[str, Manifest, str]:
        """Name, manifest and report of a student whose files are all kept now.

        Raises ``BadRequest`` for one that is not as its manifest says, ``Busy`` when others are
        coming, ``DeadlineExceeded`` for a sender that fell silent, and what ``put`` raises.
        """
        if self._inside >= AT_ONCE:
            raise Busy(f"{self._inside} models are being sent already; try again in a moment", 2.0)
        self._inside += 1
        try:
            return await self._take(requests)
        finally:
            self._inside -= 1

    async def _take(
        self, requests: AsyncIterator[pb.AddVersionRequest]
    ) -> tuple[str, Manifest, str]:
        first = await _next(requests)
        if first is None or not first.HasField("header"):
            raise BadRequest("a model begins with its header; send name and manifest first")
        name, manifest, report = checked_header(first.header)
        files = _Files(manifest)
        while (request := await _next(requests)) is not None:
            if not request.HasField("chunk"):
                raise BadRequest("the header comes once; send chunks of files after it")
            if (content := files.add(request.chunk)) is not None:
                await self._put(content)
        for content in files.finish():
            await self._put(content)
        return name, manifest, report


class _Files:
    """The files of a student as they come, one after the other."""

    def __init__(self, manifest: Manifest) -> None:
        self._expected = manifest.files
        self._whole: set[str] = set()
        self._name = ""
        self._content = bytearray()

    def add(self, chunk: pb.ModelChunk) -> bytes | None:
        """The bytes of the file that this chunk makes whole. Raises ``BadRequest``."""
        self._check(chunk)
        self._name = chunk.file
        self._content += chunk.data
        expected = self._expected[chunk.file]
        if len(self._content) > expected.size:
            raise BadRequest(
                f"{chunk.file} is longer than the {expected.size:,} bytes of the manifest; export "
                "the student again"
            )
        return self._end() if len(self._content) == expected.size else None

    def finish(self) -> list[bytes]:
        """What is whole without a chunk, being empty. Raises ``BadRequest`` for what is not."""
        found = []
        # The one that broke off is named first.
        for name in sorted(self._expected.keys() - self._whole, key=lambda n: (n != self._name, n)):
            if self._expected[name].size:
                came = len(self._content) if name == self._name else 0
                raise BadRequest(
                    f"{name} did not come whole: {came:,} of {self._expected[name].size:,} bytes; "
                    "send the student again"
                )
            self._name = name
            found.append(self._end())
        return found

    def _check(self, chunk: pb.ModelChunk) -> None:
        if chunk.file not in self._expected:
            raise BadRequest(
                f"the manifest names no file '{chunk.file:.100}'; send only what it names"
            )
        if chunk.file in self._whole:
            raise BadRequest(f"more of {chunk.file} came after its end; send each file once")
        if self._name and chunk.file != self._name:
            raise BadRequest(
                f"a chunk of {chunk.file} came before the end of {self._name}; send one file after "
                "the other"
            )
        if len(chunk.data) > MAX_CHUNK:
            raise BadRequest(f"a chunk has at most {MAX_CHUNK:,} bytes, got {len(chunk.data):,}")

    def _end(self) -> bytes:
        content, name = bytes(self._content), self._name
        if hashlib.sha256(content).hexdigest() != self._expected[name].sha256:
            raise BadRequest(
                f"{name} is not the file that the manifest names: its hash is another one; export "
                "the student again"
            )
        self._whole.add(name)
        self._name, self._content = "", bytearray()
        return content


async def _next(requests: AsyncIterator[pb.AddVersionRequest]) -> pb.AddVersionRequest | None:
    """The next message; None at the end. Raises ``DeadlineExceeded`` after ``SILENCE_S``."""
    try:
        async with asyncio.timeout(SILENCE_S):
            return await anext(requests, None)
    except TimeoutError:
        raise DeadlineExceeded(
            f"nothing of the model came for {SILENCE_S:.0f} s; send it again"
        ) from None
