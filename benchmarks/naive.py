"""A baseline for REST: Flask, which reads and rewrites a JSON file for every request of the whole document.

    python -m benchmarks.naive <file> <port>       # on Waitress

Keys, tiers and limits are checked as the other peers do (checks.py).
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import msgspec
import waitress
from flask import Flask, Response, jsonify, request

from benchmarks.checks import Checks, Holder, Refused, read_setup
from ptn_api import __version__
from ptn_api.wire.about import KeyLimits, Me


def make(path: Path) -> Flask:
    app, setup = Flask(__name__), read_setup()
    checks = Checks(setup)

    def answered(response: Response, holder: Holder, limit: dict[str, str]) -> Response:
        response.headers.update(limit)
        response.make_conditional(request)
        checks.count(holder, request.path, response.status_code, response.content_length or 0)
        return response

    @app.errorhandler(Refused)
    def refused(error: Refused) -> Response:
        return Response(status=error.status, headers=error.headers)

    @app.get("/me")
    def me() -> Response:
        holder, limit = checks.admit(request.headers.get("authorization"))
        limits = KeyLimits(websocket_connections=5, requests_per_minute=setup.requests_per_minute)
        shown = Me(alias=holder.alias, tier=holder.tier, limits=limits, version=__version__)
        return answered(jsonify(msgspec.to_builtins(shown)), holder, limit)

    @app.get("/miner-positions")
    def positions() -> Response:
        holder, limit = checks.admit(request.headers.get("authorization"))
        etag = setup.documents[request.path].headers["etag"].strip('"')
        if request.if_none_match.contains(etag):
            response = Response()
        else:
            response = jsonify(json.loads(path.read_text()))
            response.set_data(gzip.compress(response.get_data(), 6))
            response.headers["Content-Encoding"] = "gzip"
        response.set_etag(etag)
        return answered(response, holder, limit)

    return app


if __name__ == "__main__":
    waitress.serve(make(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), threads=4, _quiet=True)
