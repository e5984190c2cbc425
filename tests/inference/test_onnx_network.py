"""Exported files in a checkpoint's place: the checkpoint's results."""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from conftest import ONNX, ROOT, RUN, UNET, photo
from omegaconf import OmegaConf
from PIL import Image
from processes import fork, program

import segframe
from segframe.inference import int8, onnx_network, open_network
from segframe.inference.onnx_network import OnnxNetwork

onnx, *_ = (pytest.importorskip(name, reason="needs pip install segframe[export]") for name in ONNX)
from onnx_files import rewrite  # noqa: E402

CPU = torch.device("cpu")
CHECKPOINT = ("checkpoint=first", "precision=32-true")
"""The run in the precision of its exported files: trained in bfloat16, it evaluates in it too."""
SIZES = ((45, 61), (32, 32), (70, 33))


def metrics(run, folder, *words):
    """The metrics of scripts/evaluate.py, without what is not a number."""
    result = run("scripts/evaluate.py", *words, "accelerator=cpu", "data.num_workers=0", "output_dir=figures")
    assert result.code == 0, result.out
    found = json.loads((folder / "figures/metrics.json").read_text())
    return {name: value for name, value in found.items() if isinstance(value, float)}


def test_evaluate_gives_the_checkpoints_metrics(run, exported):
    expected = metrics(run, exported, *CHECKPOINT)
    assert expected["val/miou"] > 0
    for file in ("model.onnx", "classes.onnx"):
        assert metrics(run, exported, f"checkpoint={file}") == pytest.approx(expected, abs=1e-9)


def test_predict_writes_the_checkpoints_files(run, exported):
    (exported / "in").mkdir()
    for k, size in enumerate(SIZES):
        Image.fromarray(photo(k)).resize(size).save(exported / f"in/{k}.png")
    for source, output in ((CHECKPOINT, "a"), (("checkpoint=model.onnx",), "b"), (("checkpoint=classes.onnx",), "c")):
        words = (*source, "input=in", f"output={output}", "accelerator=cpu")
        result = run("scripts/predict.py", *words, *(() if output == "c" else ("heatmaps=all",)))
        assert result.code == 0, result.out
    files = [path.relative_to(exported / "c") for path in (exported / "c").rglob("*") if path.is_file()]
    assert len(files) == 3 * len(SIZES) + 2
    for file in files:
        for output in ("b", "c"):
            assert (exported / output / file).read_bytes() == (exported / "a" / file).read_bytes(), file
    assert len({*np.unique(np.asarray(Image.open(exported / "a/index/0.png")))}) > 1
    assert (exported / "b/heatmaps/circle/0.png").is_file()


def test_load_gives_the_checkpoints_classes_and_probabilities(exported):
    theirs, ours = (
        segframe.load(exported / name, device="cpu", precision="32-true") for name in ("first", "model.onnx")
    )
    assert (ours.names, ours.palette, str(ours.inference)) == (theirs.names, theirs.palette, "whole images")
    session = onnx_network.open_session(exported / "model.onnx")
    for k, size in enumerate(SIZES):
        image = np.asarray(Image.fromarray(photo(k)).resize(size))
        expected, found = theirs(image), ours(image)
        graph = session.run(["classes"], {"images": image.transpose(2, 0, 1)[None]})[0][0]
        assert np.array_equal(found.classes, graph)
        assert np.array_equal(found.classes, expected.classes)
        np.testing.assert_allclose(found.probabilities(), expected.probabilities(), atol=1e-5)


@pytest.mark.parametrize("option", ["sliding_window", "tta"])
def test_windows_and_scaled_images_are_not_rounded(exported, option):
    settings = {"device": "cpu", "precision": "32-true", "inference": option}
    theirs, ours = (segframe.load(exported / name, **settings) for name in ("first", "model.onnx"))
    expected, found = theirs(photo(3)), ours(photo(3))
    np.testing.assert_allclose(found.probabilities(), expected.probabilities(), atol=1e-4)


@pytest.mark.parametrize(("file", "option"), [("classes.onnx", "whole"), ("model.onnx", "tta")])
def test_eight_threads_get_equal_results(exported, file, option):
    model = segframe.load(exported / file, device="cpu", inference=option)
    arrays = [np.asarray(Image.fromarray(photo(k)).resize(size)) for k, size in enumerate(SIZES)]
    expected = [result.classes for result in segframe.load(exported / file, device="cpu", inference=option)(arrays)]
    barrier = Barrier(8)

    def predict(k):
        barrier.wait()
        return {i % 3: model(arrays[i % 3]).classes for i in range(k, k + 3)}  # each begins with another image

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(predict, range(8)):
            assert all(np.array_equal(found[i], expected[i]) for i in range(3))


