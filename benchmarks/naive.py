"""A baseline for REST: Flask on Waitress, which reads and rewrites a JSON file for every request."""

from __future__ import annotations

import gzip
import json
import socket
import sys
from pathlib import Path

import waitress
from flask import Flask, Response, jsonify


def main() -> None:
    path = Path(sys.argv[1])
    app = Flask(__name__)

    @app.get("/miner-positions")
    def positions() -> Response:
        response = jsonify(json.loads(path.read_text()))
        response.set_data(gzip.compress(response.get_data(), 6))
        response.headers["Content-Encoding"] = "gzip"
        return response

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    waitress.serve(app, sockets=[listener], threads=4)


main()
