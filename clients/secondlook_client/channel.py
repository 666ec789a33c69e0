"""How a connection behaves, whether it is encrypted, and the token that goes with each call.

The same for both clients.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

import grpc

from secondlook_client.addresses import (
    CA_VARIABLE,
    CERT_VARIABLE,
    KEY_VARIABLE,
    PLAIN_TOKEN_VARIABLE,
    TLS,
    TOKEN_FILE_VARIABLE,
    TOKEN_VARIABLE,
    is_this_machine,
    is_unix,
)
from secondlook_client.errors import BadSetting, NotFound

OPTIONS: tuple[tuple[str, int], ...] = (
    # The server limits the size of messages, the client does not.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A connection that died without notice is detected within 40 s, not after hours.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # By default gRPC waits up to two minutes before it looks for a restarted server.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
MAX_FILE_BYTES = 2**20
"""Of a certificate or a token; a device without end must not fill the memory."""


class AccessOptions(TypedDict, total=False):
    """How a client shows who it is, and knows the server; keyword arguments of the clients.

    ``token``: the secret of a token of the server. ``ca``: file of the certificates that the
    server's is checked against (default: those that gRPC knows). ``cert`` and ``key``: files of
    the client's own certificate, for servers with ``--tls-client-ca``. ``tls``: encrypt; so do an
    address ``tls://host:port``, ``ca`` and ``cert``. ``plain_token``: send the token to another
    machine without encryption, where anybody on the way can read and use it.
    """

    token: str
    tls: bool
    ca: str | os.PathLike[str]
    cert: str | os.PathLike[str]
    key: str | os.PathLike[str]
    plain_token: bool


@dataclass(frozen=True)
class ServerAccess:
    """``AccessOptions`` with what the environment gives in their place."""

    token: str = field(default="", repr=False)
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    plain_token: bool = False

    @classmethod
    def given(
        cls, options: AccessOptions, environ: Mapping[str, str] | None = None
    ) -> "ServerAccess":
        """``SECONDLOOK_TOKEN`` (or ``SECONDLOOK_TOKEN_FILE``), ``SECONDLOOK_CA``,
        ``SECONDLOOK_CLIENT_CERT`` and ``SECONDLOOK_CLIENT_KEY`` stand in for options.

        Raises ``TypeError`` for an unknown option, ``NotFound`` and ``BadSetting``.
        """
        if unknown := options.keys() - {own.name for own in fields(cls)}:
            raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(unknown))}")
        environ = os.environ if environ is None else environ
        token = options.get("token") or environ.get(TOKEN_VARIABLE, "")
        if token:
            token = _checked(token, "the token given")
        elif file := environ.get(TOKEN_FILE_VARIABLE):
            token = read_token(file)
        files = options.get("ca"), options.get("cert"), options.get("key")
        ca, cert, key = (os.fspath(file or "") for file in files)
        return cls(
            token=token,
            tls=bool(options.get("tls") or ca or cert),
            ca=ca or environ.get(CA_VARIABLE, ""),
            cert=cert or environ.get(CERT_VARIABLE, ""),
            key=key or environ.get(KEY_VARIABLE, ""),
            plain_token=options.get("plain_token", bool(environ.get(PLAIN_TOKEN_VARIABLE))),
        )

    def channel(self, address: str, *, aio: bool = False) -> Any:
        """A channel to ``address``, which sends the token with each call.

        Raises ``NotFound`` and ``BadSetting``, also where the token would be readable on its way.
        """
        make = grpc.aio if aio else grpc
        encrypted = self.tls or address.startswith(TLS)
        target = address.removeprefix(TLS)
        if encrypted:
            channel = make.secure_channel(target, self._credentials(), options=OPTIONS)
        else:
            self._check_plain(target)
            channel = make.insecure_channel(target, options=OPTIONS)
        # A local socket is for programs of the server's own user, which need no token.
        return NamedChannel(channel, "" if is_unix(target) else self.token)

    def _check_plain(self, target: str) -> None:
        if self.token and not self.plain_token and not is_this_machine(target):
            raise BadSetting(
                f"the token would travel to {target} unencrypted; use {TLS}{target} (with --ca "
                "FILE or ca= for a certificate of your own), or say --plain-token "
                "(plain_token=True)"
            )

    def _credentials(self) -> grpc.ChannelCredentials:
        if bool(self.cert) != bool(self.key):
            raise BadSetting("a client's certificate and its key belong together; give both")
        return grpc.ssl_channel_credentials(
            *(_content(path) if path else None for path in (self.ca, self.key, self.cert))
        )


class NamedChannel:
    """A channel of either client whose methods know their names, for traces; it adds the token, if
    there is one, to the metadata of each call."""

    def __init__(self, channel: Any, token: str) -> None:
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.close = channel.close

    def unary_unary(self, name: str, **more: Any) -> "_CallsWithMetadata":
        """As of the channel."""
        return _CallsWithMetadata(name, self._channel.unary_unary(name, **more), self._metadata)

    def unary_stream(self, name: str, **more: Any) -> "_CallsWithMetadata":
        """As of the channel."""
        return _CallsWithMetadata(name, self._channel.unary_stream(name, **more), self._metadata)

    def stream_unary(self, name: str, **more: Any) -> "_CallsWithMetadata":
        """As of the channel."""
        return _CallsWithMetadata(name, self._channel.stream_unary(name, **more), self._metadata)

    def stream_stream(self, name: str, **more: Any) -> "_CallsWithMetadata":
        """As of the channel."""
        return _CallsWithMetadata(name, self._channel.stream_stream(name, **more), self._metadata)


class _CallsWithMetadata:
    """gRPC's callable of one method, with metadata."""

    def __init__(self, name: str, method: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self.name = name.removeprefix("/")
        self._method = method
        self._metadata = metadata

    def __call__(self, *given: Any, metadata: tuple[tuple[str, str], ...] = (), **more: Any) -> Any:
        return self._method(*given, metadata=(*self._metadata, *metadata), **more)

    def future(self, *given: Any, **more: Any) -> Any:
        """As of gRPC's."""
        return self._method.future(*given, metadata=self._metadata, **more)


def read_token(path: str | os.PathLike[str]) -> str:
    """The secret in a file. Raises ``NotFound``, and ``BadSetting`` for what is no token."""
    return _checked(_content(path).decode("ascii", "replace"), f"the file {os.fspath(path)}")


def _checked(text: str, source: str) -> str:
    """A token as it may travel: gRPC would name what it cannot send in its error."""
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise BadSetting(f"{source} is no token: expected the secret alone, in one line")
    return token


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as cause:
        why = os.strerror(cause.errno or 0).lower()
        raise NotFound(f"the file {os.fspath(path)} cannot be read: {why}") from cause
