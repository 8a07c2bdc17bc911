"""The ports that the server opens."""

from __future__ import annotations

import contextlib
import socket

import pytest

from ptn_api.errors import SettingsError
from ptn_api.process.service import listen


def test_a_taken_port_is_a_clear_error() -> None:
    """No sharing of ports: two servers would split the clients."""
    flags = {"host_flag": "--api-host", "port_flag": "--api-rest-port"}
    with contextlib.closing(listen("127.0.0.1", 0, **flags)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port}.*--api-rest-port") as caught:
            listen("127.0.0.1", port, **flags)
        assert caught.value.code == "port_in_use"
        assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_local_is_a_clear_error(host: str) -> None:
    """It names the flag of the address, since another port would not help."""
    with pytest.raises(SettingsError, match=rf"^cannot listen on {host}: .* address with --api-host$"):
        listen(host, 0, host_flag="--api-host", port_flag="--api-rest-port")
