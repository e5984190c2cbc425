"""Figures of a checkpoint on a split: a table per class on the terminal, and metrics.json."""

import json
import sys
from pathlib import Path

from omegaconf import DictConfig

from segframe.cli.checkpoint_data import offer_data
from segframe.cli.main import command, importing
from segframe.config.schema import EvaluateConfig
from segframe.config.validate import check_keys
from segframe.errors import TO_PREDICT, translate_errors
from segframe.files import write_text


@command("evaluate")
def main(config: DictConfig) -> None:
    """Predicts every image at its original size and counts."""
    # Imported here, so that --help needs no torch.
    from hydra.core.hydra_config import HydraConfig

    with importing():
        from segframe.inference import build
        from segframe.inference.base import autocast_dtype
        from segframe.inference.evaluate import evaluate
        from segframe.inference.metrics import compute_metrics
        from segframe.models.from_checkpoint import restore
        from segframe.visualization.tables import metrics_table, print_table

    check_keys(config, EvaluateConfig)
    inference, postprocess = build.build_inference(config)
    restored = restore(config.checkpoint, config.output_stride)
    inference = inference.with_training_defaults(restored.metadata.config)
    split = config.split or config.data.val_split
    choices = HydraConfig.get().runtime.choices
    stored = choices["data"] == "checkpoint"
    dataset = build.build_dataset(config.data, split, restored.metadata.classes, stored)
    device = build.pick_device(config.accelerator)
    restored.segmenter.autocast_dtype = autocast_dtype(config.precision, restored.metadata.config)
    with translate_errors(less=TO_PREDICT):
        matrix = evaluate(restored.segmenter, dataset, inference, postprocess, config.data.num_workers, device)
    found = compute_metrics(matrix, dataset.classes, split)
    print_table(metrics_table(found, matrix.numpy(), dataset.classes, f"{restored.path}, {split}", f"{split}/"))
    path = Path(HydraConfig.get().runtime.output_dir) / "metrics.json"
    # JSON knows no NaN: a class that does not occur is null.
    known = {name: value if value == value else None for name, value in found.items()}
    how = {name: choices[name] for name in ("inference", "postprocess")} | {"output_stride": config.output_stride}
    how["inference_in_words"] = str(inference)
    told = {**known, "images": len(dataset), "checkpoint": str(restored.path), **how}
    write_text(path, json.dumps(told, indent=2) + "\n")
    print(f"inference: {inference}; also in {path}")


if __name__ == "__main__":
    offer_data(sys.argv[1:])
    main()
