"""A TCP line between client and server that can be cut, as a bad network does it."""

import contextlib
import socket
import threading


class FlakyLine:
    """Forwards one loopback port to ``target``; a context manager.

    ``target`` may change. It is ``host:port``, or several with commas between: then each connection
    goes to the next one that listens.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lines: list[socket.socket] = []
        self._lock = threading.Lock()
        self._cuts = 0
        self.taken = 0
        """Connections so far."""
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection now, also those that are being made; new ones are let through."""
        with self._lock:
            self._cuts += 1
            for line in self._lines:
                with contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
                line.close()
            self._lines.clear()

    def __enter__(self) -> "FlakyLine":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            cuts = self._cuts
            far = self._connected()
            if far is None:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                if self._cuts != cuts:  # it belongs to before
                    near.close()
                    far.close()
                    continue
                self._lines += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    def _connected(self) -> socket.socket | None:
        targets = self.target.split(",")
        self.taken += 1
        for number in range(len(targets)):
            host, port = targets[(self.taken + number) % len(targets)].rsplit(":", 1)
            with contextlib.suppress(OSError):
                return socket.create_connection((host, int(port)), timeout=5)
        return None


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
