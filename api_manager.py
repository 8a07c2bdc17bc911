"""Runs the server from a checkout: `python api_manager.py --serve ...`."""

from ptn_api.cli.serve import main

if __name__ == "__main__":
    main()
