"""Predicts images from a checkpoint alone: class-index PNG, colour PNG, overlay; on demand heat and feature maps."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from segframe.cli.main import command, importing
from segframe.config.schema import PredictConfig
from segframe.config.validate import check_keys
from segframe.errors import TO_PREDICT, ImageError, translate_errors


@command("predict")
def main(config: DictConfig) -> None:
    """Predicts one image after the other; one that fails is reported and skipped, and the exit code is then 1."""
    # Imported here, so that --help needs no torch.
    from rich.progress import track

    with importing():
        from segframe.errors import UserError
        from segframe.inference import build
        from segframe.inference.base import autocast_dtype
        from segframe.inference.predict import (
            choose_classes,
            find_images,
            predict,
            read,
            write,
            write_feature_maps,
            write_heatmaps,
            write_key,
        )
        from segframe.models.from_checkpoint import restore

    check_keys(config, PredictConfig)
    if not 0 <= config.alpha <= 1:
        raise UserError(f"alpha must lie between 0 and 1, got {config.alpha}")
    if config.feature_channels < 1:
        raise UserError(f"feature_channels must be at least 1, got {config.feature_channels}")
    output = Path(config.output)
    images = find_images(Path(config.input), output)
    inference, postprocess = build.build_inference(config)
    restored = restore(config.checkpoint, config.output_stride)
    metadata = restored.metadata
    inference = inference.with_training_defaults(metadata.config)
    heated = choose_classes(config.heatmaps, metadata.classes)
    device = build.pick_device(config.accelerator)
    segmenter = restored.segmenter.to(device)
    segmenter.autocast_dtype = autocast_dtype(config.precision, metadata.config)
    write_key(output, metadata.classes, metadata.palette)

    failures = 0
    for path, name in track(images.items(), "predicting", disable=not sys.stderr.isatty()):
        try:
            with translate_errors(less=TO_PREDICT, image=path):
                image = read(path)
                prediction = predict(segmenter, image, inference, postprocess, device)
        except ImageError as error:
            failures += 1
            print(f"skipped: {error}", file=sys.stderr)
            continue
        write(output, name, prediction, metadata.palette, config.alpha)
        write_heatmaps(output, name, prediction, heated, metadata.classes)
        if config.feature_maps:
            write_feature_maps(output, name, image, segmenter, config.feature_channels, device)
    done = f"{len(images) - failures} of {len(images)} images predicted"
    print(f"{done}, in {config.output}; inference: {inference}")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
