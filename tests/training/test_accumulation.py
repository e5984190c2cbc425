"""Accumulated gradients: those of one large batch, or the mean of the batches' as Caffe's iter_size."""

import pytest
import torch
from conftest import UNET, composed, rows
from torch import Tensor

from segframe.data.build import build_data_module, build_datasets
from segframe.errors import UserError
from segframe.models.build import build_segmenter
from segframe.models.losses import Loss
from segframe.training.module import SegmentationModule, check_step_masks

PLAIN = (*UNET, "backbone.batch_norm=false", "head.batch_norm=false", "batch_norm.frozen=statistics")


class MeanOfABatch(Loss):
    def forward(self, logits, mask):
        return logits.values.mean()


def gradients(*words, batches, step_masks=None) -> Tensor:
    """The accumulated gradient of all weights, in float64."""
    config = composed(*PLAIN, "trainer.accumulate_grad_batches=2", *words)
    train_set, val_set = build_datasets(config)
    torch.manual_seed(0)
    segmenter = build_segmenter(config, 8)
    _, length = build_data_module(config, train_set, val_set)
    module = SegmentationModule(config, segmenter, train_set, length).double().train()
    module.step_seed = lambda index: 0
    for k, (image, mask) in enumerate(batches):
        batch = {"image": image, "mask": mask, "name": ["x"] * len(mask)}
        if step_masks and not k:
            batch["step_masks"] = step_masks
        (module.training_step(batch, k) / len(batches)).backward()
    return torch.cat([p.grad.flatten() for p in module.segmenter.parameters() if p.grad is not None])


def halves():
    """Two batches, of which the first is mostly void and shows other classes than the second."""
    torch.manual_seed(1)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    masks = torch.cat([torch.randint(0, 3, (2, 32, 32)), torch.randint(2, 8, (2, 32, 32))]).to(torch.uint8)
    masks[:2, 3:] = 255
    return list(zip(images.split(2), masks.split(2), strict=True)), (images, masks)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("loss.reduction=sum",),
        ("loss=cross_entropy_coarse", "aux_head=fcn", "aux_head.dropout=0"),
        ("loss=sum", "loss.weights.lovasz=0"),
    ],
    ids=str,
)
def test_gradients_are_those_of_the_large_batch(words):
    small, large = halves()
    found = gradients(*words, batches=small, step_masks=[mask for _, mask in small])
    expected = gradients(*words, batches=[large])
    assert expected.abs().max() > 1e-4
    assert (found - expected).abs().max() <= 1e-12 * max(1, expected.abs().max())


def test_caffes_iter_size_is_the_mean_of_the_batches():
    small, large = halves()
    found = gradients(batches=small)
    first, second = (gradients(batches=[half]) for half in small)
    torch.testing.assert_close(found, (first + second) / 2, rtol=0, atol=1e-12)
    assert (found - gradients(batches=[large])).abs().max() > 0.1 * found.abs().max()


@pytest.mark.parametrize("words", [pytest.param("loss=dice", marks=pytest.mark.slow), "loss=ohem"])
def test_some_losses_are_the_mean_of_the_batches(words):
    small, _ = halves()
    found = gradients(words, batches=small, step_masks=[mask for _, mask in small])
    torch.testing.assert_close(found, gradients(words, batches=small), rtol=0, atol=1e-12)


def test_runs_in_batches_of_another_size_are_equal(run, tmp_path):
    """Also with another number of workers, and after resuming."""
    common = (*PLAIN, "trainer.precision=32-true", "callbacks=none", "logger=none", "scheduler=constant",
              "transforms=light", "trainer.val_every_n_steps=3", "loss.class_weights=auto")  # fmt: skip
    small = ("data.batch_size=2", "trainer.accumulate_grad_batches=2", "data.num_workers=1", "trainer.max_steps=3")
    for folder, words in (("large", ("trainer.max_steps=6",)), ("small", small)):
        result = run("train.py", *common, *words, f"output_dir={folder}")
        assert result.code == 0, result.out
    assert run("train.py", "resume=small", "trainer.max_steps=6").code == 0
    large, small = (
        [float(row["val/loss"]) for row in rows(tmp_path / name / "metrics.csv")] for name in ("large", "small")
    )
    assert len(large) == 2
    assert small == pytest.approx(large, rel=1e-4)


def test_a_loss_that_knows_only_its_batch_is_refused(refused):
    settings = composed("trainer.accumulate_grad_batches=2").trainer
    with pytest.raises(UserError, match=r"trainer.accumulated_mean=pixels: MeanOfABatch.forward takes no step_masks"):
        check_step_masks(MeanOfABatch(), settings)
    settings.accumulated_mean = "batches"
    check_step_masks(MeanOfABatch(), settings)
    assert "must be pixels or batches" in refused({"trainer.accumulated_mean": "pixel"})
