"""Compare methods of upsampling: train a small network with each, then measure all of them.

python scripts/benchmark/upsampling_study.py [key=value ...]
"""

import csv
import io
import subprocess
import sys
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark import schema
from benchmark.upsampling_metrics import checkerboard_energy, interleaved_seconds
from segframe.cli.main import Program, run_program
from segframe.errors import UserError
from segframe.files import write_text
from segframe.inference import WholeImage, build
from segframe.inference.evaluate import evaluate
from segframe.inference.shift_and_stitch import ShiftAndStitch
from segframe.models.from_checkpoint import restore
from segframe.visualization.tables import plain_table, print_table

ROOT = Path(__file__).resolve().parents[2]
MOST_STEPS = 1_000_000_000


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
    seconds = interleaved_seconds(networks)
    rows = []
    for name, (inference, segmenter) in networks.items():
        counts = evaluate(segmenter, dataset, inference, None, 0, torch.device("cpu"))
        rows.append(
            {
                "upsampling": name,
                "parameters": f"{sum(p.numel() for p in segmenter.parameters()):,}",
                "ms an image": f"{1000 * seconds[name]:.0f}",
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


if __name__ == "__main__":
    schema.register()
    program = Program("benchmark.upsampling_study.compare_upsampling", "upsampling", config_dir=schema.CONFIG_DIR)
    run_program(program)
