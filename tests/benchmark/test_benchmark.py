"""The benchmark: measurements, comparisons with targets, reports; rows that need no other package, at tiny sizes."""

import json
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from benchmark import docs_table, images, measure, networks, peers, pipelines, report, runner
from benchmark.roofline import Ceilings, Roofline
from benchmark.row import Group, Measured, NotMeasurable, Result, Row, Setup, Target, judge
from benchmark.rows import GROUPS, data, gpu, ops
from segframe.data.build import build_datasets
from segframe.data.inspection.quick_check import quick_check
from segframe.errors import UserError

CPU = torch.device("cpu")
ROW = Row("work", "other", Target(time=0.5, memory=0.3))
SMALL = {"segframe": 10, "other": 100}


@pytest.fixture
def setup(tmp_path):
    return Setup(CPU, quick=True, camvid=None, folder=tmp_path)


def measured(ours, theirs, **more):
    return Measured({"segframe": ours, "other": theirs}, **more)


def test_ratios_are_taken_within_rounds():
    # The machine was three times as slow in the second round.
    result = judge(ROW, measured([1.0, 3.0, 1.0], [2.0, 6.0, 4.0], bytes=SMALL))
    assert result.time_ratio == 0.5
    assert result.time_ratio_quartiles == (0.375, 0.5)
    assert result.memory_ratio == pytest.approx(0.1)
    assert (result.met, result.ms, result.ms_against, result.rounds) == (True, 1000, 4000, 3)
    assert result.target == "<= 0.5x time, <= 0.3x memory"


@pytest.mark.parametrize(
    ("target", "found", "met", "reason"),
    [
        (ROW.target, measured([3.0], [4.0], bytes=SMALL), False, ""),
        (ROW.target, measured([1.0], [4.0], bytes={"segframe": 50, "other": 100}), False, ""),
        (ROW.target, measured([1.0], [4.0]), None, "peak memory cannot be read here"),
        (ROW.target, measured([1.0], [4.0], bytes=SMALL, differs={"segframe": "3 pixels"}), False, "3 pixels"),
        (ROW.target, Measured({"segframe": [1.0]}, missing={"other": "not installed"}), None, "not installed"),
        (Target(), measured([1.0], [2.0]), None, ""),
        (Target(seconds=1.5), measured([1.4], [9.0]), True, ""),
        (Target(seconds_more=2.0), measured([5.0], [2.9]), False, ""),
    ],
)
def test_comparison_with_the_target(target, found, met, reason):
    result = judge(Row("work", "other", target), found)
    assert (result.met, result.reason) == (met, reason)


@pytest.mark.slow
def test_calls_are_interleaved(setup, monkeypatch):
    monkeypatch.setattr(Setup, "seconds", 60)
    order = []

    def call(name, seconds):
        order.append(name)
        time.sleep(seconds)

    calls = {"a": lambda: call("a", 0.02), "b": lambda: call("b", 0.06)}
    seconds = measure.interleaved(calls, setup)
    assert len(seconds["a"]) == len(seconds["b"]) == setup.rounds
    # After two calls each to warm up.
    assert order[4:10] == ["a", "b", "b", "a", "a", "b"]
    assert np.median(seconds["a"]) < np.median(seconds["b"])


def test_peak_memory_excludes_what_was_held_before():
    kept = torch.zeros(5_000_000)
    peak = measure.peak_memory(lambda: (torch.ones(10_000_000) + 1).sum(), CPU)
    if peak is None:
        pytest.skip("this system does not report the peak of resident memory")
    assert 70e6 < peak < 130e6
    assert len(kept) == 5_000_000


