"""Every command of README.md and docs/ composes; the README's tree exists; the examples of own parts work."""

import importlib
import re
import shlex
import sys

import hydra
import pytest
import torch
import yaml
from conftest import ROOT, composed
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from benchmark import accuracy_study, camvid_tables
from benchmark import schema as benchmark_schema
from segframe.cli import search_argv
from segframe.cli.argv import checkpoint_options, collect_runs, quote_paths
from segframe.cli.main import PROGRAMS
from segframe.config import validate
from segframe.config.instantiate import instantiate
from segframe.data.build import build_datasets
from segframe.models import Logits
from segframe.models.backbones.base import Feature

GENERATED = "configuration_reference.md"
PATHS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {path.name: path.read_text() for path in PATHS if path.name != GENERATED}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page, kind):
    return [text for found, text in BLOCK.findall(PAGES[page]) if found == kind]


def commands():
    for page in PAGES:
        for text in blocks(page, "sh"):
            for line in text.replace("\\\n", " ").splitlines():
                if command := line.partition(" #")[0].strip():
                    yield pytest.param(command, id=f"{page}: {' '.join(command.split())}")


POSITIONAL = {module.__file__: module for module in (accuracy_study, camvid_tables)}
"""Programs whose words are arguments, not settings of Hydra."""


def compose(name, words):
    flags = ("-m", "--cfg", "job", "--help")
    overrides = [word for word in words if word not in flags and not word.startswith("--config-dir")]
    if name == "compare":
        overrides = collect_runs(overrides)
    if "-m" in words:
        overrides = [re.sub(r",[^\]=]*$", "", word) for word in overrides]
    checkpoint_options([])
    if name == "search":
        own = [word for word in overrides if word.partition("=")[0] in search_argv.PROGRAM_SETTINGS]
        search_space = pytest.importorskip("segframe.cli.search_space", reason="needs pip install segframe[search]")
        space = search_space.read_space(
            OmegaConf.to_container(composed(*quote_paths(own), name=name))["search"],
            [word for word in overrides if word not in own and word != "..."],
        )
        search_space.check_space(space)
        return
    config = composed(*quote_paths(overrides), name=name)
    if name == "train":
        validate.check_keys(config)
        validate.check_targets(config)


@pytest.mark.parametrize("command", list(commands()))
def test_documented_commands_exist_and_compose(command):
    program, *words = (word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word))  # variables
    if program == "make":
        for target in (word for word in words if "=" not in word):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    elif program == "python" and (module := POSITIONAL.get(str(ROOT / words[0]))):
        module.parse(words[1:])
    elif program == "python" and words[0].startswith("scripts/benchmark"):
        name = "upsampling" if "upsampling" in words[0] else "benchmark"
        assert (ROOT / words[0]).exists()
        benchmark_schema.register()
        with initialize_config_dir(str(benchmark_schema.CONFIG_DIR), version_base="1.3"):
            hydra.compose(name, words[1:])
    elif program == "python":
        assert (ROOT / words[0]).is_file()
        compose(words[0].rpartition("/")[2].removesuffix(".py"), words[1:])
    elif program == "segframe":
        compose(PROGRAMS[words[0]].config, words[1:])
    else:
        assert program in ("git", "cd", "source", "pip", "tensorboard", "wandb", "mlflow"), program


@pytest.mark.slow
def test_the_five_commands_of_the_readme_run(run, photos):
    (block,) = [text for text in blocks("README.md", "sh") if "check_data" in text]
    lines = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    (photos / "new").mkdir()
    (photos / "images/val/10.png").rename(photos / "new/10.png")
    (photos / "masks/val/10.png").unlink()
    small = ("backbone=resnet18", "data.weights=null", "data.crop_size=32", "data.batch_size=2", "data.num_workers=0")
    short = ("trainer.max_steps=2", "trainer.val_every_n_steps=2", "trainer.accelerator=cpu")
    for _, program, *words in (line for line in lines if line[0] == "python"):
        result = run(program, *words, *(small + short if program == "train.py" else ()))
        assert result.code == 0, result.out
    assert (photos.parent / "predictions/overlay/10.png").is_file()


