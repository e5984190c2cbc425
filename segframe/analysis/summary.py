"""What a composed network is, without data or training: parameters, FLOPs, feature maps, receptive field."""

import sys
from collections.abc import Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning import seed_everything
from rich.progress import track
from rich.table import Table

from segframe.analysis.model_counts import Summary, find_classes, summarize
from segframe.analysis.receptive_field import Field, describe_field, diameter, effective, theoretical
from segframe.analysis.summary_figure import summary_picture
from segframe.config.resolvers import model_name
from segframe.config.schema import SummaryConfig
from segframe.config.validate import check_keys, check_targets
from segframe.errors import UserError
from segframe.models.build import build_segmenter, load_initial_weights
from segframe.models.weights.third_party import read_weights
from segframe.visualization.overlays import save_png
from segframe.visualization.tables import print_table


def parameters_table(summary: Summary) -> Table:
    """A row per part, and their sum."""
    table = Table()
    table.add_column("part")
    for name in ("parameters", "trained", "fixed"):
        table.add_column(name, justify="right")
    for name, (trained, fixed) in summary.parameters.items():
        table.add_row(name, f"{trained + fixed:,}", f"{trained:,}", f"{fixed:,}")
    table.add_section()
    columns = zip(*summary.parameters.values(), strict=True)
    table.add_row("total", f"{summary.total:,}", *(f"{sum(column):,}" for column in columns), style="bold")
    return table


def maps_table(summary: Summary, fields: Mapping[str, Field]) -> Table:
    """A row per feature map, the logits last; with the theoretical receptive fields where these were measured."""
    height, width = summary.size
    table = Table()
    table.add_column("map")
    for name in ("channels", "stride", f"at {height}x{width}", *(["receptive field"] if fields else [])):
        table.add_column(name, justify="right")
    for row in summary.maps:
        if row.name == "logits":
            table.add_section()
        values = [row.name, f"{row.channels:,}", str(row.stride), "{}x{}".format(*row.shape)]
        table.add_row(*values, *([describe_field(fields[row.name])] if fields else []))
    return table


LARGEST_FIELD = 8192
"""Pixels of a side: the longest strip on which theoretical fields are measured."""


def summarize_model(config: DictConfig) -> dict[str, object]:
    """Build the network, measure it, print tables; returns the columns of a sweep's table."""
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

    seed_everything(config.seed, verbose=False)
    weights = read_weights(config.init_from) if config.init_from else None
    if weights is not None:
        config.normalize = weights.normalize
    segmenter = build_segmenter(config, len(classes)).eval()
    if weights is not None:
        load_initial_weights(segmenter, weights, config, classes)
    fields = theoretical(segmenter)
    print_table(maps_table(summary, fields))
    images = track(range(settings.num_images), "effective receptive field", disable=not sys.stderr.isatty())
    gradient = effective(segmenter, settings.size, images)
    side = diameter(gradient)
    print("receptive field of the logits at the image's centre, side of a square in pixels:")
    print(f"  theoretical {describe_field(fields['logits'])}")
    print(f"  effective   {side} (on {settings.num_images} images of noise of {settings.size}x{settings.size})")
    path = Path(HydraConfig.get().runtime.output_dir) / "summary.png"
    save_png(path, summary_picture(name, summary, fields, gradient.numpy(), side))
    print(f"also in {path}")
    return metrics | {"theoretical RF": describe_field(fields["logits"]).partition(" (")[0], "effective RF": side}