def test_rows_are_chosen_by_name_or_beginning():
    groups = [
        Group((Row("loss_21", "x", Target()), Row("loss_21", "y", Target())), lambda setup: Measured({})),
        Group((Row("loss_21_stride8", "x", Target()),), lambda setup: Measured({})),
    ]

    def names(*only):
        return [row.name for _, rows in runner.choose(groups, only) for row in rows]

    assert names() == names("loss") == ["loss_21", "loss_21", "loss_21_stride8"]
    assert names("loss_21") == ["loss_21", "loss_21"]
    with pytest.raises(UserError, match=r"only=los_21: there is no such row; did you mean loss_21"):
        names("los_21")
    with pytest.raises(UserError, match=r"only=\[\['loss'\]\]: give names of rows"):
        names(["loss"])
    pairs = [(row.name, row.against) for group in GROUPS for row in group.rows]
    assert len(set(pairs)) == len(pairs)


def test_other_groups_are_measured_after_a_failure(setup, capsys):
    def broken(setup):
        raise RuntimeError("no luck")

    def absent(setup):
        raise NotMeasurable("needs a GPU")

    groups = [Group((ROW,), broken), Group((ROW,), absent)]
    first, second = runner.measure(runner.choose(groups, []), setup, print)
    assert (first.met, first.reason) == (False, "failed: RuntimeError: no luck")
    assert (second.met, second.reason) == (None, "needs a GPU")


def test_report(tmp_path, setup):
    metadata = report.machine(setup)
    absent = Result("x", "smp", "", None, "needs a GPU")
    results = [judge(ROW, measured([1.0], [4.0], bytes=SMALL, note="small")), absent]
    report.write_json(tmp_path / "out.json", results, metadata)
    content = json.loads((tmp_path / "out.json").read_text())
    first, second = content["rows"]
    assert (first["name"], first["against"], first["time_ratio"], first["met"]) == ("work", "other", 0.25, True)
    assert second["met"] is None
    assert content["machine"]["threads"] == torch.get_num_threads()
    assert report.table(results, metadata).row_count == 2
    assert report.remarks(results) == ["x against smp: needs a GPU", "work: small"]
    text = report.plot(tmp_path / "out.png", results, metadata)
    assert text == (str(tmp_path / "out.png") if find_spec("matplotlib") else report.NO_MATPLOTLIB)


def test_what_is_missing_is_not_measurable():
    with pytest.raises(NotMeasurable, match=r"surely_not_there is not installed: pip install 'segframe\[benchmark\]'"):
        peers.need("surely_not_there")


@pytest.mark.parametrize("name", ["albumentations", "mmseg", "torchvision"])
def test_pipelines_return_what_networks_take(name, tmp_path):
    images.write_pair(tmp_path / "a.jpg", tmp_path / "a.png", (60, 80), 21, seed=0)
    load = getattr(pipelines, f"{name}_pipeline")(64, *([60] if name == "torchvision" else []))
    for _ in range(5):
        image, mask = load(tmp_path / "a.jpg", tmp_path / "a.png")
        assert (image.shape, image.dtype) == ((3, 64, 64), torch.float32)
        assert (mask.shape, mask.dtype) == ((64, 64), torch.int64)
        assert set(mask.unique().tolist()) <= {*range(21), 255}
        assert -3 < image.min() < image.max() < 3


def test_row_of_pipelines(setup, monkeypatch):
    monkeypatch.setattr(Setup, "rounds", 1)
    monkeypatch.setattr(Setup, "pick", lambda self, full, quick: 1)
    found = data.pipelines(data.voc, 375)(setup)
    assert found.seconds.keys() == {"segframe", "albumentations", "mmseg-style", "torchvision v2"}
    assert found.metrics["segframe"]["images/s"] > 0


@pytest.mark.parametrize("group", [ops.loss(3, 33, 4, 1), ops.classes(3, 33, 4)])
def test_results_of_operations_agree(group, setup, monkeypatch):
    monkeypatch.setattr(Setup, "rounds", 1)
    found = group(setup)
    assert not found.differs
    assert not found.missing
    assert len(found.seconds["segframe"]) == 1


def test_steps_and_their_roofline(setup, monkeypatch):
    monkeypatch.setattr(Setup, "rounds", 1)
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: None)
    words = ("backbone=resnet18", "head=fcn")
    found = gpu.measure_steps(setup, 2, words, {"a convolution": lambda: nn.Conv2d(3, 5, 1)}, 32, 5)
    assert found.seconds.keys() == {"segframe", "segframe, compiled", "a convolution"}
    assert 0 < found.metrics["segframe"]["share of the roofline"] < 1
    assert found.metrics["a convolution"]["images/s"] > 0


