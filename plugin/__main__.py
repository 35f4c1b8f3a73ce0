"""Run the command line as ``python -m attnbridge``."""

from attnbridge.cli import main

if __name__ == "__main__":
    main()
