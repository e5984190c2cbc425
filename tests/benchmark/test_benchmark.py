"""The benchmark: its measures, verdicts and report; rows that need no peer, at tiny sizes."""

import json
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from conftest import ROOT

from benchmark import images, measure, networks, peers, pipelines, report, rows, runner
from benchmark.row import Group, Measured, NotMeasurable, Result, Row, Setup, Target, judge
from benchmark.rows import ops, windows
from benchmark.rows.data import pipelines as pipeline_row
from benchmark.rows.data import voc
from segframe.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def setup(tmp_path):
    return Setup(CPU, quick=True, camvid=None, folder=tmp_path)


def found(ours, theirs, **more):
    return Measured({"segframe": ours, "other": theirs}, **more)


ROW = Row("work", "other", Target(time=0.5, memory=0.3))


def test_ratios_are_taken_within_rounds():
    # The machine was three times as slow in the second round.
    result = judge(ROW, found([1.0, 3.0, 1.0], [2.0, 6.0, 4.0], bytes={"segframe": 10, "other": 100}))
    assert result.time_ratio == 0.5
    assert result.time_ratio_quartiles == (0.375, 0.5)
    assert result.memory_ratio == pytest.approx(0.1)
    assert result.met is True
    assert (result.ms, result.ms_against, result.rounds) == (1000, 4000, 3)
    assert result.target == "<= 0.5x time, <= 0.3x memory"


def test_verdicts():
    memory = {"segframe": 10, "other": 100}
    assert judge(ROW, found([3.0], [4.0], bytes=memory)).met is False
    assert judge(ROW, found([1.0], [4.0], bytes={"segframe": 50, "other": 100})).met is False
    unknown = judge(ROW, found([1.0], [4.0]))
    assert (unknown.met, unknown.reason) == (None, "peak memory cannot be read here")
    assert judge(ROW, found([3.0], [4.0])).met is False
    wrong = judge(ROW, found([1.0], [4.0], bytes=memory, differs={"segframe": "3 pixels differ"}))
    assert (wrong.met, wrong.reason) == (False, "3 pixels differ")
    missing = judge(ROW, Measured({"segframe": [1.0]}, missing={"other": "smp is not installed"}))
    assert (missing.met, missing.reason) == (None, "smp is not installed")
    assert judge(Row("free", "other", Target()), found([1.0], [2.0])).met is None


def test_targets_in_seconds():
    assert judge(Row("a", "other", Target(seconds=1.5)), found([1.4], [9.0])).met is True
    assert judge(Row("a", "other", Target(seconds_more=2.0)), found([5.0], [2.9])).met is False
    assert str(Target(seconds=1.5)) == "< 1.5 s"
    assert str(Target(seconds_more=2.0)) == "<= + 2 s"


def test_calls_take_turns(setup, monkeypatch):
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


def test_peak_memory_is_what_a_call_held():
    kept = torch.zeros(5_000_000)
    peak = measure.peak_memory(lambda: (torch.ones(10_000_000) + 1).sum(), CPU)
    if peak is None:
        pytest.skip("this system does not tell the peak of resident memory")
    assert 70e6 < peak < 130e6
    assert len(kept) == 5_000_000


def test_only_takes_names_and_beginnings():
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


def test_a_row_that_breaks_down_does_not_take_others_with_it(setup, capsys):
    def broken(setup):
        raise RuntimeError("no luck")

    def absent(setup):
        raise NotMeasurable("needs a GPU")

    groups = [Group((ROW,), broken), Group((ROW,), absent)]
    first, second = runner.measure(runner.choose(groups, []), setup, print)
    assert (first.met, first.reason) == (False, "failed: RuntimeError: no luck")
    assert (second.met, second.reason) == (None, "needs a GPU")


def test_every_row_has_a_name_of_its_own():
    pairs = [(row.name, row.against) for group in rows.GROUPS for row in group.rows]
    assert len(set(pairs)) == len(pairs)
    peers_of = {row.name: group for group in rows.GROUPS for row in group.rows}
    assert {"loss_21", "classes_150", "windows_fast", "step_150", "run_defaults", "help"} <= peers_of.keys()


def test_report(tmp_path, setup):
    metadata = report.machine(setup)
    result = judge(ROW, found([1.0], [4.0], bytes={"segframe": 10, "other": 100}, note="small"))
    absent = Result("gpu_x", "smp", "", None, "needs a GPU")
    report.write_json(tmp_path / "out.json", [result, absent], metadata)
    content = json.loads((tmp_path / "out.json").read_text())
    first = content["rows"][0]
    assert {k: first[k] for k in ("name", "against", "time_ratio", "memory_ratio", "target", "met")} == {
        "name": "work",
        "against": "other",
        "time_ratio": 0.25,
        "memory_ratio": 0.1,
        "target": "<= 0.5x time, <= 0.3x memory",
        "met": True,
    }
    assert content["rows"][1]["met"] is None
    assert content["machine"]["threads"] == torch.get_num_threads()
    assert report.table([result, absent], metadata).row_count == 2
    assert report.remarks([result, absent]) == ["gpu_x against smp: needs a GPU", "work: small"]
    told = report.plot(tmp_path / "out.png", [result, absent], metadata)
    assert told == (str(tmp_path / "out.png") if find_spec("matplotlib") else report.NO_MATPLOTLIB)


