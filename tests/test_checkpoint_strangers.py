"""What a checkpoint from a stranger may say: nothing to compute, plain tensors, names that can be shown."""

import pytest
import torch
from conftest import TINY
from test_checkpoint import stored

from segframe.errors import UserError
from segframe.models.from_checkpoint import restore
from segframe.models.weights import checkpoint
from segframe.models.weights.third_party import read_weights


def kept(path, part, value):
    """A checkpoint whose config's part, or list of classes or state dict, is this."""
    _, content = stored()
    where = content[checkpoint.KEY] if part == "classes" else content
    if part == "state_dict":
        where["state_dict"] |= value
    elif part == "classes":
        where["classes"] = value
    else:
        content[checkpoint.KEY]["config"][part] = value
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("normalize", {"mean": ["${oc.decode:${oc.env:SECRET}}", 2.0, 3.0], "std": [1.0, 1.0, 1.0], "bgr": False}),
        ("seed", "${oc.env:SECRET}"),
        ("data", {"${oc.env:SECRET}": 1}),
        ("callbacks", {"x": [{"y": "a ${seed}"}]}),
    ],
)
def test_nothing_is_computed(tmp_path, monkeypatch, run, part, value):
    monkeypatch.setenv("SECRET", "1.25")
    path = kept(tmp_path / "x.ckpt", part, value)
    for script, *words in (
        ("train.py", *TINY, f"init_from={path}", "output_dir=run"),
        ("scripts/summary.py", "backbone=resnet18", "head=fcn", "receptive_field=true", f"init_from={path}"),
        ("scripts/evaluate.py", f"checkpoint={path}"),
        ("scripts/predict.py", f"checkpoint={path}", "input=.", "output=out"),
    ):
        if "predict" in script:
            (tmp_path / "a.png").touch()
        result = run(script, *words)
        assert result.code == 1
        assert f"error: {path}: its config computes values (with ${{...}}), as no run stores them" in result.out
        assert "1.25" not in result.out


def test_a_resumed_runs_checkpoint_computes_nothing(trained, run):
    path = trained / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    content[checkpoint.KEY]["config"]["seed"] = "${oc.env:HOME}"
    torch.save(content, path)
    result = run("train.py", "resume=first", "trainer.max_steps=6")
    assert result.code == 1
    assert "last.ckpt: its config computes values" in result.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bgr": "no"}, "a bgr of true or false"),
        ({"mean": [1.0, 2.0]}, "3 numbers each"),
        ({"mean": "abc"}, "3 numbers each"),
        ({"std": [1.0, 2.0, True]}, "3 numbers each"),
        ({"gamma": 1}, "3 numbers each"),
        ({"mean": [float("nan"), 0.0, 0.0]}, "not finite"),
        ({"mean": [1e300, 0.0, 0.0]}, "not finite"),
        ({"std": [1e-300, 1.0, 1.0]}, "not above 0"),
        ({"std": [float("inf"), 1.0, 1.0]}, "not finite"),
    ],
)
def test_a_normalisation_is_numbers(tmp_path, change, message):
    path = kept(tmp_path / "x.ckpt", "normalize", {"mean": [0.0] * 3, "std": [1.0] * 3, "bgr": False} | change)
    for reader in (restore, read_weights):
        with pytest.raises(UserError, match=rf"x\.ckpt: its normalize .*{message}"):
            reader(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 3_000_000, "the name of class 1 has 3,000,000 characters"),
        ("road\x1b[2J", "the name of class 1 holds control characters"),
        ("road\ncar", "control characters"),
        ("road\u2028car", "control characters"),
        ("\udcff", "control characters"),
    ],
)
def test_names_of_classes_can_be_shown(tmp_path, name, message):
    path = kept(tmp_path / "x.ckpt", "classes", ["a", name, "c"])
    with pytest.raises(UserError, match=message) as caught:
        restore(path)
    assert len(str(caught.value)) < 400
    assert "\x1b" not in str(caught.value)


def test_ordinary_names_are_read(tmp_path):
    names = ["road\u200cway", "Straße, 道路", "a/b: c\td"]
    assert restore(kept(tmp_path / "x.ckpt", "classes", names)).metadata.classes == tuple(names)


WEIGHT = torch.zeros(64, 3, 7, 7)


@pytest.mark.filterwarnings("ignore")  # torch, of what is to be removed from it
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (WEIGHT.to_sparse, "is sparse_coo float32"),
        (lambda: WEIGHT.to("meta"), "has a size, but no numbers"),
        (lambda: torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.qint8), "is strided qint8"),
        (lambda: WEIGHT.to(torch.complex64), "is strided complex64"),
    ],
)
def test_weights_are_plain_tensors(tmp_path, make, kind):
    tensor = make()
    path = kept(tmp_path / "x.ckpt", "state_dict", {"segmenter.backbone.conv1.weight": tensor})
    for reader in (restore, read_weights):
        with pytest.raises(UserError, match=rf"x\.ckpt: the tensor backbone\.conv1\.weight {kind}"):
            reader(path)
    torch.save({"conv1.weight": tensor}, tmp_path / "y.pth")
    with pytest.raises(UserError, match=rf"y\.pth: the tensor conv1\.weight {kind}"):
        checkpoint.load_state_dict(tmp_path / "y.pth")


def test_weights_are_tensors(tmp_path):
    path = kept(tmp_path / "x.ckpt", "state_dict", {"segmenter.backbone.conv1.weight": 3})
    for reader in (restore, read_weights):
        with pytest.raises(UserError, match="is not a segframe checkpoint"):
            reader(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_are_finite(tmp_path, run, value):
    name = "backbone.conv1.weight"
    path = kept(tmp_path / "x.ckpt", "state_dict", {f"segmenter.{name}": torch.full((64, 3, 7, 7), value)})
    (tmp_path / "a.png").touch()
    for script, words in (("predict", ("input=.", "output=out")), ("evaluate", ())):
        result = run(f"scripts/{script}.py", f"checkpoint={path}", *words)
        assert result.code == 1
        assert f"error: {path}: {name} holds numbers that are not finite" in result.out
    assert restore(path, diverged=True).segmenter.get_parameter(name).isfinite().sum() == 0
