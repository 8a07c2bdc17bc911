"""A baseline for the fan-out: a WebSocket server that awaits `send()` for each client in turn."""

from __future__ import annotations

import asyncio
import json
import sys

from websockets.asyncio.server import ServerConnection, serve

from benchmarks.orders import END, message


async def main() -> None:
    clients, messages = int(sys.argv[1]), int(sys.argv[2])
    subscribed: list[ServerConnection] = []
    everybody, forever = asyncio.Event(), asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.recv()
        await connection.send(
            json.dumps({"type": "subscription_status", "action": "subscribe"}).replace(" ", "")
        )
        subscribed.append(connection)
        if len(subscribed) == clients:
            everybody.set()
        await forever.wait()

    async with serve(handler, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await everybody.wait()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        body = message().decode()
        for number in range(messages):
            if number == messages - 1:
                body = body[: -len(END)] + END
            for connection in subscribed:
                await connection.send(body)
        await forever.wait()


if __name__ == "__main__":
    asyncio.run(main())
