"""Views over the log's state, and the HTTP server that hands them out.

A document is a list of references to blocks (`block`, `snapshot`); a miner's part of it is a `piece`, built
when that miner changes. `views` holds the pieces, `follower` keeps them up with the log and the clock.
`routes` is the table of what can be asked, `app` answers by it, `connection` and `server` are the sockets.
"""

from ptn_api.rest.options import RestOptions
from ptn_api.rest.run import run_rest

__all__ = ["RestOptions", "run_rest"]
