"""Predicts images from a checkpoint alone: class-index PNG, colour PNG, overlay; on demand heat and feature maps."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from segframe.checks import check_keys
from segframe.cli import command, importing
from segframe.config import PredictConfig


@command("predict")
def main(config: DictConfig) -> None:
    """Predicts one image after the other; one that fails is reported and skipped, and the exit code is then 1."""
    # Imported here, so that --help needs no torch.
    from rich.progress import track

    with importing():
        from segframe import trouble
        from segframe.errors import UserError
        from segframe.inference import building
        from segframe.inference.base import autocast_dtype
        from segframe.inference.prediction import (
            choose_classes,
            find_images,
            predict,
            read,
            write,
            write_feature_maps,
            write_heatmaps,
            write_key,
        )
        from segframe.restore import restore

    check_keys(config, PredictConfig)
    if not 0 <= config.alpha <= 1:
        raise UserError(f"alpha must lie between 0 and 1, got {config.alpha}")
    if config.feature_channels < 1:
        raise UserError(f"feature_channels must be at least 1, got {config.feature_channels}")
    output = Path(config.output)
    images = find_images(Path(config.input), output)
    inference, postprocess = building.build_inference(config)
    restored = restore(config.checkpoint, config.output_stride)
    about = restored.about
    inference = inference.suited_to(about.config)
    heated = choose_classes(config.heatmaps, about.classes)
    device = building.pick_device(config.accelerator)
    segmenter = restored.segmenter.to(device)
    segmenter.autocast_dtype = autocast_dtype(config.precision, about.config)
    write_key(output, about.classes, about.palette)

    failures = 0
    for path, name in track(images.items(), "predicting", disable=not sys.stderr.isatty()):
        try:
            with trouble.named(less=trouble.TO_PREDICT, image=path):
                image = read(path)
                prediction = predict(segmenter, image, inference, postprocess, device)
        except trouble.UnfitImage as error:
            failures += 1
            print(f"skipped: {error}", file=sys.stderr)
            continue
        write(output, name, prediction, about.palette, config.alpha)
        write_heatmaps(output, name, prediction, heated, about.classes)
        if config.feature_maps:
            write_feature_maps(output, name, image, segmenter, config.feature_channels, device)
    done = f"{len(images) - failures} of {len(images)} images predicted"
    print(f"{done}, in {config.output}; inference: {inference}")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
