"""The report of a run: its numbers are those of evaluate, its HTML is sound, its pictures are the right ones."""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import RUN, UNET

from segframe.analysis import report_images
from segframe.analysis.report import mistaken_pairs
from segframe.analysis.run_records import read_curves
from segframe.inference.image_counts import ImageCounts
from segframe.models.weights import checkpoint

VOID_TAGS = ("meta", "img", "br", "path", "circle", "polyline")
SMALL = ("accelerator=cpu", "resamples=100", "data.num_workers=0")


class Page(HTMLParser):
    """Fails where tags do not match; collects texts, links, ids and references to other files."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.sources, self.texts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_data(self, data):
        self.texts.append(data)


def numbers_of(text):
    return json.loads(re.search(r'id="numbers">(.*)</script>', text)[1])


def test_the_numbers_are_those_of_evaluate(run, trained, tmp_path):
    result = run("scripts/report.py", "checkpoint=first", "training_images=5", "highest=2", "images=1", *SMALL)
    assert result.code == 0, result.out
    assert "report: first/report.html" in result.out
    text = (trained / "report.html").read_text()
    assert run("scripts/evaluate.py", "checkpoint=first", "accelerator=cpu", "output_dir=a").code == 0
    metrics = json.loads((tmp_path / "a/metrics.json").read_text())
    numbers = numbers_of(text)
    assert numbers["metrics"] == {name: metrics[name] for name in numbers["metrics"]}
    assert "val/miou" in numbers["metrics"]
    assert {"val/iou/circle", "val/miou"} <= numbers["intervals"].keys()
    for name, value in numbers["metrics"].items():
        shown = "-" if value is None else f"{value:.4f}"
        assert f">{shown}<" in text, name
        if value is not None:
            low, high = numbers["intervals"][name]
            assert low <= high
    matrix, boundaries = np.array(numbers["confusion_matrix"]), numbers["boundaries"]
    assert np.sum(boundaries["pixels"]) == matrix.sum()
    assert np.sum(boundaries["wrong"]) == matrix.sum() - matrix.trace()

    page = Page(text)
    assert all(source.startswith("data:image/") for source in page.sources)
    assert len(page.sources) % 4 == 0
    assert all(link[1:] in page.ids for link in page.links)
    assert page.ids == ["settings", "curves", "classes", "confusion", "boundaries", "images", "training", "numbers"]
    assert "trainer.max_steps" in page.texts
    assert sum("% wrong" in line for line in page.texts) == 2


def test_names_are_escaped_and_parts_can_be_left_out(run, trained, tmp_path):
    content = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    content[checkpoint.KEY]["config"]["seed"] = "</script><b>"
    torch.save(content, tmp_path / "alone.ckpt")
    result = run(
        "scripts/report.py", "checkpoint=alone.ckpt", "training_images=0", "images=0", "output=out/page.html", *SMALL
    )
    assert result.code == 0, result.out
    text = (tmp_path / "out/page.html").read_text()
    page = Page(text)
    assert page.ids == ["settings", "classes", "confusion", "boundaries", "numbers"]
    assert not page.sources
    assert "</script><b>" in page.texts
    assert len(text) < 60_000


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("images=-1", "images=-1: it must be between 0 and 20"),
        ("output=.", "output=.: this is a folder; give a file, output=report.html"),
    ],
)
def test_wrong_settings(run, trained, words, expected):
    assert run("scripts/report.py", "checkpoint=first", *SMALL, *words.split()).error == f"error: {expected}"
    assert not (trained / "report.html").exists()


def test_the_callback_writes_the_same_page(run, tmp_path):
    steps = [word for word in RUN if not word.startswith(("callbacks", "logger"))]
    small = ("callbacks.html.training_images=3", "callbacks.html.resamples=100", "callbacks.html.images=1")
    result = run("train.py", *UNET, *steps, "callbacks=report", *small, "output_dir=first")
    assert result.code == 0, result.out
    assert "report: first/report.html" in result.out
    text = (tmp_path / "first/report.html").read_text()
    assert text.count("<svg") == 3
    words = ("training_images=3", "images=1", "output=again.html")
    assert run("scripts/report.py", "checkpoint=first", *words, *SMALL).code == 0
    again = (tmp_path / "again.html").read_text()
    assert numbers_of(again)["metrics"] == numbers_of(text)["metrics"]
    assert again == text


def test_curves_of_a_file_that_a_killed_run_left(tmp_path):
    assert read_curves(tmp_path) == {}
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/miou\n20,1.5,\n40,1.25,0.5\n60,x")
    assert read_curves(tmp_path) == {"train/loss": [(20, 1.5), (40, 1.25)], "val/miou": [(40, 0.5)]}


def test_worst_and_best_images():
    correct = np.array([[9, 5], [2, 0], [0, 0], [6, 1]])
    truth = np.array([[10, 5], [4, 2000], [0, 5], [10, 1]])
    counts = ImageCounts(correct, truth, correct, *[correct] * 7)
    iou, ranked = report_images.rank(counts, 0)
    assert ranked == [1, 3, 0]  # image 2 does not show the class
    assert iou[[0, 1, 3]] == pytest.approx([0.9, 0.5, 0.6])
    little = counts._replace(truth=truth * [1, 100])  # 4 of 200,004 pixels in image 1
    assert report_images.rank(little, 0)[1] == [3, 0]
    alone = ImageCounts(*(part[1:2] for part in little))
    assert report_images.rank(alone, 0)[1] == [0]


def test_error_map():
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    prediction = np.array([[0, 1, 1, 0, 0]], np.uint8)
    neutral, right, missed, false = range(4)
    assert report_images.error_map(prediction, truth, 0).tolist() == [[right, missed, neutral, false, 255]]
    assert report_images.error_map(prediction, truth, None).tolist() == [[neutral, missed, neutral, missed, 255]]


def test_packed_predictions_are_small_and_whole():
    labels = np.random.default_rng(0).integers(0, 9, (50, 30), np.uint8)
    assert (report_images.unpack(report_images.pack(labels)) == labels).all()
    large = np.zeros((400, 1280), np.uint8)
    assert report_images.unpack(report_images.pack(large)).shape == (100, 320)


def test_mistaken_pairs():
    pairs = mistaken_pairs(np.array([[10, 3, 0], [1, 5, 6], [0, 0, 7]]), ("a", "b", "c"))
    assert [(pair["truth"], pair["prediction"], pair["pixels"]) for pair in pairs] == [
        ("b", "c", 6),
        ("a", "b", 3),
        ("b", "a", 1),
    ]
    assert pairs[0]["of_truth"] == 0.5
    assert pairs[0]["of_errors"] == 0.6


def test_the_highest_losses_are_those_of_single_images(monkeypatch):
    losses = [0.5, 3.0, 1.0, 2.0]
    monkeypatch.setattr(
        report_images,
        "image_losses",
        lambda evaluation, data, indices, *_: [
            (losses[k], 0.1, report_images.pack(np.zeros((4, 4), np.uint8))) for k in indices
        ],
    )
    item = {"image": torch.zeros(3, 4, 4, dtype=torch.uint8), "mask": torch.zeros(4, 4, dtype=torch.uint8)}

    class Four(list):
        palette = ((0, 0, 0),)

    data = Four([item | {"name": f"image{k}"} for k in range(4)])
    found = report_images.highest_losses(SimpleNamespace(), data, None, 2, 0, ())
    assert [example.name for example in found.highest] == ["image1", "image3"]
    assert (found.mean, found.images, found.total) == (1.625, 4, 4)
    losses[1:3] = [float("nan")] * 2  # void everywhere
    found = report_images.highest_losses(SimpleNamespace(), data, None, 3, 0, ())
    assert [example.name for example in found.highest] == ["image3", "image0"]
    assert found.mean == 1.25
    losses[1:3] = [3.0, 1.0]
    drawn = report_images.highest_losses(SimpleNamespace(), data, 2, 2, 0, ())
    assert (drawn.images, drawn.total) == (2, 4)
    for example in drawn.highest:  # names and losses are of the images drawn
        assert example.caption.startswith(f"loss {losses[int(example.name[-1])]:.3f}")
