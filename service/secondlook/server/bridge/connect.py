"""The Connect protocol, its JSON form: https://connectrpc.com/docs/protocol.

Methods are looked up in the descriptor pool, requests are converted by ``protobuf``'s own
``json_format``, and answers as it would convert them. Nothing here knows a service of ours, nor
HTTP.
"""

import base64
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from secondlook.server.bounds import request_size
from secondlook.server.bridge.plain_messages import plain_message
from secondlook.server.interceptors import OURS, error_trailers, rpc_status
from secondlook_client.errors import BadRequest, NotSupported, SecondlookError

UNARY, STREAMING = "application/json", "application/connect+json"
"""Content types of calls that are answered once, and of those that are answered again and again."""
END_OF_STREAM = 0b10
"""Flag of the last message of a stream."""
COMPRESSED = 0b01
ENVELOPE = struct.Struct(">BI")
"""Before each message of a stream: its flags, and how many bytes it has."""
JSON_BYTES = 4
"""A JSON text may have so many times the bytes of its message, ..."""
OTHER_BYTES = 64 * 2**10
"""... and so many more, as names of fields are written out."""
MAX_DEPTH = 32
"""Of messages in each other; ours have six."""
MAX_TIMEOUT_DIGITS = 10
"""Of ``Connect-Timeout-Ms``, as the protocol has it."""

HTTP_STATUS: Mapping[str, int] = {
    "canceled": 499,
    "unknown": 500,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "data_loss": 500,
    "unauthenticated": 401,
}
"""By Connect's name of a status."""
_TRAILERS = ("secondlook-reason", "secondlook-retry-after-ms", "secondlook-request-id")
_TRAILER_OF_DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True)
class ConnectError:
    """A failed call as it travels."""

    code: str
    """A key of ``HTTP_STATUS``."""
    message: str
    details: tuple[Mapping[str, Any], ...] = ()
    """Of ``google.rpc``: type, bytes in base64, and the same as JSON under ``debug``."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Trailing metadata for programs."""

    @property
    def http_status(self) -> int:
        """Of a call that is answered once."""
        return HTTP_STATUS[self.code]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        known = {"code": self.code, "message": self.message}
        return known | ({"details": list(self.details)} if self.details else {})


