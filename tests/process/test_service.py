"""The ports that the server opens."""

from __future__ import annotations

import contextlib
import os
import select
import socket

import pytest

from ptn_api.errors import SettingsError
from ptn_api.process.service import listen, listen_again
from tests.waiting import PATIENCE_S


def test_a_taken_port_is_a_clear_error() -> None:
    """No sharing of ports: two servers would split the clients."""
    flags = {"host_flag": "--api-host", "port_flag": "--api-rest-port"}
    with contextlib.closing(listen("127.0.0.1", 0, **flags)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            SettingsError, match=f"port {port}.* process {os.getpid()}: .*--api-rest-port"
        ) as caught:
            listen("127.0.0.1", port, **flags)
        assert caught.value.code == "port_in_use"
        assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


def test_a_port_is_shared_by_the_processes_of_one_server_only() -> None:
    """All of them get connections, and a second server with several processes is refused too."""
    flags = {"host_flag": "--api-host", "port_flag": "--api-ws-port"}
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(listen("127.0.0.1", 0, shared=True, **flags))
        address = first.getsockname()
        listeners = [first, *(stack.enter_context(listen_again(first)) for _ in range(2))]
        assert {listener.getsockname() for listener in listeners} == {address}
        with pytest.raises(SettingsError, match="--api-ws-port"):
            listen(*address, shared=True, **flags)
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(200)]
        accepted = []
        while len(accepted) < len(clients):
            for listener in select.select(listeners, [], [], PATIENCE_S)[0]:
                accepted.append((listener, stack.enter_context(listener.accept()[0])))
        assert {listener for listener, _ in accepted} == set(listeners)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_local_is_a_clear_error(host: str) -> None:
    """It names the flag of the address, since another port would not help."""
    with pytest.raises(SettingsError, match=rf"^cannot listen on {host}: .* address with --api-host$"):
        listen(host, 0, host_flag="--api-host", port_flag="--api-rest-port")
