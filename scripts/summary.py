"""What a composed network is: parameters, FLOPs, feature maps and receptive field, as tables and a picture."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from segframe.cli.main import command
from segframe.config.resolvers import model_name
from segframe.config.schema import SummaryConfig
from segframe.config.validate import check_keys, check_targets
from segframe.models.build import build_segmenter, initialize_from

LARGEST_FIELD = 8192
"""Pixels of a side: the longest strip on which theoretical fields are measured."""


@command("summary")
def main(config: DictConfig) -> dict[str, object]:
    """Builds the network, measures it, and returns what a sweep's table compares."""
    # Imported here, so that --help needs no torch.
    from hydra.core.hydra_config import HydraConfig

    from segframe.analysis.summary import find_classes, maps_table, parameters_table, summarize, told
    from segframe.errors import UserError
    from segframe.visualization.tables import print_table

    check_keys(config, SummaryConfig)
    check_targets(config, without=("data", "transforms", "callbacks", "logger"))
    settings = config.effective_field
    if config.receptive_field and not (32 <= settings.size <= LARGEST_FIELD and settings.num_images >= 1):
        raise UserError(
            f"effective_field needs a size of at least 32 and at most {LARGEST_FIELD:,}, and at least 1 of num_images"
        )
    classes, assumed = find_classes(config)
    summary = summarize(config, len(classes))
    name = model_name(HydraConfig.get())
    why = " (assumed; data=... or num_classes=... change it)" if assumed else ""
    print(f"{name}, {len(classes)} classes{why}")
    print_table(parameters_table(summary))
    height, width = summary.size
    print(f"{summary.flops / 1e9:,.1f} GFLOPs for an image of {height}x{width}, without aux_head:")
    print("2 x the multiply-accumulates of convolutions and matrix products")
    metrics: dict[str, object] = {
        "parameters": summary.total,
        "GFLOPs": f"{summary.flops / 1e9:.1f}",
        "stride": summary.maps[-1].stride,
    }
    if not config.receptive_field:
        print_table(maps_table(summary, {}))
        return metrics

    from pytorch_lightning import seed_everything
    from rich.progress import track

    from segframe.analysis.receptive_field import diameter, effective, theoretical
    from segframe.analysis.summary_figure import summary_picture
    from segframe.visualization.overlays import save_png

    seed_everything(config.seed, verbose=False)
    segmenter = build_segmenter(config, len(classes)).eval()
    if config.init_from:
        initialize_from(segmenter, config, classes)
    fields = theoretical(segmenter)
    print_table(maps_table(summary, fields))
    images = track(range(settings.num_images), "effective receptive field", disable=not sys.stderr.isatty())
    gradient = effective(segmenter, settings.size, images)
    side = diameter(gradient)
    print("receptive field of the logits at the image's centre, side of a square in pixels:")
    print(f"  theoretical {told(fields['logits'])}")
    print(f"  effective   {side} (on {settings.num_images} images of noise of {settings.size}x{settings.size})")
    path = Path(HydraConfig.get().runtime.output_dir) / "summary.png"
    save_png(path, summary_picture(name, summary, fields, gradient.numpy(), side))
    print(f"also in {path}")
    return metrics | {"theoretical RF": told(fields["logits"]).partition(" (")[0], "effective RF": side}


if __name__ == "__main__":
    main()
