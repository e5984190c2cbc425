"""The README's commands compose, its tree is the tree, its example works as described."""

import re
import shlex
import sys

import pytest
import torch
from conftest import ROOT, composed
from hydra.core.config_store import ConfigStore
from PIL import Image

from segframe.config import validate
from segframe.config.instantiate import instantiate
from segframe.data.build import build_datasets

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split(" #")[0].strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
PYTHON = [command for command in COMMANDS if command.startswith("python ")]


def test_there_are_commands():
    assert len(PYTHON) > 10


@pytest.mark.parametrize("command", PYTHON)
def test_commands_compose(command):
    _, script, *words = shlex.split(command)
    assert (ROOT / script).is_file()
    name = script.rpartition("/")[2].removesuffix(".py")
    overrides = [word for word in words if not word.startswith("-") and word != "job"]
    if "-m" in words:
        overrides = [re.sub(r",[^\]=]*$", "", word) for word in overrides]
    ConfigStore.instance().store(group="data", name="checkpoint", node={})
    config = composed(*overrides, name=name)
    if name == "train":
        validate.check_keys(config)
        validate.check_targets(config)


@pytest.mark.parametrize("target", [c.split()[1] for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_tree_names_what_is_there():
    (tree,) = [text for kind, text in BLOCKS if text.startswith("train.py ")]
    for line in tree.splitlines():
        indent = "segframe/" if line.startswith("  ") and "yaml" not in line else ""
        for word in re.findall(r"[\w/]+\.(?:py|yaml)|\w+/", line.split("   ")[0] if indent else line[:60]):
            places = [ROOT / word, ROOT / "segframe" / word, ROOT / "configs" / word, ROOT / "scripts" / word]
            folder = re.match(r"\s*(\w+)/", line)
            if folder:
                places.append(ROOT / "segframe" / folder[1] / word)
            assert any(place.exists() for place in places), word


def test_the_example_backbone_works(tmp_path, monkeypatch):
    (source,) = [text for kind, text in BLOCKS if kind == "python"]
    (tmp_path / "readme_tiny.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    import readme_tiny

    backbone = readme_tiny.Tiny(width=8, lr_multiplier=1.0)
    maps = backbone(torch.rand(1, 3, 50, 65))
    assert {
        k: (m.shape[1], -(-50 // f.stride)) for (k, m), f in zip(maps.items(), backbone.features.values(), strict=True)
    } == {k: (8, m.shape[2]) for k, m in maps.items()}
    head = instantiate(composed("head=fcn8s").head, "head")(features=backbone.features, num_classes=3)
    assert head(maps, (50, 65)).full().shape == (1, 3, 50, 65)
    sys.modules.pop("readme_tiny")


def test_the_example_of_own_data_works(tmp_path):
    (text,) = [text for kind, text in BLOCKS if kind == "yaml" and "label_map" in text]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.yaml").write_text(text)
    for folder, mode in (("images", "RGB"), ("masks", "RGB")):
        for split in ("train", "val"):
            (tmp_path / "photos" / folder / split).mkdir(parents=True)
            picture = Image.new(mode, (40, 32), (0x80, 0x40, 0x80) if folder == "masks" else (9, 9, 9))
            picture.save(tmp_path / "photos" / folder / split / "0.png")
    config = composed(f"hydra.searchpath=[file://{tmp_path}]", "data=mine", f"data.root={tmp_path / 'photos'}")
    train, _ = build_datasets(config.data, config.transforms, 0)
    assert train.classes == ("road", "sky")
    assert set(train[0]["mask"].unique().tolist()) <= {0, 255}
