"""`python main.py --serve ...` starts the server, as api_manager.py does."""

import sys

from ptn_api.cli.serve import door

if __name__ == "__main__":
    sys.exit(door())
