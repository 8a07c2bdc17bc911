"""An HTTP/1.1 server: it knows no position and no key, takes a handler and a limiter."""
