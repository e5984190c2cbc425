"""The memory of a step, told before the first one."""

import json

import pytest
import torch
from conftest import RUN, TINY, composed, options
from torch.profiler import ProfilerActivity, profile

from segframe import build, memory_estimate, switches
from segframe.build import RunLength
from segframe.data.shapes import Shapes
from segframe.task import SegmentationTask

CPU = torch.device("cpu")
SMALL = ("data.weights=null", "trainer.precision=32-true", "trainer.keep_freed_memory=false")


def made(*overrides: str, device: str = "cpu"):
    """A task and its config's trainer; on the meta device in no time."""
    config = composed(*SMALL, *overrides)
    dataset = Shapes(split="val", size=32, num_images={"val": 2})
    with torch.device(device):
        segmenter = build.build_segmenter(config, len(dataset.classes))
    switches.apply(config.trainer, segmenter)
    return build.build_task(config, segmenter, dataset, RunLength(1, 1, 1)), config.trainer


def step(task: SegmentationTask, optimizer, side: int, batch_size: int, precision: str) -> None:
    images = torch.zeros(batch_size, side, side, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    mask = torch.zeros(batch_size, side, side, dtype=torch.uint8)

    def total() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            return sum(task.loss(logits, mask) for logits in task.segmenter.outputs(images).values())

    total().backward()
    optimizer.step()
    optimizer.zero_grad()


def measured(task: SegmentationTask, side: int, batch_size: int, precision: str, path) -> int:
    """The peak of a true step by the profiler's count of allocations."""
    optimizer = task.configure_optimizers()["optimizer"]
    step(task, optimizer, side, batch_size, precision)
    kept = [*task.segmenter.state_dict().values(), *(v for s in optimizer.state.values() for v in s.values())]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(task, optimizer, side, batch_size, precision)
    profiler.export_chrome_trace(str(path))
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: float(event["ts"])):
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    return peak + sum(tensor.nbytes for tensor in kept)


@pytest.mark.parametrize(
    ("overrides", "precision"),
    [
        (("backbone=resnet18", "aux_head=fcn", "optimizer=adamw"), "32-true"),
        (("backbone=resnet18",), "bf16-mixed"),
        (("backbone=resnet18", "trainer.activation_checkpointing=true"), "bf16-mixed"),
        (("model=unet", "backbone.channels=[16,32,32,64,64]", "head.channels=[64,32,32,16]"), "32-true"),
        (("model=fcn8s", "backbone.fc_channels=128"), "32-true"),
    ],
)
def test_it_is_what_a_step_takes(overrides, precision, tmp_path):
    task, settings = made(*overrides, f"trainer.precision={precision}")
    need = memory_estimate.of_step(task, (4, 96, 96), settings, CPU)
    true = measured(task, 96, 4, precision, tmp_path / "trace.json")
    # The bands of the loss, 2 MiB each, count for much in steps as small as these.
    assert need.total == pytest.approx(true, rel=0.15, abs=8 << 20)


@pytest.mark.parametrize("model", options("model"))
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_preset_has_one(model, precision):
    task, settings = made(f"model={model}", f"trainer.precision={precision}", device="meta")
    assert min(memory_estimate.of_step(task, (2, 65, 97), settings, CPU)) > 0


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_it_leaves_the_network_alone(checkpointing):
    task, settings = made("backbone=resnet18", f"trainer.activation_checkpointing={checkpointing}")
    before = {name: (tensor, tensor.clone()) for name, tensor in task.state_dict(keep_vars=True).items()}
    generator = torch.get_rng_state()
    memory_estimate.of_step(task, (2, 64, 64), settings, CPU)
    assert torch.equal(torch.get_rng_state(), generator)
    after = task.state_dict(keep_vars=True)
    assert after.keys() == before.keys()
    for name, (tensor, value) in before.items():
        assert after[name] is tensor
        assert torch.equal(tensor, value)
        assert tensor.grad is None


@pytest.mark.parametrize("loss", options("loss"))
@pytest.mark.parametrize("deterministic", [False, True])
def test_every_loss_has_one(loss, deterministic):
    task, settings = made("backbone=resnet18", f"loss={loss}")
    switches.set_deterministic(deterministic)
    try:
        assert memory_estimate.of_step(task, (2, 64, 64), settings, CPU).activations > 0
        assert torch.are_deterministic_algorithms_enabled() == deterministic
    finally:
        switches.set_deterministic(False)


def test_it_grows_with_what_is_kept():
    def of(*overrides: str, batch_size: int = 4) -> memory_estimate.Need:
        task, settings = made("backbone=resnet18", *overrides, device="meta")
        return memory_estimate.of_step(task, (batch_size, 256, 256), settings, CPU)

    whole = of()
    more = [of(batch_size=size).total - whole.total for size in (8, 12)]
    assert more[1] == pytest.approx(2 * more[0], rel=0.02)
    assert of("trainer.activation_checkpointing=true").total < whole.total
    assert of("trainer.precision=bf16-true").weights == pytest.approx(whole.weights / 2, rel=0.01)
    assert of("trainer.accumulate_grad_batches=2").total > whole.total
    assert of("optimizer=adamw").trained == pytest.approx(1.5 * whole.trained, rel=0.01)
    assert of("trainer.compile=true") == whole


def test_more_than_is_free_is_a_warning(monkeypatch, caplog):
    task, settings = made("backbone=resnet18")
    caplog.set_level("INFO")
    for free, warned in ((1 << 40, False), (1 << 20, True), (None, False)):
        caplog.clear()
        monkeypatch.setattr(memory_estimate, "free_on", lambda device, free=free: free)
        memory_estimate.tell(task, (2, 32, 32), settings, CPU)
        assert ("lower data.batch_size" in caplog.text) == warned
        assert ("GiB free on cpu" in caplog.text) == (free is not None)


def test_what_cannot_be_rehearsed_is_passed_over(monkeypatch, caplog):
    task, settings = made("backbone=resnet18")
    monkeypatch.setattr(task.loss, "forward", lambda logits, mask: logits.values.sum() * float(mask[0, 0, 0]))
    caplog.set_level("INFO")
    memory_estimate.tell(task, (2, 32, 32), settings, CPU)
    assert not caplog.text


def test_a_run_tells_it(run):
    result = run("train.py", *TINY, *RUN, "output_dir=told")
    assert result.code == 0, result.out
    assert "memory: about 0." in result.out
    assert "GiB free on cpu" in result.out
