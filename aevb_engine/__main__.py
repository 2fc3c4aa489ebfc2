"""``python -m aevb_engine``: the command line."""

from aevb_cli.main import main

if __name__ == "__main__":
    main()
