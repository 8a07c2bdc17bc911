"""sink.c in Python, for machines without a compiler."""

import select
import socket
import sys
import time


def main() -> None:
    n, marker = int(sys.argv[1]), sys.argv[2].encode()
    sockets = {3 + i: socket.socket(fileno=3 + i) for i in range(n)}
    tails = dict.fromkeys(sockets, b"")
    left, size, reads = set(sockets), 0, 0
    poll = select.epoll()
    for descriptor in sockets:
        poll.register(descriptor, select.EPOLLIN)
    print("ready", flush=True)
    while left:
        for descriptor, _ in poll.poll():
            data = sockets[descriptor].recv(1 << 20)
            if not data:
                sys.exit(f"socket {descriptor - 3} was closed")
            reads += 1
            size += len(data)
            if marker in tails[descriptor] + data[: len(marker)] or marker in data:
                left.discard(descriptor)
            tails[descriptor] = data[-len(marker) :]
    print(f"{time.monotonic():.6f} {size} {reads}")


main()
