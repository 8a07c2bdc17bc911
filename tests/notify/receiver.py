"""A receiver of notifications in its own process: `python receiver.py FOLDER`.

It answers as the first word of the file `mode` tells, and appends every request to the file `requests`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["Receiver", "receiving"]


class Receiver:
    """The process, as a test sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0

    def answer(self, mode: str) -> None:
        """`200`, or another status with optional headers as JSON; `hang`, `close`, `drip`."""
        new = self.folder / "mode.new"
        new.write_text(mode)
        new.replace(self.folder / "mode")

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Each request with `path`, `headers`, `body` (text) and `answered`, the status or mode."""
        try:
            lines = (self.folder / "requests").read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def taken(self, path: str) -> list[dict[str, Any]]:
        """The bodies of the requests for a path that were answered with 200."""
        accepted = [r for r in self.requests if r["path"] == path and r["answered"] == "200"]
        return [json.loads(request["body"]) for request in accepted]

    def answers(self, path: str) -> list[str]:
        return [request["answered"] for request in self.requests if request["path"] == path]


@contextmanager
def receiving(folder: Path) -> Iterator[Receiver]:
    folder.mkdir(parents=True, exist_ok=True)
    receiver = Receiver(folder)
    receiver.answer("200")
    process = subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        receiver.port = int(process.stdout.readline())
        yield receiver
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _serve(folder: Path) -> None:
    writing = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = self.rfile.read(length).decode()
            if len(body.encode()) < length:  # the sender was killed
                self.close_connection = True
                return
            mode, _, headers = (folder / "mode").read_text().partition(" ")
            headers_sent = {name.lower(): value for name, value in self.headers.items()}
            record = {"path": self.path, "headers": headers_sent, "body": body, "answered": mode}
            with writing, (folder / "requests").open("a") as file:
                file.write(json.dumps(record) + "\n")
            if mode == "close":
                self.close_connection = True
                return
            if mode == "hang":
                while (folder / "mode").read_text() == mode:
                    time.sleep(0.01)
                self.close_connection = True
                return
            self.send_response(200 if mode == "drip" else int(mode))
            for name, value in json.loads(headers or "{}").items():
                self.send_header(name, value)
            self.send_header("content-length", "1000000" if mode == "drip" else "0")
            self.end_headers()
            while mode == "drip" and (folder / "mode").read_text() == mode:
                self.wfile.write(b".")
                self.wfile.flush()
                time.sleep(0.02)

        do_GET = do_POST  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:  # a client that went away
            pass

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    sys.stdout.close()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    server.serve_forever(0.05)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
