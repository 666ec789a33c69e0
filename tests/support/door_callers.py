"""Who may knock at a server with tokens, and how each call of everybody is to end."""

import http.client
import json
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from secondlook.core.access import Role, TokenAccess, new_secret
from secondlook.server.app import SERVICES
from secondlook.store import Store
from secondlook_client.v1 import access_pb2 as pb
from secondlook_client.v1 import labeling_pb2


def token(store: Store, name: str, *roles: Role, ends_at: float | None = None) -> str:
    """The secret of a new token; a device has the stream and the model of its name."""
    own = frozenset({name}) if Role.DEVICE in roles else frozenset()
    return store.tokens.create(name, TokenAccess(frozenset(roles), own, own), ends_at)


@dataclass(frozen=True)
class Caller:
    """Somebody with, or without, a token."""

    who: str
    secret: str | None
    roles: frozenset[int] = frozenset()
    """By ``access.proto``; none: no valid token."""
    device: str = "gate-3"
    """The stream and model that it names."""


def callers(store: Store) -> list[Caller]:
    """Everybody there is; valid tokens have one role each."""
    expired = token(store, "expired", Role.ADMIN, ends_at=time.time() - 1)
    revoked = token(store, "revoked", Role.ADMIN)
    store.tokens.revoke("revoked")
    known = [
        Caller(role, token(store, role, role), frozenset({pb.Role.Value(f"ROLE_{role.upper()}")}))
        for role in Role
        if role != Role.DEVICE
    ]
    device = frozenset({pb.ROLE_DEVICE})
    return [
        Caller("nobody", None),
        Caller("wrong", new_secret()),
        Caller("malformed", "slt_short"),
        Caller("expired", expired),
        Caller("revoked", revoked),
        *known,
        Caller("device", token(store, "gate-3", Role.DEVICE), device),
        Caller("another device", token(store, "gate-4", Role.DEVICE), device),
    ]


def methods() -> Iterator[tuple[str, pb.Access, type[Message]]]:
    """Path, what is declared, and the class of the request, of every method of ours."""
    for service in SERVICES:
        for method in descriptor_pool.Default().FindServiceByName(service).methods:
            access = method.GetOptions().Extensions[pb.access]
            request = message_factory.GetMessageClass(method.input_type)
            yield f"/{service}/{method.name}", access, request


def request_of(kind: type[Message], device: str) -> Message:
    """A request that names the device's stream or model, and is wrong or in vain otherwise."""
    request = kind()
    if isinstance(request, labeling_pb2.LabelStreamRequest):
        request.opening.stream_id = device
    elif "name" in kind.DESCRIPTOR.fields_by_name:
        request.name = device  # type: ignore[attr-defined]
    return request


def expected(caller: Caller, access: pb.Access, request: type[Message]) -> str:
    """What the proto says, read independently of the server."""
    if not caller.roles:
        return "UNAUTHENTICATED"
    readers = {pb.ROLE_LABELER, pb.ROLE_REVIEWER, pb.ROLE_TRAINER}
    has = set(caller.roles) | ({pb.ROLE_VIEWER} if caller.roles & readers else set())
    if pb.ROLE_ADMIN in has or has & set(access.roles) - {pb.ROLE_DEVICE}:
        return "in"
    if pb.ROLE_DEVICE not in has or pb.ROLE_DEVICE not in access.roles:
        return "PERMISSION_DENIED"
    fields = request.DESCRIPTOR.fields
    scoped = any(f.GetOptions().Extensions[pb.scope] for f in fields) or "opening" in {
        f.name for f in fields
    }
    return "in" if not scoped or caller.who == "device" else "PERMISSION_DENIED"


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


def outcome(channel: grpc.Channel, path: str, request: bytes, secret: str | None) -> str:
    """Whether the call got past the door, or the status that it ended with there."""
    metadata = bearer(secret) if secret else ()
    call = channel.stream_stream(path)(iter([request]), timeout=10, metadata=metadata)
    try:
        next(call, None)
    except grpc.RpcError as failure:
        code = failure.code()
        shut = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        assert code != grpc.StatusCode.DEADLINE_EXCEEDED, path
        return code.name if code in shut else "in"
    finally:
        call.cancel()
    return "in"


JSON, STREAM = "application/json", "application/connect+json"
SHUT = {"unauthenticated": "UNAUTHENTICATED", "permission_denied": "PERMISSION_DENIED"}
STATUS = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}


class Web:
    """One connection to the page of a server."""

    def __init__(self, address: str, context: ssl.SSLContext | None = None) -> None:
        place = urlsplit(address)
        assert place.hostname
        if place.scheme == "https":
            self._line: http.client.HTTPConnection = http.client.HTTPSConnection(
                place.hostname, place.port, timeout=10, context=context
            )
        else:
            self._line = http.client.HTTPConnection(place.hostname, place.port, timeout=10)

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def ask(
        self, path: str, body: bytes | None = None, kind: str = JSON, **headers: str
    ) -> tuple[int, bytes]:
        """Status and content; a POST where there is a body."""
        headers = {"Content-Type": kind, **headers} if body is not None else headers
        self._line.request("GET" if body is None else "POST", path, body, headers)
        answer = self._line.getresponse()
        return answer.status, answer.read()

    def call(self, path: str, message: object, streams: bool, secret: str | None) -> str:
        """Whether an RPC got past the door, or the status that it ended with there."""
        body, header = json.dumps(message).encode(), shown(secret)
        if not streams:
            status, _ = self.ask(path, body, JSON, **header)
            return STATUS.get(status, "in")
        status, content = self.ask(path, struct.pack(">BI", 0, len(body)) + body, STREAM, **header)
        flags, size = struct.unpack_from(">BI", content)
        first = json.loads(content[5 : 5 + size])
        return SHUT.get(first.get("error", {}).get("code"), "in") if flags & 2 else "in"

    def get(self, path: str, secret: str | None) -> str:
        """The same of a file."""
        return STATUS.get(self.ask(path, **shown(secret))[0], "in")


def shown(secret: str | None) -> dict[str, str]:
    """The header of HTTP with a token."""
    return {"Authorization": f"Bearer {secret}"} if secret else {}


@dataclass(frozen=True)
class DoorCall:
    """One call of somebody, and how it ended."""

    path: str
    who: str
    got: str
    wanted: str

    @property
    def as_declared(self) -> bool:
        """Whether it ended as the proto says."""
        return self.got == self.wanted


def calls_of_everybody(channel: grpc.Channel, people: list[Caller]) -> Iterator[DoorCall]:
    """Every method called by everybody over gRPC."""
    for path, access, request in methods():
        for caller in people:
            sent = request_of(request, caller.device).SerializeToString()
            got = outcome(channel, path, sent, caller.secret)
            yield DoorCall(path, caller.who, got, expected(caller, access, request))


def page_calls_of_everybody(web: Web, people: list[Caller]) -> Iterator[DoorCall]:
    """Every method that the page may call, called by everybody through it."""
    for path, access, request in methods():
        found = request.DESCRIPTOR.file.pool.FindMethodByName(path[1:].replace("/", "."))
        for caller in people if not found.client_streaming else ():
            plain = json_format.MessageToDict(request_of(request, caller.device))
            got = web.call(path, plain, found.server_streaming, caller.secret)
            yield DoorCall(path, caller.who, got, expected(caller, access, request))
