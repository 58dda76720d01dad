"""A local http server of a folder with ranges, which can be told to fail in the ways that servers fail."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from datamodules.streams.transport import Patience

QUICK = Patience(tries=3, timeout_s=0.4, first_wait_s=0.01, longest_wait_s=0.02)


@dataclass
class Behaviour:
    """What the server does.

    faults: file name -> what happens at its next requests, one after another: `drop` (half the answer, then the
    connection closes), `stall` (half, then nothing), `trickle` (one byte now and then), `cut` (a whole answer, too
    short), `flip` (one wrong byte), or a status code. `always` is the same for every request.
    """

    faults: dict[str, list[str]] = field(default_factory=dict)
    always: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    head: bool = True
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def asked(self, name: str, method: str = "GET") -> int:
        return sum(1 for asked, path, _ in self.requests if asked == method and path.endswith(name))


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, Behaviour]]:
    """Serve a folder; gives the URL and what to change."""
    behaviour = Behaviour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            if behaviour.head:
                self._answer(body=False)
            else:
                behaviour.requests.append(("HEAD", self.path, None))
                self.send_error(405)

        def _answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            wanted = self.headers.get("Range")
            behaviour.requests.append((self.command, path, wanted))
            name = path.rsplit("/", 1)[-1]
            waiting = behaviour.faults.get(name, []) if body else []
            fault = waiting.pop(0) if waiting else behaviour.always.get(name, "")
            if fault.isdigit():
                self.send_error(int(fault))
                return
            try:
                data = (folder / path.lstrip("/")).read_bytes()
            except OSError:
                self.send_error(404)
                return
            status = 200
            if wanted and behaviour.ranges:
                first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()  # type: ignore[union-attr]
                data, status = data[int(first) : int(last) + 1 if last else None], 206
            if fault == "flip":
                data = data[:100] + bytes([data[100] ^ 1]) + data[101:]
            if fault == "cut":
                data = data[: len(data) // 2]
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self._send(data, fault)

        def _send(self, data: bytes, fault: str) -> None:
            half = len(data) // 2
            if fault in ("drop", "stall", "trickle"):
                self.wfile.write(data[:half])
                self.wfile.flush()
                at = half
                while fault != "drop" and not behaviour.released.wait(0.05):
                    if fault == "trickle":
                        self.wfile.write(data[at : at + 1])
                        self.wfile.flush()
                        at += 1
                self.close_connection = True
            else:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # the other side went away, which is what is being tested

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", behaviour
    finally:
        behaviour.released.set()
        server.shutdown()
        server.server_close()