def test_the_readme_fits_on_a_page():
    assert (ROOT / "README.md").stat().st_size <= 8192


def test_links_between_pages_exist():
    for page, text in PAGES.items():
        base = ROOT / "docs" if (ROOT / "docs" / page).exists() else ROOT
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert target == GENERATED or (base / target).exists(), f"{page}: {target}"


def test_the_tree_names_what_exists():
    (tree,) = [text for text in blocks("README.md", "text") if text.startswith("train.py ")]
    parents = {0: ROOT}
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        for word in re.findall(r"\S+", line[:25]):
            path = parents[indent] / word
            assert path.exists(), word
            parents[indent + 2] = path


def example(page, kind, text, tmp_path, monkeypatch, name):
    """The one block of a page that contains a text, as an importable module."""
    (source,) = [block for block in blocks(page, kind) if text in block]
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(name)
    sys.modules.pop(name)
    return module


def test_the_example_backbone_works(tmp_path, monkeypatch):
    module = example("extending.md", "python", "class Tiny", tmp_path, monkeypatch, "docs_tiny")
    (settings,) = [yaml.safe_load(text) for text in blocks("extending.md", "yaml") if "Tiny" in text]
    settings.pop("_target_")
    backbone = module.Tiny(**settings | {"width": 8})
    maps = backbone(torch.rand(1, 3, 50, 65))
    for name, feature in backbone.features.items():
        assert maps[name].shape == (1, 8, -(-50 // feature.stride), -(-65 // feature.stride))
    head = instantiate(composed("head=fcn8s").head, "head")(features=backbone.features, num_classes=3)
    assert head(maps, (50, 65)).full().shape == (1, 3, 50, 65)


def test_the_example_head_works(tmp_path, monkeypatch):
    module = example("extending.md", "python", "class Linear", tmp_path, monkeypatch, "docs_linear")
    (settings,) = [yaml.safe_load(text) for text in blocks("extending.md", "yaml") if "mypackage.Linear" in text]
    own = {key: value for key, value in settings.items() if not key.startswith("_")}
    head = module.Linear({"c5": Feature(4, 16, 0.0)}, 3, **own)
    assert head({"c5": torch.rand(1, 4, 3, 5)}, (48, 80)).full().shape == (1, 3, 48, 80)


def test_the_example_loss_works(tmp_path, monkeypatch):
    module = example("extending.md", "python", "class Generalized", tmp_path, monkeypatch, "docs_loss")
    loss = module.Generalized(q=1.0)
    logits = Logits(torch.randn(2, 3, 4, 4), (8, 8), None)
    mask = torch.randint(3, (2, 8, 8)).byte()
    expected = 1 - logits.full().softmax(1).gather(1, mask.long()[:, None]).mean()
    torch.testing.assert_close(loss(logits, mask), expected)
    halves = [
        (logits._replace(values=values), part)
        for values, part in zip(logits.values[:, None], mask[:, None], strict=True)
    ]
    torch.testing.assert_close(sum(loss(*half, [part for _, part in halves]) for half in halves), expected)
    assert loss(logits, torch.full_like(mask, 255)) == 0


def test_the_example_dataset_works(tmp_path, monkeypatch):
    module = example("extending.md", "python", "class SideBySide", tmp_path, monkeypatch, "docs_side_by_side")
    (tmp_path / "cells/train").mkdir(parents=True)
    Image.new("RGB", (40, 32)).save(tmp_path / "cells/train/1_photo.jpg")
    Image.new("L", (40, 32), 255).save(tmp_path / "cells/train/1_label.png")
    dataset = module.SideBySide(tmp_path / "cells", "train")
    assert dataset[0]["mask"].unique().tolist() == [1]


@pytest.mark.slow
def test_the_example_of_an_own_package_works(tmp_path, run, monkeypatch):
    """Head, loss and dataset of the page, outside of segframe: trained, evaluated, predicted with, resumed."""
    for file, text in (("data", "class SideBySide"), ("head", "class Linear"), ("loss", "class Generalized")):
        (source,) = [block for block in blocks("extending.md", "python") if text in block]
        (settings,) = [block for block in blocks("extending.md", "yaml") if f"mypackage.{text[6:]}" in block]
        name = {"data": "data/cells", "head": "head/linear", "loss": "loss/generalized"}[file]
        for path, content in ((f"mypackage/{file}.py", source), (f"conf/{name}.yaml", settings)):
            (tmp_path / "own" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "own" / path).write_text(content)
        with (tmp_path / "own/mypackage/__init__.py").open("a") as lines:
            lines.write(f"from mypackage.{file} import {text[6:]}\n")
    monkeypatch.syspath_prepend(tmp_path / "own")
    for split, count in (("train", 4), ("val", 2)):
        (tmp_path / "cells" / split).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (40, 32), (60 * k, 9, 9)).save(tmp_path / f"cells/{split}/{split}{k}_photo.jpg")
            mask = Image.new("L", (40, 32))
            mask.paste(255, (0, 0, 20, 16))
            mask.save(tmp_path / f"cells/{split}/{split}{k}_label.png")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 32)).save(tmp_path / "photos/new.jpg")
    small = ("data.crop_size=32", "data.batch_size=2", "data.num_workers=0", "data.weights=null", "callbacks=none")
    small += ("trainer.accelerator=cpu", "trainer.val_every_n_steps=2")
    train, evaluate, predict, resume, again = [
        shlex.split(line)[1:]
        for block in blocks("extending.md", "bash")
        for line in block.splitlines()
        if line.startswith("python")
    ]
    names = "trust=[mypackage.Generalized,mypackage.Linear,mypackage.SideBySide]"
    result = run(*train, *small, "trainer.max_steps=2")
    assert (result.code, names in result.out) == (0, True), result.out
    for words, trust in ((evaluate, names), (predict, "trust=[mypackage]"), (resume, "trust=[mypackage]")):
        assert words[-1] == "trust=[mypackage]"
        assert names in run(*words[:-1]).error
        result = run(*words[:-1], trust)
        assert result.code == 0, result.out
    assert [path.name for path in (tmp_path / "predictions/index").iterdir()] == ["new.png"]
    result = run(*again, *small, "trainer.max_steps=2")
    assert result.code == 0, result.out
    error = run(*again, *small, "resume=auto", "output_dir=third").error
    assert error.startswith("error: resume=auto: this command could not continue the run")
    assert error.endswith("add trust=[mypackage.Linear,mypackage.SideBySide]")
    for module in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[module]


def test_the_example_of_own_data_works(tmp_path):
    (text,) = [text for text in blocks("data_formats.md", "yaml") if "label_map" in text]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.yaml").write_text(text)
    for folder in ("images", "masks"):
        for split in ("train", "val"):
            (tmp_path / "photos" / folder / split).mkdir(parents=True)
            picture = Image.new("RGB", (40, 32), (0x80, 0x40, 0x80) if folder == "masks" else (9, 9, 9))
            picture.save(tmp_path / "photos" / folder / split / "0.png")
    config = composed(f"hydra.searchpath=[file://{tmp_path}]", "data=mine", f"data.root={tmp_path / 'photos'}")
    train, _ = build_datasets(config)
    assert train.classes == ("road", "sky")
    assert set(train[0]["mask"].unique().tolist()) <= {0, 255}


def test_the_example_experiment_composes(tmp_path):
    (text,) = [text for text in blocks("configuration.md", "yaml") if "@package" in text]
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/roads.yaml").write_text(text)
    config = composed(f"hydra.searchpath=[file://{tmp_path}]", "experiment=roads")
    assert config.backbone.variant == "resnet50"
    assert config.optimizer.lr == 0.0005