@pytest.mark.slow
def test_the_report_measures_the_training_loss(run, exported):
    small = ("accelerator=cpu", "resamples=100", "data.num_workers=0", "training_images=4", "highest=1")
    found = []
    for source in (CHECKPOINT, ("checkpoint=model.onnx",)):
        result = run("scripts/report.py", *source, "output=page.html", *small)
        assert result.code == 0, result.out
        page = (exported / "page.html").read_text()
        found.append(json.loads(page.partition('id="numbers">')[2].partition("<")[0]))
        assert "backbone.channels" in page
        found[-1]["loss"] = page.partition("mean loss is ")[2][:4]
        assert float(found[-1]["loss"]) > 0
        del found[-1]["checkpoint"]
    assert found[0] == found[1]


@pytest.mark.slow
def test_int8_runs_the_same_way(run, exported):
    images = [torch.from_numpy(photo(k)).permute(2, 0, 1)[None] for k in range(6)]
    proto = int8.quantize(onnx.load("model.onnx"), images[:4])
    onnx.helper.set_model_props(proto, {prop.key: prop.value for prop in onnx.load("model.onnx").metadata_props})
    onnx.save(proto, "int8.onnx")
    model, network = segframe.load("int8.onnx", device="cpu"), OnnxNetwork(exported / "int8.onnx", CPU)
    graph = network.session.run(["classes"], {"images": images[5].contiguous().numpy()})[0][0]
    assert np.array_equal(model(photo(5)).classes, graph)
    assert (graph == segframe.load("first", precision="32-true")(photo(5)).classes).mean() > 0.9
    assert metrics(run, exported, "checkpoint=int8.onnx")["val/miou"] > 0
    assert model.network.outputs(torch.zeros(1, 3, 40, 40))["main"].values.shape == (1, len(model.names), 40, 40)


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(run, exported, monkeypatch):
    monkeypatch.chdir(exported)
    expected = metrics(run, exported, "checkpoint=classes.onnx")
    ended = fork(2, program, "scripts/evaluate.py", "checkpoint=classes.onnx", "accelerator=cpu", "output_dir=two")
    assert [process.code for process in ended] == [0, 0], ended
    found = json.loads((exported / "two/metrics.json").read_text())
    assert {name: found[name] for name in expected} == expected


@pytest.mark.slow
@pytest.mark.parametrize("max_value", [255, 4095])
def test_other_channels_and_bits(run, tmp_path, max_value):
    """Two bands, of 16 bits too, whose graph reads float32."""
    depth = np.uint8 if max_value == 255 else np.uint16
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            (tmp_path / "bands" / kind / split).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, k in (("train", 0), ("train", 1), ("train", 2), ("train", 3), ("val", 4)):
        mask = rng.integers(0, 2, (6, 6), np.uint8).repeat(8, 0).repeat(8, 1)
        image = rng.integers(0, max_value, (48, 48, 2)).astype(depth) // 2 + mask[..., None].astype(depth) * 100
        np.save(tmp_path / f"bands/images/{split}/{k}.npy", image)
        Image.fromarray(mask).save(tmp_path / f"bands/masks/{split}/{k}.png")
    data = ("data=folder", "data.root=bands", "data.dataset.classes=[a,b]", "data.channels=2", "data.weights=null")
    more = (f"data.max_value={max_value}", "normalize.mean=[100,100]", "normalize.std=[50,50]", "output_dir=first")
    network = [word for word in UNET if not word.startswith("data.dataset")]
    result = run("train.py", *network, *data, *more, *RUN)
    assert result.code == 0, result.out
    result = run("scripts/export.py", "checkpoint=first", "output=model.onnx")
    assert result.code == 0, result.out
    assert metrics(run, tmp_path, "checkpoint=model.onnx") == metrics(run, tmp_path, *CHECKPOINT)
    image = np.load(tmp_path / "bands/images/val/4.npy")
    theirs, ours = (segframe.load(name, precision="32-true")(image).classes for name in ("first", "model.onnx"))
    assert np.array_equal(ours, theirs)


def test_the_runs_own_inference_and_its_settings_are_in_the_file(exported):
    """With what YAML has and JSON has not: numbers as keys."""

    def change(proto):
        (config,) = (prop for prop in proto.metadata_props if prop.key == "config")
        settings = OmegaConf.create(config.value)
        settings.inference = OmegaConf.load(ROOT / "configs/inference/tta.yaml")
        settings.data.dataset.label_map = {7: 0, 8: 1}
        config.value = OmegaConf.to_yaml(settings)

    rewrite(exported / "model.onnx", change)
    assert str(segframe.load(exported / "model.onnx").inference).startswith("test-time augmentation")
    config = open_network.read_metadata(exported / "model.onnx").config
    assert config["data"]["dataset"]["label_map"] == {7: 0, 8: 1}
    assert config["transforms"]["crop_size"] == 32