def test_the_roofline_takes_the_longer_of_work_and_traffic():
    """A grouped convolution of 8 to 12 channels in 2 groups, its gradients, and a sum."""
    x, weight = torch.ones(2, 8, 5, 5, requires_grad=True), torch.ones(12, 4, 3, 3, requires_grad=True)
    products = 2 * (2 * 12 * 5 * 5) * (4 * 3 * 3)
    with Roofline(Ceilings(flops=1.0, bandwidth=1e30)) as roofline:
        y = nn.functional.conv2d(x, weight, padding=1, groups=2)
    assert roofline.seconds == roofline.flops == products
    with Roofline(Ceilings(flops=1.0, bandwidth=1e30)) as roofline:
        y.sum().backward()
    assert roofline.flops == 2 * products
    a, b = torch.ones(100), torch.ones(100)
    with Roofline(Ceilings(flops=1.0, bandwidth=1.0)) as roofline:
        (a + b).view(10, 10)
    assert roofline.seconds == 4 * 100 * 3  # bytes of two operands and the sum


def test_program(run, tmp_path):
    result = run("scripts/benchmark", "quick=true", "only=[gpu_fcn8s]", "threads=1000000")
    assert result.code == 1
    assert "error: threads=1000000: out of range; give 1 to" in result.out
    assert "error: accelerater is not a setting" in run("scripts/benchmark", "only=[help]", "+accelerater=1").out
    result = run("scripts/benchmark", "quick=true", "only=[gpu_fcn8s]", "json=a/out.json", "accelerator=cpu")
    assert result.code == 0, result.out
    (row,) = json.loads((tmp_path / "a/out.json").read_text())["rows"]
    assert (row["name"], row["met"], row["reason"]) == ("gpu_fcn8s", None, "needs a GPU")


def test_generated_camvid_images_are_accepted(tmp_path):
    images.camvid_tree(tmp_path, None, {"train": 12, "val": 1})
    config = networks.composed("data=camvid", f"data.root={tmp_path}", "data.crop_size=64")
    warnings = quick_check(*build_datasets(config))  # UserError for masks with another palette
    assert len([warning for warning in warnings if "published are" in warning]) == len(warnings) - 1 == 2


@pytest.mark.parametrize(
    "name",
    [
        "windows_exact",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("evaluate_whole", "evaluate_windows", "export_onnx", "cost_average", "devices_two")
        ),
    ],
)
def test_rows_of_inference_and_costs_run(setup, name):
    (group,) = [group for group in GROUPS if any(row.name == name for row in group.rows)]
    found = group.measure(setup)
    assert not found.differs
    assert {row.ours for row in group.rows} <= set(found.seconds)
    assert all(seconds > 0 for values in found.seconds.values() for seconds in values)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("segmentation_models_pytorch") is None, reason="smp is not installed")
@pytest.mark.parametrize(
    ("name", "apart"),
    # smp's DeepLabV3+ has a 1x1 convolution more, after the ASPP.
    [("run_fcn8s_defaults", 0.01), ("run_unet_defaults", 0.01), ("run_efficientnet_defaults", 0.02)],
)
def test_rows_of_runs_have_networks_of_about_one_size(setup, name, apart):
    (group,) = [group for group in GROUPS if any(row.name == name for row in group.rows)]
    _, ours = networks.network(setup, 11, *group.measure.words)
    from benchmark.peer_run import build_network

    theirs = build_network(group.measure.network, group.measure.encoder)
    counts = [sum(p.numel() for p in network.parameters()) for network in (ours, theirs)]
    assert counts[0] == pytest.approx(counts[1], rel=apart)


def test_the_documented_table_is_that_of_the_results():
    page = docs_table.PAGE.read_text()
    assert docs_table.with_table(page) == page
    assert docs_table.table().count("\n| `") >= 30
