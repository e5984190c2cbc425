"""Replay the step at which a run's loss became NaN or infinite."""

from segframe.cli.main import run

if __name__ == "__main__":
    run("replay")
