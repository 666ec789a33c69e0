"""Everything that can go wrong: one tree for client and service.

    SecondlookError
    ├── InvalidInput        INVALID_ARGUMENT     the request is wrong; the same again fails again
    │   ├── BadImage                             bytes that are not an image that can be read
    │   │   └── DecodingFailed                   one whose decoding took too much, or crashed
    │   ├── ImageTooLarge                        more bytes, pixels or frames than are allowed
    │   ├── BadOntology                          classes that are empty, unknown or contradictory
    │   ├── BadRequest                           a message that breaks the protocol's rules
    │   │   └── BadSequence                      a frame numbered far above those before it
    │   ├── BadSetting                           a flag, variable or file entry out of range
    │   └── MessageTooLarge                      over the server's message size; sent by gRPC
    ├── NotFound            NOT_FOUND            no file, job, snapshot or plug-in of that name
    ├── NotAuthenticated    UNAUTHENTICATED      no token, or one that is not valid (any more)
    ├── NotAllowed          PERMISSION_DENIED    not for this token; a file outside of every folder
    ├── NotSupported        UNIMPLEMENTED        known to the protocol, not to this version
    ├── NotReady            FAILED_PRECONDITION  something must be done or installed first
    │   ├── MissingExtra                         an optional package that is not installed
    │   ├── NotBetter                            a student that finds less than the current one
    │   └── ModelDrifted                         an exported model worse than the trained one
    ├── AlreadyExists       ALREADY_EXISTS       a name that is taken
    │   └── OutputExists                         a run that would overwrite another one
    ├── Damaged             DATA_LOSS            stored bytes that are not what was stored
    ├── LostLease           ABORTED              another server, or person, has taken it over
    ├── Busy                RESOURCE_EXHAUSTED   a queue is full; carries a retry hint; retried
    ├── StorageFull         RESOURCE_EXHAUSTED   no room left on the disk
    ├── Unavailable         UNAVAILABLE          a server or model backend does not answer; retried
    │   ├── StoreUnavailable                     the database or blob store does not answer; retried
    │   └── ShuttingDown                         the server takes nothing new; retried
    ├── DeadlineExceeded    DEADLINE_EXCEEDED    no answer within the caller's time
    ├── Cancelled           CANCELLED            the caller gave the call up
    ├── ServerFailure       INTERNAL             a fault of the server; its log has the details
    └── LocalFailure        INTERNAL             a fault of the client's machine; never travels
        ├── UnreadableFile                       an image's file that cannot be read
        ├── ResultsUnread                        a stream whose results nobody reads
        ├── SpoolFull                            a captured stream's spool has no room left
        ├── SpoolUnusable                        a spool's folder that cannot be read or written
        ├── CacheUnusable                        a dataset's cache that cannot be read or written
        └── FolderUnusable                       a model's folder that cannot be read or written

A class without a status has its parent's. Retried means: tried again by the client, as long as
``timeout_s`` and the retry policy allow. A message names the cause and the way out, is safe to
send, and holds nothing private (no path of the server, no traceback).
"""

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar


