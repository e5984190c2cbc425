"""segframe.load: the classes of the program predict, from paths, arrays and PIL images, in several threads."""

import io
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from conftest import TINY, UNET
from PIL import Image
from small_networks import images, save_checkpoint, save_image

import segframe
from segframe.inference import SlidingWindow
from segframe.inference.open_network import read_metadata


def pixels(height, width):
    return np.ascontiguousarray(images(height, width)[0].permute(1, 2, 0).numpy())


@pytest.fixture
def network(tmp_path):
    """The path of a checkpoint of an untrained network of three classes."""
    save_checkpoint(tmp_path, *TINY)
    return tmp_path / "x.ckpt"


@pytest.mark.parametrize("option", [None, "sliding_window", "tta"])
def test_classes_equal_those_of_predict_to_the_bit(run, trained, tmp_path, option):
    for name, size in {"a": (45, 61), "b": (70, 33)}.items():
        save_image(tmp_path / f"in/{name}.png", *size)
    Image.fromarray(pixels(45, 61)).save(tmp_path / "in/c.jpg")
    chosen = [] if option is None else [f"inference={option}"]
    result = run("scripts/predict.py", "checkpoint=first", "input=in", "output=out", "accelerator=cpu", *chosen)
    assert result.code == 0, result.out
    model = segframe.load("first", device="cpu", inference=option)
    paths = sorted((tmp_path / "in").iterdir())
    for path, found in zip(paths, model(paths), strict=True):
        index = np.asarray(Image.open(tmp_path / f"out/index/{path.stem}.png"))
        assert np.array_equal(found.classes, index)
        assert found.classes.any()
        for same in (str(path), Image.open(path), np.asarray(Image.open(path))):
            assert np.array_equal(model(same).classes, index)
        overlay = np.asarray(Image.open(tmp_path / f"out/overlay/{path.stem}.png"))
        assert np.array_equal(np.asarray(found.overlay()), overlay)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found._repr_png_()))), overlay)
        probabilities = found.probabilities()
        assert probabilities.shape == (len(model.names), *index.shape)
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
        assert (probabilities.argmax(0) == index).mean() > 0.999
    assert (model.names[:2], model.palette[:2]) == (("background", "circle"), ((0, 0, 0), (128, 0, 0)))


@pytest.mark.parametrize("option", ["whole", "sliding_window"])
def test_eight_threads_get_equal_results(tmp_path, option):
    save_checkpoint(tmp_path, *UNET)
    model = segframe.load(tmp_path / "x.ckpt", device="cpu", precision="bf16-mixed", inference=option)
    arrays = [pixels(40 + 5 * k, 60 - 5 * k) for k in range(3)]
    expected = [(result.classes, result.probabilities()) for result in model(arrays)]
    barrier = Barrier(8)

    def predict(k):
        barrier.wait()
        results = {i % 3: model(arrays[i % 3]) for i in range(k, k + 3)}  # each begins with another image
        return [(results[i].classes, results[i].probabilities()) for i in range(3)]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(predict, range(8)):
            for ours, theirs in zip(found, expected, strict=True):
                assert np.array_equal(ours[0], theirs[0])
                assert np.array_equal(ours[1], theirs[1])


def test_device_precision_and_inference(network):
    model = segframe.load(network, device=torch.device("cpu"))
    assert model.network.autocast_dtype is None
    assert repr(model) == f"<Model: {network}, 3 classes, on cpu, whole images>"
    half = segframe.load(
        network, device="cpu:0", precision="bf16-mixed", inference=SlidingWindow(None, None, "exact", 4)
    )
    assert half.network.autocast_dtype is torch.bfloat16
    assert str(half.inference).startswith("sliding windows of 32x32 pixels")
    dense = segframe.load(network, device="cpu", output_stride=16)
    assert dense.network.backbone.features["c5"].stride == 16