def test_a_missing_peer_is_named():
    with pytest.raises(NotMeasurable, match=r"surely_not_there is not installed: pip install -e '\.\[benchmark\]'"):
        peers.need("surely_not_there")


def test_settings_that_are_not_there_are_not_measurable():
    with pytest.raises(NotMeasurable, match=r"colour"):
        networks.composed("data.colour=red")


def test_score_maps_are_regions():
    classes = images.score_maps(21, 2, (65, 65)).argmax(1)
    assert (classes[:, 1:] == classes[:, :-1]).float().mean() > 0.8
    assert len(classes.unique()) > 4


@pytest.mark.parametrize(
    "make",
    [
        pipelines.albumentations_pipeline,
        pipelines.mmseg_pipeline,
        lambda crop: pipelines.torchvision_pipeline(crop, 60),
    ],
)
def test_pipelines_give_what_networks_take(make, tmp_path):
    images.write_pair(tmp_path / "a.jpg", tmp_path / "a.png", (60, 80), 21, seed=0)
    load = make(64)
    for _ in range(5):
        image, mask = load(tmp_path / "a.jpg", tmp_path / "a.png")
        assert (image.shape, image.dtype) == ((3, 64, 64), torch.float32)
        assert (mask.shape, mask.dtype) == ((64, 64), torch.int64)
        assert set(mask.unique().tolist()) <= {*range(21), 255}
        assert -3 < image.min() < image.max() < 3


def test_the_pipeline_row(setup, monkeypatch):
    monkeypatch.setattr(Setup, "rounds", 1)
    monkeypatch.setattr(Setup, "pick", lambda self, full, quick: 1)
    threads = torch.get_num_threads()
    measured = pipeline_row(voc, 375)(setup)
    assert measured.seconds.keys() == {"segframe", "albumentations", "mmseg-style", "torchvision v2"}
    assert measured.metrics["segframe"]["images/s"] > 0
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("measured", [ops.loss(3, 33, 4, 1), ops.classes(3, 33, 4)])
def test_rows_of_operations_agree(measured, setup, monkeypatch):
    monkeypatch.setattr(Setup, "rounds", 1)
    result = measured(setup)
    assert not result.differs
    assert not result.missing
    assert len(result.seconds["segframe"]) == 1


def test_mmsegs_windows_and_areas():
    assert peers.mmseg_windows(1024, 768, 512) == [0, 256]
    assert peers.mmseg_windows(2048, 768, 512) == [0, 512, 1024, 1280]
    assert peers.mmseg_windows(100, 768, 512) == [0]
    truth, prediction = torch.tensor([[0, 1, 1, 255]]), torch.tensor([[0, 1, 0, 1]])
    intersect, predicted, true = peers.mmseg_areas(prediction, truth, 2)
    assert (intersect.tolist(), predicted.tolist(), true.tolist()) == ([1, 1], [2, 1], [1, 2])


def test_windows_of_the_stand_in_merge_to_its_scores():
    stand_in = windows.StandIn(images.score_maps(5, 1, (16, 24))[0])
    image = stand_in.image()
    merged = peers.mmseg_slide(stand_in.coarse, image, 5, 64, 32)
    whole = stand_in.outputs(image)["main"].classes()
    assert (merged == whole).float().mean() > 0.95


def test_the_peers_fcn_answers_at_the_images_size():
    with torch.device("meta"):
        network = peers.PlainFCN8s(3)
        assert network(torch.zeros(1, 3, 65, 97)).shape == (1, 3, 65, 97)


def test_the_script(run, tmp_path):
    assert run("scripts/benchmark", "only=[nothing]").code == 1
    result = run("scripts/benchmark", "quick=true", "only=[gpu_fcn8s]", "threads=1000000")
    assert result.code == 1
    assert "error: threads=1000000: out of range; give 1 to" in result.out
    result = run("scripts/benchmark", "only=[metric_150]", "+accelerater=1")
    assert "error: accelerater is not a setting" in result.out
    result = run("scripts/benchmark", "quick=true", "only=[gpu_fcn8s]", "json=a/out.json", "accelerator=cpu")
    assert result.code == 0, result.out
    assert "needs a GPU" in result.out
    (row,) = json.loads((tmp_path / "a/out.json").read_text())["rows"]
    assert (row["name"], row["met"], row["reason"]) == ("gpu_fcn8s", None, "needs a GPU")


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("segmentation_models_pytorch"), reason="needs pip install -e '.[benchmark]'")
def test_the_peers_run(run, tmp_path):
    result = run("scripts/benchmark", "quick=true", "only=[run]", "json=out.json", "camvid=null")
    assert result.code == 0, result.out
    found = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["name"] for row in found] == ["run_equal_precision", "run_defaults"]
    assert all(row["time_ratio"] > 0 for row in found)
    assert not (ROOT / "lightning_logs").exists()
