"""Evaluate a checkpoint: metrics per class on a split."""

from segframe.cli.main import run

if __name__ == "__main__":
    run("evaluate")
