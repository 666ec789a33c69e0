"""The server's TCP connections as the operating system sees them: how many, whose, what they sent.

gRPC tells Python of a connection only the calls on it, but a message that is not whole yet takes
memory and a connection without calls takes a descriptor. On Linux both are known exactly: from the
process's own descriptors and the kernel's counts of bytes (``TCP_INFO``). Elsewhere nothing is
known here; then only the number of calls, gRPC's own limit of connections and its timeouts hold.
"""

import ipaddress
import logging
import os
import resource
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

log = logging.getLogger(__name__)

DESCRIPTORS = Path("/proc/self/fd")
RESERVED_DESCRIPTORS = 256
"""For the store, child processes, files and listening: connections get what is left."""
MIN_CONNECTIONS = 16
MAX_DESCRIPTORS = 65_536
"""The soft limit is not raised beyond this: some libraries close every number up to it."""
BYTES_RECEIVED = struct.Struct("=128xQ")
"""``tcpi_bytes_received`` of Linux's ``struct tcp_info``, since 4.1."""


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit of open files towards the hard one; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= highest:
        return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    with suppress(OSError, ValueError):  # a sandbox may forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connection_budget(wanted: int, descriptors: int) -> int:
    """How many connections fit beside everything else: at most ``wanted``."""
    return min(wanted, max(descriptors - RESERVED_DESCRIPTORS, MIN_CONNECTIONS))


Address = tuple[str, int]
"""IP address and port of a client."""


def address_of(peer: str) -> Address | None:
    """The client's address from gRPC's name for it, as ``ipv4:127.0.0.1:5`` or ``ipv6:[::1]:5``."""
    kind, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return _normalized(host.strip("[]")), int(port)


def _normalized(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


@dataclass(eq=False)
class AcceptedSocket:
    """One accepted connection, from the scan that found it on."""

    descriptor: int
    inode: int
    address: Address
    found: int
    """Number of the scan that found it: lower is older."""


class AcceptedSockets:
    """The sockets that were accepted at one port of this process. Not thread-safe."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: dict[Address, AcceptedSocket] = {}
        self._others: dict[int, int] = {}
        """Inodes of descriptors that are no such sockets."""
        self._scans = 0

    def __len__(self) -> int:
        return len(self._sockets)

    def __iter__(self) -> Iterator[AcceptedSocket]:
        return iter(self._sockets.values())

    def __contains__(self, address: Address) -> bool:
        return address in self._sockets

    def scan(self) -> None:
        """Look at all descriptors of the process: about 2 µs for each known one."""
        self._scans += 1
        known = {one.descriptor: one for one in self._sockets.values()}
        present: dict[Address, AcceptedSocket] = {}
        others: dict[int, int] = {}
        for descriptor in _descriptors():
            try:
                inode = os.fstat(descriptor).st_ino
            except OSError:
                continue
            one = known.get(descriptor)
            if one is not None and one.inode == inode:
                present[one.address] = one
            elif (
                self._others.get(descriptor) == inode
                or (address := self._client_of(descriptor)) is None
            ):
                others[descriptor] = inode
            else:
                present[address] = AcceptedSocket(descriptor, inode, address, self._scans)
        self._sockets, self._others = present, others

    def received(self, address: Address) -> int | None:
        """Bytes that the client has sent, those in the kernel's buffer included.

        None for an unknown connection, one that has ended, and where the system does not tell.
        """
        one = self._sockets.get(address)
        if one is None:
            return None
        with suppress(OSError, struct.error):
            if os.fstat(one.descriptor).st_ino == one.inode:
                with _borrowed(one.descriptor) as connection:
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                return int(BYTES_RECEIVED.unpack_from(info)[0])
        return None

    def shut_down(self, address: Address) -> bool:
        """End a connection; gRPC notices, cancels its calls and closes the descriptor."""
        one = self._sockets.pop(address, None)
        if one is None:
            return False
        try:
            copy = os.dup(one.descriptor)  # whatever the number stands for later, this stays
        except OSError:
            return False
        with socket.socket(fileno=copy) as connection, suppress(OSError):
            if os.fstat(copy).st_ino == one.inode:
                connection.shutdown(socket.SHUT_RDWR)
                return True
        return False

    def _client_of(self, descriptor: int) -> Address | None:
        with suppress(OSError), _borrowed(descriptor) as connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            if connection.getsockname()[1] == self._port:
                host, port = connection.getpeername()[:2]
                return _normalized(host.partition("%")[0]), port
        return None


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir(DESCRIPTORS)]  # noqa: PTH208 (twice as fast)
    except OSError:
        return []


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Somebody else's socket, which is not closed at the end. Raises ``OSError`` for no socket."""
    connection = socket.socket(fileno=descriptor)
    try:
        yield connection
    finally:
        connection.detach()


def crowded_out(
    sockets: Sequence[AcceptedSocket], busy: set[Address], spoke: dict[Address, float], excess: int
) -> list[Address]:
    """The ``excess`` connections that are the first to go; none that is ``busy`` with a call.

    First those that never made a call (``spoke`` has when a connection made its last one), then
    those of the client with the most connections, then those idle for longest.
    """
    hosts = Counter(one.address[0] for one in sockets)

    def rank(one: AcceptedSocket) -> tuple[bool, int, float, int]:
        last = spoke.get(one.address)
        return last is not None, -hosts[one.address[0]], last or 0.0, one.found

    idle = sorted((one for one in sockets if one.address not in busy), key=rank)
    return [one.address for one in idle[:excess]]