def test_images_of_other_kinds(network):
    model, rgb = segframe.load(network, device="cpu"), pixels(45, 61)
    grey = Image.fromarray(rgb).convert("L")
    expected = model(np.asarray(grey)[..., None].repeat(3, axis=2)).classes
    for same in (grey, np.asarray(grey), grey.convert("RGBA"), np.asarray(grey)[..., None]):
        assert np.array_equal(model(same).classes, expected)
    turned = Image.fromarray(rgb)
    turned.getexif()[0x0112] = 6
    assert model(turned).classes.shape == (61, 45)
    assert re.fullmatch(r"<Result: 45x61 pixels; k\d \d+\.\d%(, k\d \d+\.\d%)*>", repr(model(rgb)))
    assert model([]) == []
    result = model(rgb)
    before = result._repr_png_()
    rgb[:] = 0  # the caller's own
    assert result._repr_png_() == before


def test_tensors_are_images_of_torchvision(network):
    model, rgb = segframe.load(network, device="cpu"), pixels(45, 61)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    assert np.array_equal(model(tensor).classes, model(rgb).classes)
    assert [result.classes.shape for result in model(list(torch.stack([tensor, tensor])))] == [(45, 61)] * 2


WRONG_IMAGES = [
    (torch.zeros(1, 3, 4, 5), r"has the shape \(1, 3, 4, 5\): give an image \(C, H, W\), or a batch as a list"),
    (torch.zeros(3, 4, 5), "the tensor holds torch.float32: give the image's own values, uint8"),
    ("nowhere.png", "nowhere.png: there is no such file; correct the path"),
    (3, r"a NumPy array, a PIL image, a tensor \(C, H, W\) or a list of these, not a int"),
    (np.zeros((4, 5, 3)), "the image holds float64: save its values as uint8 or uint16"),
    (np.zeros((2, 4, 5, 3), np.uint8), r"the array has the shape \(2, 4, 5, 3\): give an image as"),
    (np.zeros((0, 5, 3), np.uint8), "the array has the shape"),
    (np.arange(100, dtype=np.uint8).reshape(4, 5, 5), "the image has 5 channels"),
    (np.zeros((4, 5, 3), np.uint16), "the image has 16 bits per channel"),
]


@pytest.mark.parametrize(("image", "message"), WRONG_IMAGES)
def test_wrong_images(network, image, message):
    with pytest.raises(segframe.UserError, match=message):
        segframe.load(network, device="cpu")(image)


WRONG_SETTINGS = [
    ({"device": "tpu"}, "device=tpu: unknown; choose auto, cpu or gpu"),
    ({"device": "cpu:1"}, "device=cpu:1: there is no such device; this machine has 1 of cpu"),
    ({"precision": "8"}, "precision=8: unknown; choose null"),
    ({"inference": "slidingwindow"}, "inference=slidingwindow: there is no such option; did you mean sliding_window"),
    ({"output_stride": 5}, "cannot be built at output_stride=5"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG_SETTINGS)
def test_wrong_settings(network, settings, message):
    with pytest.raises(segframe.UserError, match=message):
        segframe.load(network, **{"device": "cpu", **settings})


def test_parts_outside_segframe_need_trust(tmp_path):
    save_checkpoint(tmp_path, *UNET)
    content = torch.load(tmp_path / "x.ckpt")
    content["segframe"]["config"]["head"]["_target_"] = "mypackage.Head"
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(segframe.UserError, match=r"head\._target_=mypackage\.Head: this is no part of segframe"):
        segframe.load(tmp_path / "x.ckpt")


def test_another_projects_file(tmp_path):
    """torchvision's, whose classes are those of VOC by their number."""
    from torchvision.models.segmentation import fcn_resnet50

    torch.manual_seed(0)
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    torch.save(theirs.state_dict(), tmp_path / "fcn.pth")
    model = segframe.load(tmp_path / "fcn.pth", device="cpu")
    assert model.names[:3] == ("background", "aeroplane", "bicycle")
    array = pixels(64, 96)
    with torch.no_grad():
        expected = theirs(model.network.normalize(torch.from_numpy(array).permute(2, 0, 1)[None]))["out"][0]
    found = model(array)
    np.testing.assert_allclose(found.probabilities(), expected.softmax(0), atol=1e-5)
    assert (found.classes == expected.argmax(0).numpy()).mean() > 0.999
    assert read_metadata(tmp_path / "fcn.pth").classes == model.names  # from which evaluate takes its defaults
