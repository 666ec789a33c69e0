"""Everything that can go wrong, each with its wire status and a message that is safe to send.

    SecondlookError
    ├── InvalidInput        INVALID_ARGUMENT    the caller can mend it
    │   ├── BadImage                            bytes that are no image we can read
    │   ├── ImageTooLarge                       more bytes, pixels or frames than are allowed
    │   ├── BadOntology                         classes that are empty, unknown or contradictory
    │   ├── BadRequest                          a message that breaks the rules of the wire
    │   └── BadSetting                          a flag, variable or file entry that makes no sense
    ├── NotFound            NOT_FOUND           a file, job, snapshot or plug-in that is not there
    ├── NotAllowed          PERMISSION_DENIED   a file that the server was not told it may read
    ├── NotSupported        UNIMPLEMENTED       asked for and known, but not built yet
    ├── MissingExtra        FAILED_PRECONDITION an optional package that is not installed
    ├── NotBetter           FAILED_PRECONDITION a student that finds less than the current one
    ├── ModelDrifted        FAILED_PRECONDITION an exported model worse than the trained one
    ├── AlreadyExists       ALREADY_EXISTS      a name that is taken
    │   └── OutputExists                        a run that would overwrite another one
    ├── Damaged             DATA_LOSS           stored bytes that are not what was stored
    ├── LostLease           ABORTED             another server has taken over the job
    ├── StorageFull         RESOURCE_EXHAUSTED  no room left on the disk
    ├── Busy                RESOURCE_EXHAUSTED  a queue is full; carries a retry hint
    ├── Unavailable         UNAVAILABLE         a model backend or server that does not answer
    │   ├── StoreUnavailable                    the database or blob store does not answer
    │   └── ShuttingDown                        the server finishes what it has and takes no more
    ├── DeadlineExceeded    DEADLINE_EXCEEDED   the caller's time ran out before the work began
    └── Cancelled           CANCELLED           the caller went away

A message names the cause and the way out, and holds nothing private (no path of the server, no
traceback). ``reason`` is a stable word for programs; the class's name in snake case.
"""

import re


class SecondlookError(Exception):
    """Base of all errors that secondlook raises on purpose.

    ``status`` is the name of the gRPC status that an error of this class travels as.
    """

    status = "INTERNAL"

    @property
    def reason(self) -> str:
        """Stable identifier for programs, e.g. ``bad_image``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()


class InvalidInput(SecondlookError):
    """The request itself is wrong; sending it again unchanged cannot succeed."""

    status = "INVALID_ARGUMENT"


class BadImage(InvalidInput):
    """Bytes that are not an image, or one that cannot be decoded whole."""


class ImageTooLarge(InvalidInput):
    """An image over the limit of bytes, pixels or side length."""


class BadOntology(InvalidInput):
    """Classes, phrases or questions that are empty, unknown, too long or contradict each other."""


class BadRequest(InvalidInput):
    """A message that cannot be decoded, or that comes where the protocol does not allow it."""


class BadSetting(InvalidInput):
    """A setting from a flag, an environment variable or a file that is out of range or unknown."""


class NotFound(SecondlookError):
    """A file, folder, job, snapshot, checkpoint or plug-in that does not exist."""

    status = "NOT_FOUND"


class NotAllowed(SecondlookError):
    """A file outside of every folder that the server was told it may read."""

    status = "PERMISSION_DENIED"


class NotSupported(SecondlookError):
    """Something that the protocol knows and this version does not do."""

    status = "UNIMPLEMENTED"


class MissingExtra(SecondlookError):
    """An optional package is needed and not installed; the message has the install command."""

    status = "FAILED_PRECONDITION"


class NotBetter(SecondlookError):
    """A student that finds less than the current version on the same held-out images."""

    status = "FAILED_PRECONDITION"


class ModelDrifted(SecondlookError):
    """An exported student does not find what the trained one finds; it was not kept."""

    status = "FAILED_PRECONDITION"


class AlreadyExists(SecondlookError):
    """A name that is taken by something else of the same kind."""

    status = "ALREADY_EXISTS"


class OutputExists(AlreadyExists):
    """The output folder holds a run made with other settings."""


class Damaged(SecondlookError):
    """Stored bytes are not what was stored, or a row does not fit the others.

    Trying again does not help; ``secondlook check`` says what is wrong.
    """

    status = "DATA_LOSS"


class LostLease(SecondlookError):
    """The job that this server worked on belongs to another one now; nothing was written.

    Never leaves the server: its job runner lets go of the job.
    """

    status = "ABORTED"


class StorageFull(SecondlookError):
    """Writing failed because the disk is full; what was written before is intact."""

    status = "RESOURCE_EXHAUSTED"


class Busy(SecondlookError):
    """A bounded queue is full.

    ``retry_after_s`` (seconds, > 0) is when trying again is likely to succeed.
    """

    status = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(SecondlookError):
    """A model backend or a server that cannot be reached at present; trying again may succeed."""

    status = "UNAVAILABLE"


class StoreUnavailable(Unavailable):
    """The database or the blob store refuses, is too slow or cannot be reached at present.

    Whether the last write was kept is unknown, so it is made again: all writes of the store may
    be repeated.
    """


class ShuttingDown(Unavailable):
    """The server finishes what it accepted and takes nothing new."""


class DeadlineExceeded(SecondlookError):
    """The caller's deadline passed before the work was done; nothing more is computed for it."""

    status = "DEADLINE_EXCEEDED"


class Cancelled(SecondlookError):
    """The caller cancelled or went away; nothing more is computed for it."""

    status = "CANCELLED"
