"""The ports that the server opens."""

from __future__ import annotations

import contextlib
import socket

import pytest

from ptn_api.errors import SettingsError
from ptn_api.process.service import listen


def test_a_taken_port_is_a_clear_error() -> None:
    """No sharing of ports: two servers would split the clients."""
    with contextlib.closing(listen("127.0.0.1", 0, "--api-rest-port")) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port}.*--api-rest-port") as caught:
            listen("127.0.0.1", port, "--api-rest-port")
        assert caught.value.code == "port_in_use"
        assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


def test_a_foreign_address_is_a_clear_error() -> None:
    """Listening on an address that is not ours names it."""
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0, "--api-host")
