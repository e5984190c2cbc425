"""Exported files: what they cannot do, and files that are damaged or of others, end in one sentence."""

import pytest
import torch
from conftest import ONNX, photo
from PIL import Image

import segframe
from segframe.inference import onnx_network, open_network

onnx, *_ = (pytest.importorskip(name, reason="needs pip install segframe[export]") for name in ONNX)
from onnx_files import rewrite  # noqa: E402

CPU = torch.device("cpu")

NEEDING_SCORES = [
    ("evaluate", ("inference=sliding_window",), "inference"),
    ("evaluate", ("postprocess=dense_crf",), "postprocess"),
    ("predict", ("heatmaps=all",), "heatmaps"),
    ("report", (), "training_images (0: none)"),
]


@pytest.mark.parametrize(("name", "words", "setting"), NEEDING_SCORES)
def test_a_file_without_scores_refuses_what_needs_them(run, exported, name, words, setting):
    files = ("input=first", "output=out") if name == "predict" else ()
    (exported / "first/a.png").write_bytes(b"")
    error = run(f"scripts/{name}.py", "checkpoint=classes.onnx", *files, *words).error
    assert error == f"error: {setting}: classes.onnx: this file has no scores; export it with scores=true"


def test_load_refuses_scores_that_a_file_lacks(exported):
    with pytest.raises(
        segframe.UserError, match=r"inference: .*classes\.onnx: this file has no scores; export it with"
    ):
        segframe.load(exported / "classes.onnx", inference="tta")
    result = segframe.load(exported / "classes.onnx")(photo(0))
    with pytest.raises(segframe.UserError, match=r"classes\.onnx: this file has no scores; export it with scores=true"):
        result.probabilities()


FIXED = [
    ("evaluate", ("output_stride=8",), "output_stride=8: model.onnx is an exported file, whose stride is fixed"),
    ("evaluate", ("precision=bf16-mixed",), "precision=bf16-mixed: model.onnx is an exported file, whose precision"),
    ("evaluate", ("inference=shift_and_stitch",), "the logits of this network are as large as the image; choose a"),
    ("evaluate", ("inference=tta", "inference.mode=fast"), "inference.mode=fast: an exported file has scores of the"),
    ("predict", ("feature_maps=true",), "feature_maps=true: model.onnx is an exported file, which has none; give the"),
    ("export", (), "model.onnx is an exported file; give the checkpoint that it was made from"),
]


@pytest.mark.parametrize(("name", "words", "message"), FIXED)
def test_what_an_export_has_fixed_is_refused(run, exported, name, words, message):
    Image.fromarray(photo(0)).save(exported / "a.png")
    files = {"predict": ("input=a.png", "output=out"), "export": ("output=b.onnx",)}.get(name, ())
    assert message in run(f"scripts/{name}.py", "checkpoint=model.onnx", *files, *words).error


def test_foreign_parts_need_trust(run, exported):
    def change(proto):
        (config,) = (prop for prop in proto.metadata_props if prop.key == "config")
        config.value = config.value.replace("segframe.data.Shapes", "mypackage.Shapes")

    rewrite(exported / "model.onnx", change)
    error = run("scripts/evaluate.py", "checkpoint=model.onnx").error
    assert "data.dataset._target_=mypackage.Shapes: this is no part of segframe" in error


def foreign(path):
    tensor = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, "h", "w"])
    node = onnx.helper.make_node("Identity", ["images"], ["classes"])
    output = onnx.helper.make_tensor_value_info("classes", onnx.TensorProto.FLOAT, [1, 3, "h", "w"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [tensor], [output]), ir_version=10), path)


def damaged(path):
    path.write_bytes(path.read_bytes()[:-1000])


def without_settings(path):
    def change(proto):
        kept = [(prop.key, prop.value) for prop in proto.metadata_props if prop.key != "config"]
        onnx.helper.set_model_props(proto, dict(kept))

    rewrite(path, change)


def wrong_classes(path):
    def change(proto):
        onnx.helper.set_model_props(proto, {p.key: p.value for p in proto.metadata_props} | {"classes": "["})

    rewrite(path, change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (foreign, "model.onnx is no file of segframe: its metadata name no classes; give one of scripts/export.py"),
        (damaged, "model.onnx cannot be read as an ONNX file: it is damaged, or none ("),
        (without_settings, "model.onnx was exported by an older version, without its run's settings; export it again"),
        (wrong_classes, "model.onnx: its metadata cannot be read ("),
    ],
)
def test_unreadable_files(run, exported, change, message):
    change(exported / "model.onnx")
    assert run("scripts/evaluate.py", "checkpoint=model.onnx").error.startswith(f"error: {message}")
    with pytest.raises(segframe.UserError) as error:
        segframe.load("model.onnx")
    assert str(error.value).startswith(message)


def test_a_file_of_torch_export(run, tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"")
    error = run("scripts/predict.py", "checkpoint=model.pt2", "input=x", "output=y").error
    assert "model.pt2 is a file of torch.export" in error
    assert "an .onnx file (format=onnx)" in error


def test_onnxruntime_is_not_installed(exported, monkeypatch):
    monkeypatch.setattr(onnx_network, "find_spec", lambda name: None)
    with pytest.raises(segframe.UserError, match=r"model\.onnx needs onnxruntime; pip install 'segframe\[export\]'"):
        segframe.load("model.onnx")


def test_a_gpu_that_onnxruntime_cannot_use(exported):
    cuda = torch.device("cuda")
    assert open_network.open_network("model.onnx", cuda, required=False).network.device == CPU
    with pytest.raises(segframe.UserError, match="the installed onnxruntime does not run on this GPU; install"):
        open_network.open_network("model.onnx", cuda)


def test_images_on_which_the_graph_does_not_run(exported):
    model = segframe.load("classes.onnx", device="cpu")
    with pytest.raises(segframe.UserError, match="does not run on images of 0x5 pixels"):
        model.network.outputs(torch.zeros(1, 3, 0, 5, dtype=torch.uint8))
