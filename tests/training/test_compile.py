"""torch.compile: what is compiled, when, and that training is the same."""

import pytest
import torch
from conftest import OWN_BACKBONE, UNET, composed, options
from omegaconf import OmegaConf
from test_devices import DOUBLE, SAME, largest_difference, run_on, weights
from test_performance import optimized
from torch import nn

from segframe.config.run_schema import TrainerConfig
from segframe.errors import UserError
from segframe.models.build import build_segmenter
from segframe.training import finish_config
from segframe.training.performance import for_any_size


def test_compiled_networks_keep_their_names(monkeypatch):
    network = build_segmenter(composed(*UNET), 3)
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: calls.append(self))
    compiled = optimized(network, compile=True)
    assert calls == [compiled.backbone, compiled.head]
    assert compiled.state_dict().keys() == network.state_dict().keys()
    with pytest.raises(UserError, match="cannot trace activation checkpointing"):
        optimized(network, compile=True, activation_checkpointing=True)


OTHER_PARTS = [("backbone=convnext_tiny", "head=fcn"), ("backbone=swin_t", "head=upernet"), ("backbone=xception41",)]


@pytest.mark.parametrize(
    "words",
    [
        ("backbone=resnet18", "head=deeplabv3plus", "aux_head=fcn"),
        *(pytest.param((f"head={head}",), marks=pytest.mark.slow) for head in options("head")),
        *(pytest.param(words, marks=pytest.mark.slow) for words in OTHER_PARTS),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, which hides it
def test_each_part_is_compiled_once_and_whole(monkeypatch, words):
    """Without a break of its graph, and not again for validation images of other sizes."""
    graphs = []
    compile_module = nn.Module.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **more: compile_module(self, fullgraph=True, backend=backend, **more)
    )
    head = words[-1].removeprefix("head=")
    backbone, small = OWN_BACKBONE.get(head, ("resnet18", []))
    segmenter = build_segmenter(composed(f"backbone={backbone}", *small, *words, "data.weights=null"), 5)
    network = optimized(segmenter, compile=True)
    for _ in range(2):
        for size in ((64, 64), (96, 80)):
            with torch.no_grad(), for_any_size(compiled=True):
                network.eval()(torch.zeros(1, 3, *size, dtype=torch.uint8))
        outputs = network.train().outputs(torch.zeros(2, 3, 48, 48, dtype=torch.uint8))
        torch.stack([logits.values.square().sum() for logits in outputs.values()]).sum().backward()
    assert len(graphs) == 2 + (network.aux_head is not None)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("steps", "one_size", "settings", "expected"),
    [
        (20_000, True, {}, True),
        (19_999, True, {}, False),
        (20_000, False, {}, False),
        (20_000, True, {"activation_checkpointing": True}, False),
        (20_000, True, {"sync_batch_norm": True}, False),
    ],
)
def test_long_runs_on_a_gpu_are_compiled(monkeypatch, steps, one_size, settings, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(finish_config, "has_compilers", lambda: True)
    for accelerator, compiles in (("auto", expected), ("cpu", False)):
        found = OmegaConf.structured(TrainerConfig(compile="auto", accelerator=accelerator, **settings))
        finish_config.finish_compile(found, steps, one_size)
        assert found.compile == compiles


def test_compiling_for_a_gpu_needs_c_and_pythons_headers(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "gcc")
    monkeypatch.setenv("CXX", "g++")
    monkeypatch.setattr(finish_config, "find_spec", lambda name: True)
    monkeypatch.setattr(finish_config.sysconfig, "get_path", lambda name: str(tmp_path))
    assert not finish_config.has_compilers()
    (tmp_path / "Python.h").touch()
    assert finish_config.has_compilers()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, which hides it
def test_compiled_networks_train_as_others_do(tmp_path, monkeypatch):
    compile_module = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **more: compile_module(self, backend="aot_eager", fullgraph=True, **more)
    )
    monkeypatch.chdir(tmp_path)
    words = ("train.py", *SAME, *DOUBLE, "trainer.sync_batch_norm=false")
    for devices in (1, 2):
        for compiled in ("false", "true"):
            run_on(devices, *words, f"trainer.compile={compiled}", f"output_dir={devices}_{compiled}")
        found, expected = (weights(tmp_path / f"{devices}_{compiled}") for compiled in ("true", "false"))
        assert largest_difference(found, expected) <= 1e-12
