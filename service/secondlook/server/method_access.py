"""Who may make which call, as the protos declare it (``protos/secondlook/v1/access.proto``)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, MethodDescriptor

from secondlook.core.access import Role, TokenAccess
from secondlook_client.errors import NotAllowed, ServerFailure
from secondlook_client.v1 import access_pb2 as pb

HEALTH = "/grpc.health."
"""Methods that need no token: who checks whether the server lives has none."""
REFLECTION = "/grpc.reflection."
"""Methods for whoever may read."""
SCOPES = {int(pb.SCOPE_STREAM): "stream", int(pb.SCOPE_MODEL): "model"}


@dataclass(frozen=True)
class ScopedField:
    """A field of a request that names a stream or a model."""

    path: tuple[str, ...]
    scope: int
    """A number of ``access.proto``'s Scope."""

    def named(self, request: Any) -> str | None:
        """What is named there; None where the message that has the field is not given."""
        *outer, name = self.path
        for part in outer:
            if not request.HasField(part):
                return None
            request = getattr(request, part)
        return str(getattr(request, name))


@dataclass(frozen=True)
class MethodAccess:
    """What is declared of one method."""

    path: str
    """``/package.Service/Name``."""
    roles: frozenset[Role]
    changes: bool = False
    """Its calls go into the audit log."""
    changes_if: str = ""
    """So do those with something in this field of the request."""
    scoped: tuple[ScopedField, ...] = ()

    @property
    def name(self) -> str:
        """Of the method alone."""
        return self.path.rpartition("/")[2]

    def check_role(self, who: str, access: TokenAccess) -> None:
        """Raises ``NotAllowed`` where no role of the token called ``who`` suffices."""
        if not access.grants(self.roles):
            has, needed = ", ".join(sorted(access.roles)), ", ".join(sorted(self.roles))
            raise NotAllowed(
                f"the token '{who}' has the role {has}, and {self.name} needs {needed}; use "
                "another token"
            )

    def check_scope(self, who: str, access: TokenAccess, request: Any) -> None:
        """Raises ``NotAllowed`` where a device names a stream or model that is not its own."""
        own = {"stream": access.streams, "model": access.models}
        for field in self.scoped:
            name = field.named(request)
            kind = SCOPES[field.scope]
            if name == "":
                raise NotAllowed(
                    f"the token '{who}' is of a device, which names one of its {kind}s; name one"
                )
            if name is not None and name not in own[kind]:
                raise NotAllowed(
                    f"the token '{who}' is of a device whose {kind}s do not include '{name:.80}'; "
                    f"make one with --{kind} for it"
                )

    def changed_by(self, request: Any) -> bool:
        """Whether a call with this request changes something."""
        return bool(getattr(request, self.changes_if))


def declared_access(services: Sequence[str]) -> Mapping[str, MethodAccess]:
    """What the protos declare of each method of these services, by path.

    Raises ``ServerFailure`` for a method without roles, or with a field that is not there.
    """
    pool = descriptor_pool.Default()
    found = [
        _declared(method)
        for service in services
        for method in pool.FindServiceByName(service).methods
    ]
    return {method.path: method for method in found}


def _declared(method: MethodDescriptor) -> MethodAccess:
    access = method.GetOptions().Extensions[pb.access]
    roles = frozenset(_role(number) for number in access.roles)
    if not roles:
        raise ServerFailure(
            f"{method.full_name} declares no role in its proto; a server does not start with it"
        )
    changes_if = access.changes_if
    if changes_if and changes_if not in method.input_type.fields_by_name:
        raise ServerFailure(f"{method.full_name} has no field '{changes_if}' to tell changes by")
    path = f"/{method.containing_service.full_name}/{method.name}"
    scoped = tuple(_scoped(method.input_type))
    return MethodAccess(path, roles, access.changes, changes_if, scoped)


def _role(number: int) -> Role:
    return Role(pb.Role.Name(pb.Role.ValueType(number)).removeprefix("ROLE_").lower())


def _scoped(message: Descriptor, outer: tuple[str, ...] = ()) -> Iterator[ScopedField]:
    """The fields of a message, and of the messages inside, that name streams and models."""
    for field in message.fields:
        path = (*outer, field.name)
        if scope := field.GetOptions().Extensions[pb.scope]:
            yield ScopedField(path, scope)
        elif field.message_type is not None and not field.is_repeated:
            yield from _scoped(field.message_type, path)
