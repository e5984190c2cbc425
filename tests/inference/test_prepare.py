"""Validation in training, evaluate and predict compute the same classes, in 16 bits too."""

import json

import numpy as np
import pytest
import torch
from conftest import IMAGES
from omegaconf import OmegaConf
from small_networks import images, save_checkpoint

from segframe.data.datasets.shapes import Shapes
from segframe.inference import ConfusionMatrix, compute_metrics
from segframe.inference.build import build_inference
from segframe.inference.predict import predict
from segframe.inference.prepare import prepare
from segframe.models.from_checkpoint import restore

RUN = ("backbone=resnet18", "head=deeplabv3plus", *IMAGES, "data.dataset.size=72", "data.crop_size=48")
STEPS = ("trainer.max_steps=2", "trainer.val_every_n_steps=2", "callbacks=none", "logger=none", "output_dir=run")


@pytest.mark.parametrize("inference", [pytest.param("whole", marks=pytest.mark.slow), "sliding_window"])
def test_validation_evaluation_and_prediction_agree_to_the_bit(run, tmp_path, inference):
    result = run("train.py", *RUN, *STEPS, f"inference={inference}", "trainer.precision=bf16-mixed")
    assert result.code == 0, result.out
    figure = json.loads((tmp_path / "run/result.json").read_text())["best"]

    result = run("scripts/evaluate.py", "checkpoint=run", "accelerator=cpu", "output_dir=metrics")
    assert result.code == 0, result.out
    metrics = json.loads((tmp_path / "metrics/metrics.json").read_text())
    assert metrics["val/miou"] == figure
    words = {"whole": "whole images", "sliding_window": "sliding windows of 48x48 pixels every 32 down and 32"}
    assert metrics["inference_in_words"].startswith(words[inference])

    segmenter, metadata, _ = restore(tmp_path / "run")
    device = torch.device("cpu")
    prepare(segmenter, metadata.config, device)
    dataset = Shapes(None, "val", size=72, num_images={"train": 12, "val": 3, "test": 2})
    confusion = ConfusionMatrix(len(dataset.classes))
    for item in dataset:
        image = np.ascontiguousarray(item["image"].permute(1, 2, 0).numpy())
        used = build_inference(OmegaConf.create(metadata.config["inference"]), metadata.config)
        classes = predict(segmenter, image, used, None, device).classes
        confusion.update(torch.from_numpy(classes)[None], item["mask"][None])
    assert compute_metrics(confusion.matrix, dataset.classes, "val")["val/miou"] == figure


def test_prepare_follows_the_training(tmp_path):
    save_checkpoint(tmp_path, "backbone=resnet18", "head=fcn")
    segmenter = restore(tmp_path / "x.ckpt").segmenter
    trained_with = {"trainer": {"channels_last": True, "precision": "bf16-mixed"}}
    prepare(segmenter.train(), trained_with)
    assert not segmenter.training
    weight = next(weight for weight in segmenter.parameters() if weight.dim() == 4 and weight.shape[2] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert segmenter.outputs(images())["main"].values.dtype == torch.bfloat16
    prepare(segmenter, trained_with, precision="32-true")
    assert segmenter.outputs(images())["main"].values.dtype == torch.float32
