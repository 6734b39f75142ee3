"""``python -m frugalkd``: the command line."""

import sys

from frugalkd.cli import main

if __name__ == "__main__":
    sys.exit(main())
