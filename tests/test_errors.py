"""Words for exceptions of the system and of libraries."""

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
def test_the_text_of_an_error_is_never_empty(error: BaseException, words: str) -> None:
    """The system's words, or the message, or the class name."""
    assert words in error_text(error)
