"""A stand-in for a validator that embeds the API: its own signal handlers, its own queue, a daemon thread.

Reads commands from standard input: a position's JSON puts it on the queue (with enum members in it), `fork`
leaves a process that outlives this one (its number is printed), `quit` ends without a word to the API.
"""

from __future__ import annotations

import enum
import json
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from ptn_api.api_manager import APIManager


class OrderType(enum.Enum):
    LONG = "LONG"
    SHORT = "SHORT"
    FLAT = "FLAT"


def with_enums(position: dict[str, Any]) -> dict[str, Any]:
    orders = [o | {"order_type": OrderType(o["order_type"])} for o in position["orders"]]
    return position | {"orders": orders, "position_type": OrderType(position["position_type"])}


QUEUES: dict[str, Callable[[], Any]] = {
    "queue": queue.Queue,
    "multiprocessing": multiprocessing.Queue,
    "manager": lambda: multiprocessing.Manager().Queue(),
}


def leave_a_worker() -> int:
    """Forks with everything that is open here, except the standard streams that the test waits for."""
    pid = os.fork()
    if pid == 0:
        os.closerange(0, 3)
        signal.pause()
    return pid


def main() -> None:
    settings = json.loads(sys.argv[1])
    handled: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: handled.append(number))
    shared: Any = QUEUES[settings.pop("kind")]()
    manager = APIManager(shared_queue=shared, refresh_interval=15, unknown_keyword=1, **settings)
    threading.Thread(target=manager.run, daemon=True).start()
    for line in sys.stdin:
        if line.strip() == "fork":
            print(leave_a_worker(), flush=True)
            continue
        if line.strip() == "quit":
            os.kill(os.getpid(), signal.SIGUSR1)
            assert handled == [signal.SIGUSR1]
            break
        shared.put({"position": with_enums(json.loads(line)), "origin": "test"})
    if hasattr(shared, "cancel_join_thread"):
        shared.cancel_join_thread()


if __name__ == "__main__":
    main()
