"""The door: `python api_manager.py --serve ...`."""

import sys

from ptn_api.cli.serve import door

if __name__ == "__main__":
    sys.exit(door())
