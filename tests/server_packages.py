"""Whether the server can run here: `make test-client` tests the client without the server's packages."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["INSTALLED", "MISSING", "NEED_THE_SERVER"]

INSTALLED = find_spec("uvloop") is not None
MISSING = "the server's packages are not installed"
"""Why a test is skipped."""
NEED_THE_SERVER = {
    "client/test_key_privacy.py",
    "client/test_mirror.py",
    "client/test_real_server.py",
    "client/test_rest_transport.py",
    "client/test_testing.py",
}
"""Files whose imports need the server's packages, of those that `make test-client` runs without them."""
