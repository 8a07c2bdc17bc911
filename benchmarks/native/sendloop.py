"""sendloop.c in Python: what a Python program cannot beat."""

import select
import socket
import sys
import time


def run(n: int, messages: int, size: int, marker: bytes) -> None:
    sockets = [socket.socket(fileno=3 + i) for i in range(n)]
    for one in sockets:
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sends = [one.send for one in sockets]
    sys.stdin.readline()
    before = time.process_time()
    message = b"x" * size
    for k in range(messages):
        if k == messages - 1:
            message = message[: -len(marker)] + marker
        for place, send in enumerate(sends):
            try:
                sent = send(message)
            except BlockingIOError:
                sent = 0
            if sent < size:
                _rest(sockets[place], message[sent:])
    print(f"{time.process_time() - before:.4f}")


def _rest(one: socket.socket, data: bytes) -> None:
    while data:
        select.select([], [one], [])
        data = data[one.send(data) :]


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode())
