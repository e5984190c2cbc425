"""Check a dataset before training on it."""

from segframe.cli.main import run

if __name__ == "__main__":
    run("check-data")