class SecondlookError(Exception):
    """Base of all errors that secondlook raises on purpose."""

    status: ClassVar[str] = "INTERNAL"
    """Name of the gRPC status that an error of this class travels as."""
    reason: str = "secondlook_error"
    """Stable word for programs: the server's, or the class's name in snake case."""
    retry_after_s: float | None = None
    """When trying again is likely to succeed, seconds (> 0); None when nothing is known."""
    from_server: bool = False
    """Whether a server answered with it, or should have answered."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "reason" not in vars(cls):
            cls.reason = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(
        self, message: str, *, reason: str = "", retry_after_s: float | None = None
    ) -> None:
        """``reason`` and ``retry_after_s`` replace those of the class."""
        super().__init__(message)
        if reason:
            self.reason = reason
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class InvalidInput(SecondlookError):
    """The request itself is wrong; sending it again unchanged cannot succeed."""

    status = "INVALID_ARGUMENT"
    field: str = ""
    """Path of the wrong field in the request, e.g. ``ontology.classes[3].name``; or empty."""

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        reason: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        """``field`` is the path of the wrong field, where there is one."""
        super().__init__(message, reason=reason, retry_after_s=retry_after_s)
        if field:
            self.field = field


class BadImage(InvalidInput):
    """Bytes that are not an image, or one that cannot be decoded whole."""


class DecodingFailed(BadImage):
    """An image whose decoding took more time or memory than is allowed, or ended the decoder."""


class ImageTooLarge(InvalidInput):
    """An image over the limit of bytes, pixels or side length."""


class BadOntology(InvalidInput):
    """Classes, phrases or questions that are empty, unknown, too long or contradict each other."""


class BadRequest(InvalidInput):
    """A message that cannot be decoded, or that comes where the protocol does not allow it."""


class BadSequence(BadRequest):
    """A frame whose number is far above those of its stream; it was not stored."""


class BadSetting(InvalidInput):
    """A setting from a flag, an environment variable or a file that is out of range or unknown."""


class MessageTooLarge(InvalidInput):
    """The whole message is larger than the server accepts."""


class NotFound(SecondlookError):
    """A file, folder, job, snapshot, checkpoint or plug-in that does not exist."""

    status = "NOT_FOUND"


class NotAuthenticated(SecondlookError):
    """The server wants a token, and got none, or one that is unknown, expired or revoked."""

    status = "UNAUTHENTICATED"


class NotAllowed(SecondlookError):
    """A call that no role of the token allows, or a file that the server may not read."""

    status = "PERMISSION_DENIED"


class NotSupported(SecondlookError):
    """Something that the protocol knows and this version does not do."""

    status = "UNIMPLEMENTED"


class NotReady(SecondlookError):
    """Something is missing that this request needs: a store, a model, a package."""

    status = "FAILED_PRECONDITION"


class MissingExtra(NotReady):
    """An optional package is needed and not installed; the message has the install command."""


class NotBetter(NotReady):
    """A student that finds less than the current version on the same held-out images.

    It can be promoted by force.
    """


class ModelDrifted(NotReady):
    """An exported student does not find what the trained one finds; it was not kept."""


class AlreadyExists(SecondlookError):
    """A name that something else of the same kind has."""

    status = "ALREADY_EXISTS"


class OutputExists(AlreadyExists):
    """The output folder holds a run made with other settings."""


class Damaged(SecondlookError):
    """Stored bytes are not what was stored, or a row does not fit the others.

    Trying again does not help; ``secondlook check`` says what is wrong.
    """

    status = "DATA_LOSS"


class LostLease(SecondlookError):
    """What this one worked on belongs to another one now; nothing was written.

    Of a job, it never leaves the server: the job's runner gives the job up. Of a box in a review
    queue: another person has it, so ask for the next one.
    """

    status = "ABORTED"


class Busy(SecondlookError):
    """A bounded queue is full, and stayed so until the caller's time was over."""

    status = "RESOURCE_EXHAUSTED"
    retry_after_s = 1.0


class StorageFull(SecondlookError):
    """Writing failed because the disk is full; what was written or acknowledged is intact."""

    status = "RESOURCE_EXHAUSTED"


class Unavailable(SecondlookError):
    """A server or model backend does not answer, or stopped with the call unanswered."""

    status = "UNAVAILABLE"


class StoreUnavailable(Unavailable):
    """The database or the blob store refuses, is too slow or cannot be reached at present.

    Whether the last write was kept is unknown, so it is made again: all writes of the store may
    be repeated.
    """


class ShuttingDown(Unavailable):
    """The server finishes what it accepted and takes nothing new; a restart takes about 1 s."""

    retry_after_s = 1.0


class DeadlineExceeded(SecondlookError):
    """The caller's deadline passed before the work was done; nothing more is computed for it."""

    status = "DEADLINE_EXCEEDED"


