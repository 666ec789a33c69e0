"""The audit log: who changed what, from where, and who was refused. One JSON object a line.

    {"time": "2026-03-01T09:00:00.120+00:00", "who": "gate-3", "roles": "device",
     "method": "LabelStream", "address": "10.0.0.7", "result": "OK"}

``result`` is the call's gRPC status. A line of a call is written at its end. A file is appended to,
and renamed to ``FILE.1`` when it is full; so much is kept and no more.
"""

import json
import logging
import os
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from secondlook_client.errors import BadSetting
from secondlook_client.private_files import FILE_MODE

log = logging.getLogger(__name__)

MAX_BYTES, OLDER_FILES = 32 * 2**20, 15
"""Half a gigabyte in all: some two million lines."""


class AuditLog:
    """Writes to a file, or to this process's log. From any thread."""

    def __init__(self, path: str = "", max_bytes: int = MAX_BYTES) -> None:
        """Without a ``path`` lines go to the log, as those of calls do. Raises ``BadSetting``."""
        self._file: _AuditFile | None = None
        if path:
            try:
                self._file = _AuditFile(Path(path), maxBytes=max_bytes, backupCount=OLDER_FILES)
            except OSError as cause:
                why = (cause.strerror or "").lower()
                raise BadSetting(
                    f"the audit log {path} cannot be written: {why}; choose another --audit-log"
                ) from cause

    @property
    def in_file(self) -> bool:
        """Whether there is a file of its own."""
        return self._file is not None

    def write(self, who: str, roles: str, method: str, address: str, result: str) -> None:
        """Append a line."""
        facts = {"who": who, "roles": roles, "method": method, "address": address, "result": result}
        if self._file is None:
            log.info("audit", extra=facts)
            return
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": moment, **facts})
        self._file.emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class _AuditFile(RotatingFileHandler):
    def _open(self) -> TextIOWrapper:
        return open(
            self.baseFilename,
            "a",
            encoding="utf-8",
            opener=lambda path, flags: os.open(path, flags, FILE_MODE),
        )

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own spelling)
        """A full disk must not end calls; that lines are missing is told where it can be."""
        log.exception("the audit log cannot be written; a line is missing: %s", record.msg)
