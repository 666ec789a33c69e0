"""A network camera in this process."""

import http.server
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image as PILImage


@contextmanager
def motion_jpeg(pause_s: float, frames: int = 10**6) -> Iterator[tuple[str, list[int]]]:
    """A network camera on a free port: its address, and how often each call was begun."""
    calls: list[int] = []

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            calls.append(0)
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
            self.end_headers()
            for number in range(frames):
                out = io.BytesIO()
                PILImage.new("RGB", (64, 48), (number % 25 * 10,) * 3).save(out, "JPEG")
                head = f"--x\r\nContent-Type: image/jpeg\r\nContent-Length: {out.tell()}\r\n\r\n"
                self.wfile.write(head.encode() + out.getvalue() + b"\r\n")
                calls[-1] += 1
                time.sleep(pause_s)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a camera that hangs up
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/camera.mjpeg", calls
    finally:
        server.shutdown()
        server.server_close()
