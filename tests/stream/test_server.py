"""The stream over real sockets: what existing clients (version 1) rely on."""

from __future__ import annotations

from tests.stream.live import running


async def test_login_subscribe_and_orders_as_existing_clients_know_them() -> None:
    """The frames of PROTOCOL 1.4, their fields and their order."""
    async with running() as live, live.client() as client:
        head = live.log.head().sequence
        success = await client.login(last_sequence=-1)
        assert success["status"] == "success"
        assert success["message"] == "Authentication successful."
        assert (success["current_sequence"], success["tier"]) == (head, 100)
        status = await client.subscribe(sender_timestamp=77)
        assert status == {
            "type": "subscription_status",
            "status": "success",
            "all": True,
            "action": "subscribe",
            "sender_timestamp": 77,
            "received_timestamp": live.now_ms,
        }
        live.trade()
        message = await client.receive()
        assert list(message) == ["sequence", "timestamp", "data"]
        assert (message["sequence"], message["timestamp"]) == (head + 1, live.now_ms)
        assert message["data"]["position"]["orders"][-1]["order_uuid"]
