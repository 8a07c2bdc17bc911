"""Signed webhooks, against a receiver in another process."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from ptn_api.errors import SettingsError
from ptn_api.notify.targets import NotDeliveredError, Target
from ptn_api.notify.webhook import Webhook, parse_secrets, signature
from tests.notify.receiver import Receiver
from tests.notify.test_text import message

KEY = b"a secret of sixteen or more"
PAGE = Path(__file__).parents[2] / "docs" / "notify.md"


@pytest.fixture
async def webhook(receiver: Receiver) -> AsyncIterator[Webhook]:
    target = Target("desk", f"webhook+http://127.0.0.1:{receiver.port}/orders")
    sender = Webhook(target, [KEY], timeout_s=10)
    yield sender
    await sender.close()


def documented_verify() -> Callable[[str, bytes, bytes], bool]:
    """The receiver's function in docs/notify.md."""
    code = next(
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        if "def verify" in block
    )
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    names: dict[str, Any] = {}
    exec(code, names)
    return names["verify"]  # type: ignore[no-any-return]


async def test_the_order_arrives_as_the_stream_sent_it(receiver: Receiver, webhook: Webhook) -> None:
    """With a signature, and an identity that a repetition repeats."""
    sent = message(late=True)
    await webhook.send([sent])
    await webhook.send([sent])
    first, second = receiver.requests
    assert json.loads(first["body"]) == {
        "sequence": 1,
        "timestamp": 1,
        "data": sent.data,
        "late": True,
    }
    assert first["headers"]["content-type"] == "application/json"
    keys = [request["headers"]["idempotency-key"] for request in (first, second)]
    assert keys[0] == keys[1]
    time_ms, digest = re.fullmatch(  # type: ignore[union-attr]
        r"t=(\d+),v1=([0-9a-f]{64})", first["headers"]["x-ptn-signature"]
    ).groups()
    signed = f"{time_ms}.{first['body']}".encode()
    assert digest == hmac.new(KEY, signed, hashlib.sha256).hexdigest()


async def test_the_documented_receiver_verifies(receiver: Receiver, webhook: Webhook) -> None:
    """It takes a genuine body, and neither another one, another secret nor an old time."""
    await webhook.send([message()])
    (request,) = receiver.requests
    header, body = request["headers"]["x-ptn-signature"], request["body"].encode()
    verify = documented_verify()
    assert verify(header, body, KEY)
    assert not verify(header, body + b" ", KEY)
    assert not verify(header, body, b"another secret")
    assert not verify("t=1", body, KEY)
    assert not verify("", body, KEY)
    old = int(time.time() * 1000) - 301_000
    assert not verify(signature([KEY], old, body), body, KEY)
    assert not verify(header.replace("t=", "t=1"), body, KEY)


def test_two_secrets_sign_during_a_change() -> None:
    """A receiver that knows either of them accepts the body."""
    keys = parse_secrets("the new secret, long\n\nthe old secret, long\n", "x")
    header = signature(keys, int(time.time() * 1000), b"{}")
    assert header.count("v1=") == 2
    assert all(documented_verify()(header, b"{}", key) for key in keys)


@pytest.mark.parametrize("text", ["", "\n", "too short", "long enough for a secret\nshort"])
def test_a_secret_is_long_enough(text: str) -> None:
    with pytest.raises(SettingsError, match="at least 16 characters"):
        parse_secrets(text, "PTN_WEBHOOK_SECRET")


@pytest.mark.parametrize(
    "url", ["webhook+https://:1", "webhook+ftp://h", "webhook+https://h:x/", "webhook+://"]
)
def test_addresses_of_no_receiver(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^target desk: not an address like webhook") as caught:
        Webhook(Target("desk", url), [KEY], timeout_s=1)
    assert url not in str(caught.value)


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 400, 401, 404, 410, 429, 500, 503])
async def test_every_other_status_means_not_delivered(
    receiver: Receiver, webhook: Webhook, status: int
) -> None:
    """And no redirect is followed; only 410 is final."""
    location = f"http://127.0.0.1:{receiver.port}/elsewhere"
    receiver.answer(f"{status} " + json.dumps({"Location": location}))
    with pytest.raises(NotDeliveredError, match=f"status {status}") as caught:
        await webhook.send([message()])
    assert caught.value.gone == (status == 410)
    assert [request["path"] for request in receiver.requests] == ["/orders"]


@pytest.mark.parametrize(
    ("header", "shortest", "longest"),
    [
        ("7", 7, 7),
        ("999999999", 3600, 3600),
        ("-1", 0, 0),
        ("soon", 0, 0),
        (formatdate(0, usegmt=True), 0, 0),
        (formatdate(32_503_680_000, usegmt=True), 3600, 3600),
        ("in 1000 seconds", 600, 1000),
    ],
)
async def test_retry_after(
    receiver: Receiver, webhook: Webhook, header: str, shortest: float, longest: float
) -> None:
    """Seconds or a date, at most an hour."""
    if header == "in 1000 seconds":
        header = formatdate(time.time() + 1000, usegmt=True)
    receiver.answer("503 " + json.dumps({"Retry-After": header}))
    with pytest.raises(NotDeliveredError) as caught:
        await webhook.send([message()])
    assert shortest <= caught.value.retry_after_s <= longest


@pytest.mark.parametrize("mode", ["hang", "drip"])
async def test_a_receiver_that_does_not_finish(receiver: Receiver, mode: str) -> None:
    """The timeout is for the whole exchange, however the receiver spends it."""
    target = Target("desk", f"webhook+http://127.0.0.1:{receiver.port}/orders")
    sender = Webhook(target, [KEY], timeout_s=0.2)
    receiver.answer(mode)
    with pytest.raises(NotDeliveredError):
        await sender.send([message()])
    receiver.answer("200")
    await sender.send([message()])
    await sender.close()


async def test_a_receiver_that_closes_or_is_gone(receiver: Receiver, webhook: Webhook) -> None:
    receiver.answer("close")
    with pytest.raises(NotDeliveredError):
        await webhook.send([message()])
    nowhere = Webhook(Target("desk", "webhook+http://127.0.0.1:1/?token=hidden"), [KEY], timeout_s=10)
    with pytest.raises(NotDeliveredError) as caught:
        await nowhere.send([message()])
    assert "hidden" not in str(caught.value)
    await nowhere.close()


MALFORMED = [
    "HTTP/1.1 302 Found\r\nLocation: http://xn--/\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "no HTTP\r\n\r\n",
]


@pytest.mark.parametrize("answer", MALFORMED)
async def test_a_malformed_response_means_not_delivered(answer: str) -> None:
    """Whatever a receiver answers, its orders are sent again and other targets go on."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        sender = Webhook(Target("desk", f"webhook+http://127.0.0.1:{port}/hidden"), [KEY], timeout_s=10)
        with pytest.raises(NotDeliveredError) as raised:
            await sender.send([message()])
        await sender.close()
    assert "hidden" not in str(raised.value)
    assert not raised.value.gone


async def test_a_test_message_is_signed_too(receiver: Receiver, webhook: Webhook) -> None:
    await webhook.send_test()
    (request,) = receiver.requests
    assert json.loads(request["body"])["type"] == "test"
    assert documented_verify()(request["headers"]["x-ptn-signature"], request["body"].encode(), KEY)
