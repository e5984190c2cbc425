"""Compare runs on the same images: settings that differ, metrics with paired intervals, images that differ most."""

from segframe.cli.main import run

if __name__ == "__main__":
    run("compare")
