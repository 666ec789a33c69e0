"""What a call can fail with, each with a stable ``reason`` and a sentence for a person.

    ClientError
    ├── InvalidRequest         INVALID_ARGUMENT     the request is wrong; the same again fails again
    │   ├── BadImage                                bytes that are no image the server can read
    │   ├── ImageTooLarge                           more bytes or pixels than the server takes
    │   ├── BadOntology                             classes that are empty or contradictory
    │   └── MessageTooLarge    (sent by gRPC)       over the size of message that the server takes
    ├── UnreadableFile         (on this machine)    an image's file that cannot be read
    ├── NotSupported           UNIMPLEMENTED        the server does not do this (yet)
    ├── NotReady               FAILED_PRECONDITION  the server lacks a model or package
    ├── NotBetter              FAILED_PRECONDITION  a model that finds less than the current one
    ├── NotFound               NOT_FOUND            no job, snapshot or file of that name
    ├── NotAllowed             PERMISSION_DENIED    a folder that the server may not read
    ├── AlreadyExists          ALREADY_EXISTS       a name that is taken
    ├── Damaged                DATA_LOSS            what the server stored is not whole any more
    ├── Busy                   RESOURCE_EXHAUSTED   the server is full; retried
    ├── StorageFull            RESOURCE_EXHAUSTED   the server's disk is full
    ├── Unavailable            UNAVAILABLE          no server answers, or not to the end; retried
    │   ├── StoreUnavailable                        the server's store does not answer; retried
    │   └── ShuttingDown                            this one is about to stop; retried
    ├── DeadlineExceeded       DEADLINE_EXCEEDED    no answer within ``timeout_s``
    ├── Cancelled              CANCELLED            the call was given up
    ├── ServerFailure          all others           a fault of the server; its log has the details
    ├── ResultsUnread          (on this machine)    a stream whose results nobody reads
    ├── SpoolFull              (on this machine)    frames that the server has not got take all room
    ├── SpoolUnusable          (on this machine)    a spool's folder that cannot be read or written
    ├── CacheUnusable          (on this machine)    a dataset's cache that cannot be read or written
    └── FolderUnusable         (on this machine)    a model's folder that cannot be read or written

Retried means: tried again by the client, as long as ``timeout_s`` and the retry policy allow.
"""

import re
from collections.abc import Mapping


class ClientError(Exception):
    """Base of every error of this package.

    ``retry_after_s`` (seconds) is the server's hint when trying again may succeed, else None.
    """

    def __init__(
        self, message: str, *, reason: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason or re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
        """Stable word for programs: the server's, or the class's name in snake case."""
        self.retry_after_s = retry_after_s


class InvalidRequest(ClientError):
    """The request itself is wrong."""


class BadImage(InvalidRequest):
    """Bytes that are not an image, or one that cannot be decoded whole."""


class ImageTooLarge(InvalidRequest):
    """An image over the server's limit of bytes, pixels or side length."""


class BadOntology(InvalidRequest):
    """Classes, phrases or questions that are empty, too long or contradict each other."""


class MessageTooLarge(InvalidRequest):
    """The whole message is over what the server takes."""


class UnreadableFile(ClientError):
    """An image's file on this machine cannot be read."""


class NotSupported(ClientError):
    """The server does not know this call or does not do this yet."""


class NotReady(ClientError):
    """The server lacks something that it needs for this request."""


class NotBetter(ClientError):
    """A version that finds less than the current one; it can be promoted by force."""


class NotFound(ClientError):
    """There is no job, snapshot or file of that name on the server."""


class NotAllowed(ClientError):
    """A folder or file that the server was not told it may read."""


class AlreadyExists(ClientError):
    """A name that something else of the same kind has on the server."""


class Damaged(ClientError):
    """Something that the server stored is not whole any more; ``secondlook check`` there tells."""


class StorageFull(ClientError):
    """The server has no room left to keep things; what it acknowledged is intact."""


class Busy(ClientError):
    """The server is full and stayed so until the time was over."""


class Unavailable(ClientError):
    """No server answers at the address, or it stopped with the call unanswered."""


class StoreUnavailable(Unavailable):
    """The server's database or blob store does not answer at present."""


class ShuttingDown(Unavailable):
    """The server finishes what it has and takes nothing new."""


class DeadlineExceeded(ClientError):
    """No answer within the time allowed."""


class Cancelled(ClientError):
    """The call was given up before there was an answer."""


class ServerFailure(ClientError):
    """Something failed on the server that is not the request's fault."""


class ResultsUnread(ClientError):
    """A live stream holds so many results that nobody has read that it takes no more frames."""


class SpoolFull(ClientError):
    """The spool of a captured stream holds as much as it may, and shall drop nothing."""


class SpoolUnusable(ClientError):
    """The folder of a spool cannot be read or written, or another process has it."""


class CacheUnusable(ClientError):
    """The folder in which a dataset keeps images cannot be read or written."""


class FolderUnusable(ClientError):
    """A folder of a model's files cannot be read or written, or another process is at it."""


_BY_STATUS: Mapping[str, type[ClientError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "UNIMPLEMENTED": NotSupported,
    "FAILED_PRECONDITION": NotReady,
    "NOT_FOUND": NotFound,
    "PERMISSION_DENIED": NotAllowed,
    "ALREADY_EXISTS": AlreadyExists,
    "DATA_LOSS": Damaged,
    "RESOURCE_EXHAUSTED": Busy,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
}
_BY_REASON: Mapping[str, type[ClientError]] = {
    "bad_image": BadImage,
    "image_too_large": ImageTooLarge,
    "bad_ontology": BadOntology,
    "shutting_down": ShuttingDown,
    "storage_full": StorageFull,
    "store_unavailable": StoreUnavailable,
    "not_better": NotBetter,
    "not_found": NotFound,
    "not_allowed": NotAllowed,
    "already_exists": AlreadyExists,
    "damaged": Damaged,
}


def from_status(
    status: str, message: str, trailing: Mapping[str, str], address: str
) -> ClientError:
    """The typed error for a failed call.

    ``status`` is gRPC's name for it; ``trailing`` the trailing metadata. An answer that carries
    no reason of ours comes from gRPC itself and is put into words that help.
    """
    reason = trailing.get("secondlook-reason", "")
    if not reason:
        return _from_transport(status, message, address)
    kind = _BY_REASON.get(reason) or _BY_STATUS.get(status, ServerFailure)
    hint = trailing.get("secondlook-retry-after-ms", "")
    retry_after_s = int(hint) / 1000 if hint.isdecimal() else None
    return kind(message, reason=reason, retry_after_s=retry_after_s)


def from_reason(reason: str, message: str) -> ClientError:
    """The typed error for one frame that failed while its stream goes on."""
    return _BY_REASON.get(reason, ServerFailure)(message, reason=reason)


def _from_transport(status: str, message: str, address: str) -> ClientError:
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
