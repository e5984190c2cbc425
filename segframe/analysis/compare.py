"""The program that compares runs: measures them, prints the tables and writes the files."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segframe.analysis.compare_groups import compare
from segframe.analysis.comparison import Comparison
from segframe.analysis.comparison_files import write_comparison
from segframe.analysis.measured_run import check_same_images, evaluate_run, read_evaluation
from segframe.config.composition import chosen_options, output_folder
from segframe.config.schema import CompareConfig
from segframe.config.validate import check_keys
from segframe.errors import UserError
from segframe.files import as_named
from segframe.inference.build import describe_postprocess
from segframe.inference.evaluate import check_distances, stored_groups
from segframe.visualization.tables import print_table


def compare_checkpoints(config: DictConfig) -> None:
    """Print the tables of a comparison, and write its files."""
    comparison = measure_comparison(config)
    for table in comparison.tables():
        print_table(table.for_terminal())
    if comparison.note:
        print(comparison.note)
    print(
        f"{len(comparison.images)} images of {comparison.split}; *: the 95 % interval (paired bootstrap) leaves out 0"
    )
    print(f"also in {as_named(comparison.folder)}: comparison.html, .md, .tex, .csv")


def measure_comparison(config: DictConfig) -> Comparison:
    """Measure runs on the same images, and write their comparison as comparison.csv, .md, .tex and .html."""
    check_keys(config, CompareConfig)
    check_distances(config)
    if len(config.runs) < 2:
        raise UserError("runs: give two or more, each a run's folder, a checkpoint, or a folder of evaluate's results")
    stored, asked = stored_groups(), asked_settings(config)
    paths = [Path(path) for path in config.runs]
    results = [read_evaluation(path, asked) for path in paths]
    runs = [result or evaluate_run(path, config, stored) for path, result in zip(paths, results, strict=True)]
    check_same_images(runs)
    comparison = compare(runs, config.resamples, output_folder())
    write_comparison(comparison, config.images)
    return comparison


def asked_settings(config: DictConfig) -> dict[str, Any]:
    """Return the evaluation settings that stored results must match to be reused; None matches any value."""
    names = ("split", "output_stride", "precision", "boundary_distance", "boundary_tolerance")
    asked, choices = {name: config[name] for name in names}, chosen_options()
    if choices["inference"] != "checkpoint":
        settings = OmegaConf.to_container(config.inference, resolve=True)
        asked |= {"inference": choices["inference"], "inference_settings": settings}
    if config.postprocess:
        asked["postprocess_in_words"] = describe_postprocess(config.postprocess)
    return asked
