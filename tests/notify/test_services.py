"""Delivery through Apprise, with its JSON service and a receiver in another process."""

from __future__ import annotations

import logging

import pytest

from ptn_api.errors import SettingsError
from ptn_api.notify.services import Service
from ptn_api.notify.targets import NotDeliveredError, Target
from tests.notify.receiver import Receiver
from tests.notify.test_text import message

SECRET = "tokenThatNobodyMaySee"


def service(receiver: Receiver) -> Service:
    return Service(Target("team", f"json://user:{SECRET}@127.0.0.1:{receiver.port}/chat"))


async def test_an_order_and_a_digest(receiver: Receiver) -> None:
    """One message each."""
    await service(receiver).send([message()])
    await service(receiver).send([message(), message()])
    assert [body["title"] for body in receiver.taken("/chat")] == [
        "BTCUSD LONG +0.5 by 5Synr98g",
        "2 orders by 1 miner in 1 pair",
    ]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("500", "status 500"),
        ("429", "status 429"),
        ("301", "status 301"),
        ("close", "the service did not take it"),
    ],
)
async def test_a_failure_names_the_status_and_nothing_secret(
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    mode: str,
    reason: str,
) -> None:
    """Neither error, log nor standard error has the address. No redirect is followed."""
    receiver.answer(mode + ' {"Location": "/elsewhere"}')
    with caplog.at_level(logging.DEBUG), pytest.raises(NotDeliveredError, match=reason) as caught:
        await service(receiver).send([message()])
    printed = capfd.readouterr()
    assert SECRET not in f"{caught.value}{caplog.text}{printed.out}{printed.err}"
    assert "apprise" not in printed.err.lower()
    assert {request["path"] for request in receiver.requests} == {"/chat"}


@pytest.mark.parametrize(
    "url", [f"nonsense://{SECRET}", f"discord://{SECRET}", "://", f"json://{SECRET}:x:y"]
)
def test_an_unknown_address_is_an_error_without_it(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match=r"^target team: not an address of a service") as caught:
        Service(Target("team", url))
    printed = capfd.readouterr()
    assert SECRET not in f"{caught.value}{printed.out}{printed.err}"


def test_which_addresses_have_secrets() -> None:
    """As Apprise sees it."""
    assert Service(Target("a", f"discord://417421/{SECRET}abc")).has_secret
    assert not Service(Target("a", "json://localhost/x")).has_secret
