"""Comparison of runs: paired intervals against an independent bootstrap, groups of seeds, tables, pages."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_bootstrap import CLASSES, counts_of, matrices
from test_report import Page, numbers_of

import segframe
from segframe.analysis.compare_groups import compare
from segframe.analysis.comparison_images import change_map
from segframe.analysis.measured_run import MeasuredRun
from segframe.inference.metrics import compute_metrics
from segframe.models.weights import checkpoint
from segframe.visualization.text_tables import TextTable

FAST = ("accelerator=cpu", "resamples=200", "data.num_workers=0")
SETTINGS = {"boundary_distance": 2, "boundary_tolerance": 1, "split": "val", "checkpoint": "runs/x/last.ckpt"}


def measured(name, seed, config, images=20):
    counts = counts_of(matrices(images, seed), seed)
    names = [f"image{k}" for k in range(images)]
    return MeasuredRun(name, config, CLASSES, names, counts, SETTINGS | {"checkpoint": f"runs/{name}/last.ckpt"})


def miou(found):
    return compute_metrics(torch.from_numpy(np.sum(found, axis=0)), CLASSES, "x")["x/miou"]


def test_differences_equal_an_independent_paired_bootstrap(tmp_path):
    runs = [measured("a", 1, {"seed": 0, "lr": 1}), measured("b", 2, {"seed": 0, "lr": 2})]
    found = compare(runs, 4000, tmp_path).groups[1].differences["miou"]
    first, second = matrices(20, 1), matrices(20, 2)

    generator = np.random.default_rng(3)
    draws = generator.integers(0, 20, (4000, 20))
    values = [miou([second[k] for k in draw]) - miou([first[k] for k in draw]) for draw in draws]
    low, high = np.quantile(values, [0.025, 0.975])
    assert found.value == pytest.approx(miou(second) - miou(first))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    # Pairs of the same run differ by nothing, whatever is drawn.
    same = compare([runs[0], measured("c", 1, {"seed": 0, "lr": 3})], 500, tmp_path).groups[1].differences
    assert set(same["miou"]) == {0}
    assert not same["miou"].clear


def test_runs_that_differ_in_seed_are_a_group(tmp_path):
    config = {"lr": 1, "output_dir": "runs/a", "logger": {"save_dir": "runs/a/x"}}
    runs = [measured("base", 9, {"seed": 0, "lr": 2, "output_dir": "runs/base"})]
    for seed, name in enumerate("abc"):
        own = {"seed": seed, "output_dir": f"runs/{name}", "logger": {"save_dir": f"runs/{name}/x"}}
        runs.append(measured(name, seed, config | own))
    comparison = compare(runs, 200, tmp_path)
    base, group = comparison.groups
    assert (base.name, group.name) == ("base", "a, 3 seeds")
    mious = [miou(matrices(20, k)) for k in range(3)]
    assert group.means["miou"] == pytest.approx(np.mean(mious))
    assert group.deviations["miou"] == pytest.approx(np.std(mious, ddof=1))
    assert base.deviations == {}
    assert group.differences["miou"].value == pytest.approx(np.mean(mious) - base.means["miou"])
    assert comparison.settings == {"seed": ["0", "0 | 1 | 2"], "lr": ["2", "1"]}
    assert comparison.note == ""
    # One of the three seeds has no pixel of the first class.
    seen = group.runs[0].counts
    less = seen._replace(truth=seen.truth * [0, 1, 1], predicted=seen.predicted * [0, 1, 1])
    mixed = group._replace(runs=[group.runs[0]._replace(counts=less), *group.runs[1:]])
    note = comparison._replace(groups=[base, mixed]).note
    assert note.startswith("numbers of classes in the mean IoU: 3 (base), 2 | 3 (a, 3 seeds); a class")
    # Two checkpoints of one run have the same seed, and are no group.
    twice = compare([runs[0], runs[0]._replace(settings=SETTINGS | {"checkpoint": "best.ckpt"})], 200, tmp_path)
    assert [found.name for found in twice.groups] == ["base last", "base best"]


def test_settings_of_the_evaluation_that_differ_are_shown(tmp_path):
    run = measured("a", 1, {"lr": 1})
    other = {"checkpoint": "b.ckpt", "precision": "bf16-mixed", "postprocess_in_words": "DenseCRF: bi_w=4.0"}
    first = run._replace(settings=SETTINGS | {"precision": None, "postprocess_in_words": "none"})
    found = compare([first, run._replace(settings=SETTINGS | other)], 100, tmp_path).settings
    assert found == {"post-processing": ["none", "DenseCRF: bi_w=4.0"], "in precision": ["as trained", "bf16-mixed"]}


def test_tables_as_markdown_and_latex():
    table = TextTable("A|B", ["run", "mIoU ± sd"], [["my_run & 50 %", "0.5000 ± 0.1000"]])
    assert table.markdown() == "A|B\n\n| run | mIoU ± sd |\n| --- | ---: |\n| my\\_run & 50 % | 0.5000 ± 0.1000 |\n"
    assert r"my\_run \& 50 \% & 0.5000 $\pm$ 0.1000 \\" in table.latex()
    assert table.latex().count(r"\begin{tabular}{lr}") == 1


def test_change_map():
    truth = np.array([[0, 0, 0, 0, 255]], np.uint8)
    first, other = np.array([[0, 1, 0, 1, 1]], np.uint8), np.array([[0, 0, 1, 2, 1]], np.uint8)
    same, gained, lost, wrong = range(4)
    assert change_map(first, other, truth).tolist() == [[same, gained, lost, wrong, 255]]


def change_weights(source, target, lr):
    """A run like another, with other scores."""
    shutil.copytree(source, target)
    for path in (target / "checkpoints").glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        content[checkpoint.KEY]["config"]["optimizer"]["lr"] = lr
        content[checkpoint.KEY]["config"]["output_dir"] = str(target)
        names = [name for name in content["state_dict"] if re.search(r"head.*bias", name)]
        content["state_dict"][names[-1]] += torch.linspace(-1, 1, len(content["state_dict"][names[-1]]))
        torch.save(content, path)


def test_values_that_only_resemble_the_folder_are_settings(tmp_path):
    runs = [
        measured(name, seed, {"seed": seed, "lr": lr, "output_dir": "1", "save_dir": "1/x"})
        for name, seed, lr in (("a", 2, 0.1), ("b", 3, 0.01))
    ]
    assert compare(runs, 100, tmp_path).settings == {"seed": ["2", "3"], "lr": ["0.1", "0.01"]}


def test_results_and_a_run_with_one_post_processing_differ_in_nothing(run, trained, tmp_path):
    words = ("accelerator=cpu", "postprocess=dense_crf", "postprocess.iterations=1")
    assert run("scripts/evaluate.py", "checkpoint=first", *words, "output_dir=out").code == 0
    groups = segframe.compare("first", "out", *FAST, *words, "output_dir=c", "images=0")
    assert groups.settings == {}


def test_runs_from_the_command_line(run, trained, tmp_path):
    change_weights(trained, Path("second"), 0.77)
    result = run("scripts/compare.py", "first", "second", *FAST, "output_dir=out", "images=2")
    assert result.code == 0, result.out
    for text in ("optimizer.lr", "0.77", "first", "second", "mIoU", "circle", "also in out: comparison.html"):
        assert text in result.out, text
    text = Path("out/comparison.html").read_text()
    page, numbers = Page(text), numbers_of(text)
    assert page.ids == ["runs", "settings", "metrics", "images", "numbers"]
    assert all(link[1:] in page.ids for link in page.links)
    assert page.sources
    assert len(page.sources) % 5 == 0  # image, truth, two predictions, change
    for name in ("first", "second"):
        assert run("scripts/evaluate.py", f"checkpoint={name}", "accelerator=cpu", f"output_dir=e_{name}").code == 0
        metrics = json.loads(Path(f"e_{name}/metrics.json").read_text())
        assert numbers[name]["means"] == {metric: metrics[metric] for metric in numbers[name]["means"]}
        for metric in ("val/miou", "val/mean_boundary_f", "val/mean_dice", "val/iou/background"):
            assert f">{metrics[metric]:.4f}<" in text, metric
    rows = list(csv.DictReader(Path("out/comparison.csv").read_text().splitlines()))
    miou = {row["run"]: row for row in rows if row["metric"] == "miou"}
    assert float(miou["second"]["difference"]) == numbers["second"]["differences"]["val/miou"][0]
    assert miou["first"]["difference"] == ""
    assert r"\toprule" in Path("out/comparison.tex").read_text()

    # The results of evaluate give the same numbers, without pictures.
    again = run("scripts/compare.py", "e_first", "e_second", *FAST, "output_dir=again")
    assert again.code == 0, again.out
    text = Path("again/comparison.html").read_text()
    assert numbers_of(text) == numbers
    assert not Page(text).sources
    assert "no predictions to show" in text


def test_from_python(run, trained, tmp_path):
    comparison = segframe.compare("first", "first/checkpoints/last.ckpt", *FAST, "output_dir=out", "images=0")
    assert [group.name for group in comparison.groups] == ["first best", "first last"]
    assert "IoU per class" in repr(comparison)
    assert comparison.folder == tmp_path / "out"


def test_what_cannot_be_compared(run, trained, tmp_path):
    def error(*words):
        return run("scripts/compare.py", *words, *FAST).error

    assert error("first").startswith("error: runs: give two or more")
    assert error("first", "nowhere") == "error: there is no checkpoint nowhere"
    assert error("first", "first", "images=99") == "error: images=99: it must be between 0 and 50"
    assert run("scripts/evaluate.py", "checkpoint=first", "accelerator=cpu", "output_dir=val").code == 0
    assert run("scripts/evaluate.py", "checkpoint=first", "accelerator=cpu", "output_dir=test", "split=test").code == 0
    assert "were measured on other images or masks" in error("val", "test")
    for words in ("boundary_distance=5.0", "split=test", "inference=tta", "precision=bf16-mixed"):
        assert error("first", "val", words).startswith(f"error: {words}: val holds results of {words.split('=')[0]}=")
    flips = ("inference=tta", "inference.scales=[1.0]")
    assert run("scripts/evaluate.py", "checkpoint=first", "accelerator=cpu", "output_dir=flips", *flips).code == 0
    assert "flips holds results of inference_settings=" in error("first", "flips", *flips, "inference.flip=false")
    assert "flips holds results of postprocess_in_words=none" in error("first", "flips", "postprocess=dense_crf")
    Path("val/images.npz").write_bytes(b"no file of numpy")
    assert "metrics.json or images.npz is damaged" in error("val", "test")
