"""An HTTP/1.1 server for large, often-requested documents. It calls a handler and a limiter, both protocols.

It exists because nothing available is fast enough and does all of this. Measured side by side, CPU time for a
small response: uvicorn with Starlette 81 us; Granian's RSGI, sending fixed bytes, 32 us; this server 27 us,
with authentication, routing and accounting. Bodies of 22 MB go out at three times Granian's rate.

Beyond a framework's features it has: a minimum download rate, eviction of idle connections at a limit,
certificates that are renewed without a restart, listening sockets handed over from a parent process, and
bodies that share compressed segments (body.py).

- server.py: serves on a listening socket, drains on exit
- acceptor.py: accepts connections within the limit of open files
- connection.py: one connection; responses in the order of the requests, backpressure, timeouts
- connection_limit.py: the cap on open connections
- request.py: bytes in, requests out, with limits
- response.py, body.py, negotiation.py: responses, content codings, ETags
- errors.py: error responses
"""
