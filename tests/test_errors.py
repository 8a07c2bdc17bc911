"""What an exception says."""

from __future__ import annotations

import asyncio
import socket
import ssl

import httpx
import pytest

from ptn_api.errors import error_text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "[Errno -2] Name or service not known"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "certificate verify failed"),
        (asyncio.TimeoutError(), "TimeoutError"),
        (httpx.ReadTimeout(""), "ReadTimeout"),
    ],
)
def test_it_always_says_something(error: BaseException, words: str) -> None:
    """The system's words without Python's decoration; its name where an error says nothing."""
    assert words in error_text(error)