class Cancelled(SecondlookError):
    """The caller cancelled or went away; nothing more is computed for it."""

    status = "CANCELLED"


class ServerFailure(SecondlookError):
    """Something failed on the server that is not the request's fault."""


class LocalFailure(SecondlookError):
    """Something failed on the client's machine."""


class UnreadableFile(LocalFailure):
    """An image's file on this machine cannot be read."""


class ResultsUnread(LocalFailure):
    """A live stream holds so many results that nobody has read that it takes no more frames."""


class SpoolFull(LocalFailure):
    """The spool of a captured stream holds as much as it may, and may drop nothing."""


class SpoolUnusable(LocalFailure):
    """The folder of a spool cannot be read or written, or another process uses it."""


class CacheUnusable(LocalFailure):
    """The folder in which a dataset keeps images cannot be read or written."""


class FolderUnusable(LocalFailure):
    """A folder of a model's files cannot be read or written, or another process uses it."""


def _descendants(base: type[SecondlookError]) -> Iterator[type[SecondlookError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _descendants(kind)


_BY_REASON: Mapping[str, type[SecondlookError]] = {
    kind.reason: kind for kind in _descendants(SecondlookError)
}
# Reversed, so that of two classes with one status the first stands: Busy, not StorageFull.
_BY_STATUS: Mapping[str, type[SecondlookError]] = {
    kind.status: kind
    for kind in reversed(SecondlookError.__subclasses__())
    if "status" in vars(kind)
}


def from_status(
    status: str, message: str, trailing: Mapping[str, str], address: str
) -> SecondlookError:
    """The typed error for a failed call.

    ``status`` is gRPC's name for it; ``trailing`` the trailing metadata. An answer that carries
    no reason of ours comes from gRPC itself and is put into words that help.
    """
    reason = trailing.get("secondlook-reason", "")
    if reason:
        kind = _BY_REASON.get(reason) or _BY_STATUS.get(status, ServerFailure)
        failure = kind(message, reason=reason)
    else:
        failure = _from_transport(status, message, address)
    hint = trailing.get("secondlook-retry-after-ms", "")
    failure.retry_after_s = int(hint) / 1000 if hint.isdecimal() else None
    failure.from_server = True
    return failure


def from_reason(reason: str, message: str) -> SecondlookError:
    """The typed error for one frame that failed while its stream goes on."""
    failure = _BY_REASON.get(reason, ServerFailure)(message, reason=reason)
    failure.from_server = True
    return failure


_OF_TLS = re.compile(r"\bssl\b|certificate|handshak", re.IGNORECASE)


def _from_transport(status: str, message: str, address: str) -> SecondlookError:
    if status == "UNAVAILABLE" and _OF_TLS.search(message):
        return Unavailable(
            f"no TLS connection to {address} ({message}); check that the server has TLS, that ca "
            "has its certificate and the address its name, and that it accepts this client's"
        )
    if status == "UNAVAILABLE":
        return Unavailable(
            f"no secondlook server answers at {address} ({message}); start one with "
            "`secondlook serve` or check the address"
        )
    if status == "CANCELLED":  # by the server: a call given up here raises another error
        return Unavailable(
            f"the server at {address} gave the call up, as one that stops does; start it again "
            "with `secondlook serve`"
        )
    if status == "RESOURCE_EXHAUSTED" and "larger than max" in message:
        return MessageTooLarge(
            f"the request is larger than the server at {address} takes ({message}); send a "
            "smaller image or raise the server's max_image_bytes"
        )
    if status == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(f"no answer from {address} in time; allow more with timeout_s")
    if status == "UNIMPLEMENTED":
        return NotSupported(
            f"the server at {address} does not know this call; is it a secondlook server, and "
            "not an older one?"
        )
    kind = _BY_STATUS.get(status, ServerFailure)
    reason = "internal" if kind is ServerFailure else ""
    return kind(f"{status} from {address}: {message}", reason=reason)
