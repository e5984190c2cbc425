"""Export a checkpoint as one file for other programs."""

from segframe.cli.main import run

if __name__ == "__main__":
    run("export")
