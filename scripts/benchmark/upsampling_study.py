"""Compare methods of upsampling: train a small network with each, then measure all of them.

python scripts/benchmark/upsampling_study.py [key=value ...]
"""

import csv
import io
import statistics
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark import schema
from benchmark.measure import interleaved
from benchmark.row import Setup
from segframe.cli.main import Program, run_program
from segframe.data.base import SegmentationDataset
from segframe.errors import UserError
from segframe.files import write_text
from segframe.inference import WholeImage, build
from segframe.inference.base import Inference
from segframe.inference.evaluate import evaluate
from segframe.inference.shift_and_stitch import ShiftAndStitch
from segframe.models.from_checkpoint import restore
from segframe.models.segmenter import Segmenter
from segframe.visualization.tables import plain_table, print_table

ROOT = Path(__file__).resolve().parents[2]
MOST_STEPS = 1_000_000_000
PERIOD = 8
"""Period of checkerboard artifacts in pixels: that of the last three doublings of the resolution."""


def compare_upsampling(config: DictConfig) -> None:
    """Train one network after the other, then measure them in turns; print a table and write upsampling.csv."""
    if not 1 <= config.steps <= MOST_STEPS:
        raise UserError(f"steps={config.steps}: out of range; give 1 to {MOST_STEPS:,}")
    folder = Path(HydraConfig.get().runtime.output_dir)
    runs = train_all(config, folder)
    inferences = {
        name: ShiftAndStitch(row.factor) if "of" in row else WholeImage() for name, row in config.rows.items()
    }
    restored = {name: restore(run / "checkpoints" / "last.ckpt") for name, run in runs.items()}
    metadata = next(iter(restored.values())).metadata
    data = OmegaConf.create(metadata.config["data"])
    dataset = build.build_dataset(data, data.val_split, metadata.classes, trust=[])
    networks = {name: (inferences[name], restored[name].segmenter) for name in runs}
    seconds = measure_seconds(networks, folder)
    rows = []
    for name, (inference, segmenter) in networks.items():
        counts = evaluate(segmenter, dataset, inference, None, 0)
        rows.append(
            {
                "upsampling": name,
                "parameters": f"{sum(p.numel() for p in segmenter.parameters()):,}",
                "ms an image": f"{1000 * statistics.median(seconds[name]):.0f}",
                "checkerboard %": f"{100 * checkerboard_energy(segmenter, inference, dataset):.3f}",
                "val mIoU": f"{counts.metrics('val')['val/miou']:.4f}",
            }
        )
    threads = torch.get_num_threads()
    print_table(plain_table(rows, f"{config.steps} steps each; time: 256x256 pixels, {threads} threads"))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "upsampling.csv", text.getvalue())
    print(f"also in {folder / 'upsampling.csv'}")


def train_all(config: DictConfig, folder: Path) -> dict[str, Path]:
    """Train the network of every row that does not share another's; return the run's folder of each row."""
    runs: dict[str, Path] = {}
    for k, (name, row) in enumerate(config.rows.items()):
        if "of" in row:
            if row.of not in runs:
                raise UserError(f"rows.{name}.of={row.of}: there is no such row before it")
            runs[name] = runs[row.of]
            continue
        runs[name] = folder / f"{k}"
        print(f"training: {name}", flush=True)
        words = ["experiment=upsampling", f"trainer.max_steps={config.steps}", f"output_dir={runs[name].resolve()}"]
        done = subprocess.run([sys.executable, ROOT / "train.py", *words, *row.train], cwd=ROOT, check=False)
        if done.returncode:
            raise UserError(f"training of {name} failed, see above")
    return runs


def measure_seconds(networks: Mapping[str, tuple[Inference, Segmenter]], folder: Path) -> dict[str, list[float]]:
    """Inference times in seconds for an image of 256x256 pixels, by network; the networks are timed in turns."""
    image = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)

    def predict(inference: Inference, segmenter: Segmenter) -> object:
        return inference(segmenter, image).classes()

    with torch.inference_mode():
        calls = {name: partial(predict, *both) for name, both in networks.items()}
        return interleaved(calls, Setup(torch.device("cpu"), False, None, folder))


def checkerboard_energy(segmenter: Segmenter, inference: Inference, dataset: SegmentationDataset) -> float:
    """The share of the full-size scores' variance that repeats every PERIOD pixels over a dataset (0 ... 1).

    Image content averages out over the cells of PERIOD x PERIOD pixels; what remains in the mean cell comes from the
    network, above all from the uneven overlap of transposed convolutions (Odena et al., 2016).
    """
    cells, squares = torch.zeros(()), 0.0
    with torch.inference_mode():
        for k in range(len(dataset)):
            image = dataset[k]["image"][None]
            scores = inference(segmenter, image).full()[0].double()
            c, h, w = scores.shape
            scores = scores[:, : h // PERIOD * PERIOD, : w // PERIOD * PERIOD]
            # The average of an image is content.
            scores = scores - scores.mean((1, 2), keepdim=True)
            cell = scores.reshape(c, h // PERIOD, PERIOD, w // PERIOD, PERIOD).mean((1, 3))
            cells = cells + cell
            squares += float(scores.square().mean((1, 2)).sum())
    mean_cell = cells / len(dataset)
    return float(mean_cell.square().mean((1, 2)).sum()) / (squares / len(dataset))


if __name__ == "__main__":
    schema.register()
    program = Program("benchmark.upsampling_study.compare_upsampling", "upsampling", config_dir=schema.CONFIG_DIR)
    run_program(program)
