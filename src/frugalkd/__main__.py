"""``python -m frugalkd``: the command line."""

from frugalkd.cli import run

if __name__ == "__main__":
    run()
