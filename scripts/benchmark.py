"""Measures segframe and its peers side by side: a table of medians and ratios, JSON, a plot."""

import logging
import os
import tempfile
import warnings
from pathlib import Path

from omegaconf import DictConfig

from segframe.cli.main import command
from segframe.config.schema import BenchmarkConfig
from segframe.config.validate import check_keys


@command("benchmark")
def main(config: DictConfig) -> None:
    """Measures the chosen rows one after the other, each row's variants in turns."""
    # Imported here, so that --help needs no torch.
    import torch
    from hydra.core.hydra_config import HydraConfig
    from segframe.reports import check_picture, check_report

    from segframe.benchmark import growth, report, rows, runner
    from segframe.benchmark.row import Setup
    from segframe.errors import UserError
    from segframe.visualization.tables import console

    check_keys(config, BenchmarkConfig)
    chosen = runner.choose(rows.GROUPS, config.only)
    camvid = Path(config.camvid).expanduser() if config.camvid else None
    if camvid is not None and not camvid.is_dir():
        raise UserError(f"camvid={camvid}: there is no such folder")
    if config.threads is not None:
        cores = os.cpu_count() or 1
        if not 1 <= config.threads <= cores:
            most = f"no more than this machine's {cores} cores"
            raise UserError(f"threads must be at least 1 and {most}, got {config.threads}")
        torch.set_num_threads(config.threads)
    device = torch.device("cuda" if config.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    if config.accelerator not in ("auto", "cpu", "gpu") or (config.accelerator == "gpu" and device.type == "cpu"):
        raise UserError(f"accelerator={config.accelerator}: give auto, cpu, or gpu where there is one")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # what a peer warns of is not the user's
    folder = Path(HydraConfig.get().runtime.output_dir)
    target, picture = Path(config.json or folder / "benchmark.json"), Path(config.plot or folder / "benchmark.png")
    picture_of_growth = target.with_name(f"{target.stem}_growth.png")
    check_report("json", target, "machine", "rows", "growth")
    check_picture("plot", picture)
    if config.growth:
        check_picture("the plot of growth beside json", picture_of_growth)
    points = []
    with tempfile.TemporaryDirectory(prefix="segframe-benchmark-") as scratch:
        setup = Setup(device, config.quick, camvid, Path(scratch))
        results = runner.measure(chosen, setup, lambda line: print(line, flush=True))
        metadata = report.machine(setup)
        if config.growth:
            print("measuring growth", flush=True)
            points = growth.grow(setup)
    # Wide enough for the table where the output is a file.
    out = console(highlight=False, width=max(console().width, report.WIDTH))
    out.print(report.table(results, metadata))
    for line in report.remarks(results):
        out.print(line)
    report.write_json(target, results, metadata, points)
    out.print(f"also in {target}", soft_wrap=True)
    pictures = {picture: lambda path: report.plot(path, results, metadata)}
    if points:
        pictures[picture_of_growth] = lambda path: growth.plot(path, points)
    for path, draw in pictures.items():
        out.print(draw(path), soft_wrap=True)


if __name__ == "__main__":
    main()
