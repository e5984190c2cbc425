"""Predict images with a checkpoint: class maps, overlays, heat maps."""

from segframe.cli.main import run

if __name__ == "__main__":
    run("predict")
