"""The same door as api_manager.py, under its other documented name: `python main.py --serve ...`."""

import sys

from ptn_api.cli.serve import door

if __name__ == "__main__":
    sys.exit(door())
