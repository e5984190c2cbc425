"""Predicts images from a checkpoint alone: class-index PNG, colour PNG and overlay for each."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from segframe.cli import command


@command("predict")
def main(config: DictConfig) -> None:
    """Predicts one image after the other; a bad file is reported and skipped, and the exit code is then 1."""
    # Imported here, so that --help needs no torch.
    from rich.progress import track

    from segframe import build
    from segframe.errors import UserError
    from segframe.inference.prediction import find_images, predict, write

    if not 0 <= config.alpha <= 1:
        raise UserError(f"alpha must lie between 0 and 1, got {config.alpha}")
    images = find_images(Path(config.input), Path(config.output))
    restored = build.restore(config.checkpoint)
    device = build.pick_device(config.accelerator)
    segmenter = restored.segmenter.to(device)
    failures = 0
    for path, name in track(images.items(), "predicting", disable=not sys.stderr.isatty()):
        try:
            image, classes = predict(segmenter, path, device)
        except UserError as error:
            failures += 1
            print(f"skipped: {error}", file=sys.stderr)
        else:
            write(Path(config.output), name, image, classes, restored.about.palette, config.alpha)
    print(f"{len(images) - failures} of {len(images)} images predicted, in {config.output}")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
