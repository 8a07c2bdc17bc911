"""An HTTP server whose every answer a test writes itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["answering"]


@contextmanager
def answering(
    respond: Callable[[BaseHTTPRequestHandler], object], protocol: str = "HTTP/1.1"
) -> Iterator[str]:
    """A server whose handler calls `respond`; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = protocol
        wbufsize = -1

        def do_GET(self) -> None:
            respond(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
