"""TLS of the server: its certificate and key, read again when the files change.

A new pair is used by the next connection; open ones keep what they began with, so no stream is
dropped. Files that are being replaced, or do not fit each other, change nothing: the pair of before
stays in use, and the log says so.
"""

import logging
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import grpc

from secondlook.config.settings import ServerSettings
from secondlook_client.errors import BadSetting

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 2**20
Signature = tuple[tuple[int, int, int], ...]
"""Of files: when each was changed, its size and its number."""


@dataclass(frozen=True)
class TlsFiles:
    """Where the server's certificate chain, its key, and the CA of its clients are (PEM)."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def of(cls, server: ServerSettings) -> "TlsFiles | None":
        """Those of the settings; None without TLS. Raises ``BadSetting`` for half of a pair."""
        if bool(server.tls_cert) != bool(server.tls_key):
            raise BadSetting("a certificate and its key belong together; give both, or neither")
        if not server.tls_cert:
            if server.tls_client_ca:
                raise BadSetting("--tls-client-ca needs TLS: give --tls-cert and --tls-key too")
            return None
        client_ca = Path(server.tls_client_ca) if server.tls_client_ca else None
        return cls(Path(server.tls_cert), Path(server.tls_key), client_ca)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.cert, self.key, *([self.client_ca] if self.client_ca else []))

    def signature(self) -> Signature:
        """Changes when a file does. Raises ``OSError``."""
        found = [path.stat() for path in self.paths]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)

    def context(self) -> ssl.SSLContext:
        """For servers of Python's own. Raises ``BadSetting`` for files that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # Without a password, so that an encrypted key fails instead of asking a terminal.
            context.load_cert_chain(self.cert, self.key, password="")
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as cause:  # ssl.SSLError is an OSError
            names = ", ".join(map(str, self.paths))
            why = getattr(cause, "reason", None) or getattr(cause, "strerror", None) or str(cause)
            raise BadSetting(
                f"TLS cannot be set up with {names} ({str(why).lower()}): expected a certificate "
                "chain and its key without a password, in PEM"
            ) from cause
        return context

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """For gRPC. Raises ``BadSetting``."""
        self.context()
        cert, key, *ca = (path.read_bytes()[:MAX_FILE_BYTES] for path in self.paths)
        return grpc.ssl_server_certificate_configuration([(key, cert)], ca[0] if ca else None)


class ReloadedTls:
    """What gRPC asks at each handshake, in threads of its own."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises ``BadSetting`` for files that cannot be used."""
        self._files = files
        self._lock = Lock()
        self._signature = self._now()
        self._first = files.configuration()

    def credentials(self) -> grpc.ServerCredentials:
        """With a client CA, clients without a certificate of it cannot connect."""
        mutual = self._files.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(self._first, self._changed, mutual)

    def context(self) -> ssl.SSLContext:
        """As the files are now. Raises ``BadSetting``."""
        return self._files.context()

    def reloading_context(self) -> ssl.SSLContext:
        """For servers of Python's own that listen for long: each handshake looks at the files."""
        context = current = self.context()
        seen = self._signature

        def choose(connection: ssl.SSLObject | ssl.SSLSocket, *_: object) -> None:
            nonlocal current, seen
            found = self._now()
            if found != seen:
                seen = found
                with suppress(BadSetting):  # gRPC's handshakes tell of it in the log
                    current = self.context()
            connection.context = current

        context.sni_callback = choose
        return context

    def _now(self) -> Signature:
        try:
            return self._files.signature()
        except OSError:
            return ()

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration, once, where the files have changed and can be used."""
        with self._lock:
            found = self._now()
            if found == self._signature:
                return None
            try:
                configuration = self._files.configuration()
            except (BadSetting, OSError) as failure:
                self._signature = found
                log.error("the certificate was not reloaded, the one of before stays: %s", failure)
                return None
            if self._now() != found:  # in the middle of a replacement: the next handshake looks
                return None
            self._signature = found
            log.info("the certificate was reloaded")
            return configuration
