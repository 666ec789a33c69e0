"""What the operating system tells of accepted connections."""

import ipaddress
import socket
from contextlib import ExitStack
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import wait_until

from secondlook.server.connections import AcceptedSockets, address_of, crowded_out


@given(st.ip_addresses(), st.integers(1, 65_535))
def test_the_address_is_read_from_grpcs_name_of_a_peer(address: object, port: int) -> None:
    ip = ipaddress.ip_address(str(address))
    name = f"ipv4:{ip}:{port}" if ip.version == 4 else f"ipv6:{quote(f'[{ip}]')}:{port}"
    mapped = getattr(ip, "ipv4_mapped", None)
    assert address_of(name) == (str(mapped or ip), port)


@pytest.mark.parametrize("name", ["", "unix:/run/x", "ipv4:", "ipv4:1.2.3.4", "ipv4:1.2.3.4:x"])
def test_other_peers_have_no_address(name: str) -> None:
    assert address_of(name) is None


def test_accepted_sockets_are_found_measured_and_shut_down() -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # another port's
        port = listening.getsockname()[1]
        clients, accepted = [], []
        for _ in range(3):
            clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
            accepted.append(stack.enter_context(listening.accept()[0]))
        sockets = AcceptedSockets(port)
        sockets.scan()
        addresses = [client.getsockname() for client in clients]
        assert {one.address for one in sockets} == set(addresses)
        clients[1].sendall(bytes(70_001))
        wait_until(lambda: sockets.received(addresses[1]) == 70_001)
        assert sockets.received(addresses[0]) == 0
        assert sockets.received(("127.0.0.1", 1)) is None
        assert sockets.shut_down(addresses[0])
        clients[0].settimeout(5)
        assert clients[0].recv(1) == b""
        accepted[2].close()
        assert sockets.received(addresses[2]) is None
        assert not sockets.shut_down(addresses[2])
        sockets.scan()
        assert addresses[2] not in sockets
        clients[1].sendall(b"still there")
        wait_until(lambda: sockets.received(addresses[1]) == 70_001 + len("still there"))


def test_the_first_to_go_never_called_then_come_those_of_the_largest_client() -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listening.getsockname()[1]
        addresses = []
        for host in ("127.0.0.2", "127.0.0.3", "127.0.0.3", "127.0.0.4", "127.0.0.5"):
            client = socket.create_connection(("127.0.0.1", port), source_address=(host, 0))
            addresses.append(stack.enter_context(client).getsockname())
            stack.enter_context(listening.accept()[0])
        sockets = AcceptedSockets(port)
        sockets.scan()
    alone, early, late, silent, busy = addresses
    spoke = {alone: 1.0, early: 2.0, late: 3.0, busy: 0.0}
    order = crowded_out(sockets, {busy}, spoke, 9)
    assert order == [silent, early, late, alone]
    assert crowded_out(sockets, {busy}, spoke, 2) == [silent, early]
