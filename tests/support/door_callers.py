"""Who may knock at a server with tokens, and how each call of everybody is to end."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf import descriptor_pool, message_factory
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