@dataclass(frozen=True)
class ConnectMethod:
    """A method that can be called by HTTP."""

    path: str
    """``/package.Service/Method``."""
    request: type[Message]
    response: type[Message]
    streaming: bool
    """Whether it is answered again and again."""
    max_bytes: int
    """Of a request without its fields of type bytes."""
    has_contents: bool
    """Whether it has fields of type bytes, which have bounds of their own."""

    def max_json_bytes(self, max_message_bytes: int) -> int:
        """Of a request as JSON, where a message has ``max_message_bytes`` at most."""
        contents = -(-max_message_bytes * 4 // 3) if self.has_contents else 0  # base64
        return self.max_bytes * JSON_BYTES + OTHER_BYTES + contents


@cache
def find_method(path: str) -> ConnectMethod:
    """The method of that path. Raises ``NotSupported`` for an unknown one, and for one to which a
    client streams: HTTP/1.1 in a browser cannot do that."""
    service, _, name = path.lstrip("/").partition("/")
    try:
        found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    except (KeyError, UnicodeError):
        raise _no_method(path) from None
    if not path.startswith(OURS):
        raise _no_method(path)
    if found.client_streaming:
        raise NotSupported(
            f"{name} is a stream of requests, which is not served over HTTP; call it by gRPC"
        )
    size, contents = request_size(found)
    return ConnectMethod(
        path,
        message_factory.GetMessageClass(found.input_type),
        message_factory.GetMessageClass(found.output_type),
        found.server_streaming,
        size,
        contents,
    )


def _no_method(path: str) -> NotSupported:
    return NotSupported(
        f"there is no method '{path:.200}' here; is the page older than the server?"
    )


def message_bytes(method: ConnectMethod, text: bytes) -> bytes:
    """A request as gRPC has it, from its JSON. Raises ``BadRequest``.

    Empty bytes are an empty message. A field that the method does not have is refused: a typing
    error would go unnoticed otherwise.
    """
    message = method.request()
    if text.strip():
        try:
            plain = json.loads(
                text.decode(), parse_constant=_no_number, object_pairs_hook=_without_duplicates
            )
            if not isinstance(plain, dict):
                raise ValueError("expected an object")
            json_format.ParseDict(plain, message, max_recursion_depth=MAX_DEPTH)
        except (json_format.ParseError, ValueError, TypeError, RecursionError) as cause:
            raise BadRequest(f"the request is no JSON of this method: {_words(cause)}") from cause
    return message.SerializeToString()


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is given twice")
    return found


def _words(cause: Exception) -> str:
    if isinstance(cause, RecursionError):
        return "it is nested too deeply"
    if isinstance(cause, UnicodeDecodeError):
        return "it is not UTF-8"
    return f"{cause!s:.500}" or type(cause).__name__


def message_json(method: ConnectMethod, data: bytes) -> bytes:
    """An answer as JSON, from its bytes."""
    return _dumped(plain_message(method.response.FromString(data)))


def _dumped(plain: Any) -> bytes:
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def error_json(error: ConnectError) -> bytes:
    """The body of a failed call that is answered once."""
    return _dumped(error.plain())


def enveloped(content: bytes, flags: int = 0) -> bytes:
    """One message of a stream."""
    return ENVELOPE.pack(flags, len(content)) + content


def end_of_stream(error: ConnectError | None = None) -> bytes:
    """The last message of a stream."""
    if error is None:
        return enveloped(b"{}", END_OF_STREAM)
    metadata = {name: [value] for name, value in error.metadata.items()}
    plain = {"error": error.plain()} | ({"metadata": metadata} if metadata else {})
    return enveloped(_dumped(plain), END_OF_STREAM)


def opened_envelope(body: bytes) -> bytes:
    """The one message that a client sends to a method that streams. Raises ``BadRequest``."""
    if len(body) < ENVELOPE.size:
        raise BadRequest("expected one message with its five bytes of head, got less")
    flags, size = ENVELOPE.unpack_from(body)
    if flags & COMPRESSED:
        raise NotSupported("compressed messages are not supported; send them as they are")
    if flags or len(body) != ENVELOPE.size + size:
        raise BadRequest(
            f"expected one message of {size:,} bytes without flags, got {len(body):,} bytes and "
            f"the flags {flags}"
        )
    return body[ENVELOPE.size :]


def timeout_of(header: str | None) -> float | None:
    """Seconds of ``Connect-Timeout-Ms``; None without it. Raises ``BadRequest``."""
    if header is None:
        return None
    if not (header.isascii() and header.isdigit() and len(header) <= MAX_TIMEOUT_DIGITS):
        raise BadRequest(f"expected Connect-Timeout-Ms of 1 to 10 digits, got '{header:.40}'")
    return int(header) / 1000


def error_of_call(failure: grpc.aio.AioRpcError) -> ConnectError:
    """What a gRPC call failed with."""
    trailing = dict(failure.trailing_metadata() or ())
    details: tuple[Mapping[str, Any], ...] = ()
    content = trailing.get(_TRAILER_OF_DETAILS)
    if isinstance(content, bytes):
        try:
            details = _details(status_pb2.Status.FromString(content))
        except DecodeError:
            details = ()
    return ConnectError(
        code_of(failure.code()),
        failure.details() or "",
        details,
        {name: str(trailing[name]) for name in _TRAILERS if name in trailing},
    )


def error_of(failure: SecondlookError, request_id: str) -> ConnectError:
    """An error of ours that never reached gRPC, with the same parts."""
    code, status = rpc_status(failure, request_id)
    metadata = error_trailers(failure, request_id)
    return ConnectError(code_of(code), status.message, _details(status), metadata)


def code_of(status: grpc.StatusCode) -> str:
    """Connect's name of a status; it writes one of them otherwise."""
    return "canceled" if status is grpc.StatusCode.CANCELLED else status.name.lower()


def http_status_of(failure: SecondlookError) -> int:
    """Of an answer by HTTP that tells an error of ours."""
    return HTTP_STATUS[code_of(grpc.StatusCode[failure.status])]


def _details(status: status_pb2.Status) -> tuple[Mapping[str, Any], ...]:
    return tuple(_detail(one) for one in status.details)


def _detail(one: any_pb2.Any) -> Mapping[str, Any]:
    name = one.TypeName()
    plain = {"type": name, "value": base64.b64encode(one.value).decode().rstrip("=")}
    try:
        kind = descriptor_pool.Default().FindMessageTypeByName(name)
        known = message_factory.GetMessageClass(kind).FromString(one.value)
    except (KeyError, DecodeError):
        return plain
    return plain | {"debug": json_format.MessageToDict(known)}
