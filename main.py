"""The same as api_manager.py, under its other documented name: `python main.py --serve ...`."""

from ptn_api.cli.serve import main

if __name__ == "__main__":
    main()
