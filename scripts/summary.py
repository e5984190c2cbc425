"""Summarize a network: parameters, FLOPs, feature maps, receptive field."""

from segframe.cli.main import run

if __name__ == "__main__":
    run("summary")
