"""Summary of a composed network, without data or training: parameters, FLOPs, feature maps, receptive field."""

import sys
from collections.abc import Mapping

from omegaconf import DictConfig
from pytorch_lightning import seed_everything
from rich.progress import track
from rich.table import Table

from segframe.analysis.model_counts import Summary, find_classes, summarize
from segframe.analysis.receptive_field import ReceptiveField, diameter, effective, format_field, theoretical
from segframe.analysis.summary_figure import summary_picture
from segframe.config.composition import network_name, output_folder
from segframe.config.schema import SummaryConfig
from segframe.config.validate import check_keys, check_targets
from segframe.models.build import build_initialized
from segframe.models.weights.checkpoint import find_checkpoint
from segframe.visualization.overlays import save_png
from segframe.visualization.tables import empty_table, print_table


def summarize_model(config: DictConfig) -> dict[str, object]:
    """Build the network, measure it, print tables; return the columns of a sweep's table."""
    check_keys(config, SummaryConfig)
    check_targets(config, without=("data", "transforms", "callbacks", "logger"))
    if config.init_from:
        find_checkpoint(config.init_from)  # read only for the receptive field, but a wrong path is always refused
    classes, assumed = find_classes(config)
    summary = summarize(config, len(classes))
    note = " (assumed; data=... or num_classes=... change it)" if assumed else ""
    print(f"{network_name()}, {len(classes)} classes{note}")
    print_table(parameters_table(summary))
    height, width = summary.size
    print(f"{gflops(summary)} GFLOPs for an image of {height}x{width}, without aux_head:")
    print("2 x the multiply-accumulates of convolutions and matrix products")
    metrics: dict[str, object] = {
        "parameters": summary.total,
        "GFLOPs": gflops(summary),
        "stride": summary.maps[-1].stride,
    }
    if config.receptive_field:
        return metrics | measure_receptive_field(config, summary, classes)
    print_table(maps_table(summary, {}))
    return metrics


def gflops(summary: Summary) -> str:
    """Return the FLOPs in units of 1e9, at least two digits."""
    value = summary.flops / 1e9
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def measure_receptive_field(config: DictConfig, summary: Summary, classes: tuple[str, ...]) -> dict[str, object]:
    """Measure both receptive fields, print them and write summary.png; return the columns of a sweep's table."""
    seed_everything(config.seed, verbose=False)
    segmenter = build_initialized(config, classes).eval()
    fields = theoretical(segmenter)
    print_table(maps_table(summary, fields))
    size, num_images = config.effective_field.size, config.effective_field.num_images
    images = track(range(num_images), "effective receptive field", disable=not sys.stderr.isatty())
    gradient = effective(segmenter, size, images)
    side = diameter(gradient)
    field = format_field(fields["logits"])
    print("receptive field of the logits at the image's centre, side of a square in pixels:")
    print(f"  theoretical {field}")
    print(f"  effective   {side} (on {num_images} images of noise of {size}x{size})")
    path = output_folder() / "summary.png"
    save_png(path, summary_picture(network_name(), summary, fields["logits"], gradient.numpy(), side))
    print(f"also in {path}")
    return {"theoretical RF": field.partition(" (")[0], "effective RF": side}


def parameters_table(summary: Summary) -> Table:
    table = empty_table(("part", "parameters", "trained", "fixed"))
    for name, (trained, fixed) in summary.parameters.items():
        table.add_row(name, f"{trained + fixed:,}", f"{trained:,}", f"{fixed:,}")
    table.add_section()
    columns = zip(*summary.parameters.values(), strict=True)
    table.add_row("total", f"{summary.total:,}", *(f"{sum(column):,}" for column in columns), style="bold")
    return table


def maps_table(summary: Summary, fields: Mapping[str, ReceptiveField]) -> Table:
    """Return a table with a row per feature map, the logits last, and their receptive fields if given."""
    height, width = summary.size
    more = ["receptive field"] if fields else []
    table = empty_table(("map", "channels", "stride", f"at {height}x{width}", *more))
    for row in summary.maps:
        if row.name == "logits":
            table.add_section()
        values = [row.name, f"{row.channels:,}", str(row.stride), "{}x{}".format(*row.shape)]
        table.add_row(*values, *([format_field(fields[row.name])] if fields else []))
    return table
