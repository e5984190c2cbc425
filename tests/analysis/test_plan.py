"""Plans: what is measured, what is written, and that train.py follows it."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import IMAGES, ROOT, composed
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import segframe
from segframe.analysis.planning.decision import Decision
from segframe.analysis.planning.draft import read_words
from segframe.analysis.planning.experiment_file import experiment_text
from segframe.analysis.planning.measure_data import find_objects, measure_data, spread, weighted_quantile, window_shares
from segframe.analysis.planning.plan import parse_time
from segframe.config.validate import check_keys, check_targets
from segframe.data.build import build_datasets
from segframe.errors import UserError

PROGRAM = "scripts/plan.py"
# Shorter than a plan would make it.
SHORT = ("trainer.max_steps=2", "trainer.val_every_n_steps=2", "callbacks=none", "logger=none", "data.num_workers=0")


def written(path):
    return yaml.safe_load(path.read_text())


def test_objects_of_a_mask():
    mask = np.zeros((40, 60), np.uint8)
    mask[5:35, 10:14] = 1  # a pole
    mask[5:15, 30:40] = 1
    mask[20:22, 50:52] = 255
    objects = find_objects(mask)
    block, pole = sorted(map(tuple, objects[objects[:, 0] == 1].tolist()))
    assert block == (1.0, 100.0, 10.0)
    assert pole == (1.0, 120.0, 4.0)
    assert set(objects[:, 0].tolist()) == {0.0, 1.0}
    (every_second,) = [row for row in find_objects(mask[::2, ::2], 2).tolist() if row[0] == 1 and row[2] < 5]
    assert every_second == [1.0, 120.0, 4.0]
    assert find_objects(np.full((4, 4), 255, np.uint8)).shape == (0, 3)


@pytest.mark.parametrize("width", [1, 3, 4, 5, 8, 9])
def test_the_width_of_thin_structures_is_theirs(width):
    net = np.zeros((256, 256), np.uint8)
    for at in range(16, 250, 32):
        net[at : at + width] = 1
        net[:, at : at + width] = 1
    rows, columns = np.mgrid[:256, :256] - 128
    ring = (np.abs(np.hypot(rows, columns) - 90) <= width / 2).astype(np.uint8)
    for mask in (net, ring):
        ((_, area, found),) = [row for row in find_objects(mask).tolist() if row[0] == 1]
        assert area == (mask == 1).sum()
        assert found == pytest.approx(width, rel=0.3, abs=0.5)


def test_windows_that_show_a_class():
    mask = np.zeros((64, 64), np.uint8)
    mask[:32, :32] = 1
    mask[60:, 60:] = 2
    shares = window_shares(mask)
    assert shares[0, :3].tolist() == [1, 1, 1]
    # Windows of half the sides have 17 positions per axis, 16 cells between the first and the last.
    assert shares[1, 1] == pytest.approx((15.5 / 16) ** 2)
    assert shares[1, 2] == pytest.approx((1.5 / 16) ** 2)
    assert shares[:, 3].max() == 0


def test_quantiles_by_weight():
    values, weights = np.array([10.0, 1.0, 5.0]), np.array([97.0, 1.0, 2.0])
    assert weighted_quantile(values, weights, 0.25) == 10
    assert weighted_quantile(values, weights, 0.02) == 5
    assert weighted_quantile(values[:0], weights[:0], 0.5) == 0


def test_samples_at_even_distances():
    assert spread(3, 10) == [0, 1, 2]
    assert spread(10, 3) == [0, 3, 6]


def test_facts_of_a_folder(photos):
    rows, columns = np.mgrid[:30, :90]
    Image.fromarray(np.stack([rows, columns, rows], -1).astype(np.uint8)).save(photos / "images/train/big.png")
    Image.fromarray(np.full((30, 90), 255, np.uint8)).save(photos / "masks/train/big.png")
    config = composed("data=folder", f"data.root={photos}", "data.dataset.classes=[a,b,c]", "data.num_workers=0")
    train, val = build_datasets(config)
    facts = measure_data(train, val, config.data, 100)
    assert (facts.train_images, facts.val_images, facts.examined) == (7, 3, 7)
    assert (facts.size, facts.smallest, facts.largest) == ((48, 64), (30, 90), (48, 64))
    masks = np.stack([np.array(Image.open(photos / f"masks/train/{k}.png")) for k in range(6)])
    assert [each.share for each in facts.classes] == pytest.approx([(masks == k).mean() for k in range(3)])
    assert all(each.images == pytest.approx(6 / 7) for each in facts.classes)
    assert facts.void == pytest.approx(2700 / (6 * 48 * 64 + 2700))
    pixels = np.concatenate([np.array(Image.open(path)).reshape(-1, 3) for path in photos.glob("images/train/*")])
    assert facts.mean == pytest.approx(pixels.mean(0), abs=1e-3)
    assert facts.std == pytest.approx(pixels.std(0), abs=1e-3)
    assert facts.decoded_bytes == 4 * (9 * 48 * 64 + 2700)
    assert facts.has_files
    assert facts.weights == "imagenet"
    assert measure_data(train, val, config.data, 2).examined == 2


def test_times():
    assert [parse_time("budget", text) for text in ("90s", "45m", "2h", "1h30m")] == [90, 2700, 7200, 5400]
    for text in ("90", "2 h", "h", "2x", "-1h"):
        with pytest.raises(UserError, match=f"budget={text}: it must be a time .* type budget=45m"):
            parse_time("budget", text)


def test_the_words_of_the_user():
    words = ["data=folder", "data.dataset.classes=[a,b]", "+trainer.lightning.limit_val_batches=3", "head.rates=null"]
    assert read_words(words) == {
        "data": "folder",
        "data.dataset.classes": ["a", "b"],
        "trainer.lightning.limit_val_batches": 3,
        "head.rates": None,
    }
    for word in ("~callbacks.images", "+loss@loss.terms.mine=ohem"):
        with pytest.raises(UserError, match=r"type it to train\.py"):
            read_words([word])
    with pytest.raises(UserError, match="experiment=voc: a plan is an experiment of its own"):
        read_words(["experiment=voc"])


def test_a_reason_beside_each_line():
    decisions = [
        Decision("backbone", "resnet18", "a choice"),
        Decision("data.crop_size", [96, 128], "a size"),
        Decision("backbone.weights", None, "a long reason " * 10),
        Decision("data.dataset.classes", ["no", "a: b"], "as given"),
    ]
    text = experiment_text(["What it is.", "  python train.py"], decisions)
    assert text.startswith("# @package _global_\n# What it is.\n#   python train.py\ndefaults:\n")
    assert "  - override /backbone: resnet18  # a choice\n" in text
    assert "  crop_size: [96, 128]  # a size\n" in text
    assert max(map(len, text.splitlines())) <= 120
    assert yaml.safe_load(text) == {
        "defaults": [{"override /backbone": "resnet18"}],
        "data": {"crop_size": [96, 128], "dataset": {"classes": ["no", "a: b"]}},
        "backbone": {"weights": None},
    }


def test_a_plan_is_made_shown_and_followed(run, tmp_path):
    own = ("trainer.accelerator=cpu", "trainer.precision=32-true", "backbone.channels=[4,4,4,4,4]", IMAGES[4])
    given = (*own, "backbone=unet", "optimizer.weight_decay=0.05")
    result = run(PROGRAM, *IMAGES[:2], *given, "budget=2d")
    assert result.code == 0, result.out
    plan = written(tmp_path / "configs/experiment/plan_shapes.yaml")
    chosen = {key.removeprefix("override /"): value for line in plan["defaults"] for key, value in line.items()}
    assert (chosen["data"], chosen["backbone"], chosen["head"]) == ("shapes", "unet", "deeplabv3plus")
    assert plan["optimizer"]["weight_decay"] == 0.05
    assert plan["data"]["crop_size"] == [32, 32]
    assert plan["data"]["dataset"] == {"size": 32, "num_images": {"train": 12, "val": 3, "test": 2}}
    assert "batch_size: 8" in (tmp_path / "configs/experiment/plan_shapes.yaml").read_text()
    for word in ("python train.py experiment=plan_shapes", "as given", "star", "max_steps"):
        assert word in result.out
    again = run(PROGRAM, "data=shapes")
    assert again.error == (
        "error: output=configs/experiment/plan_shapes.yaml: there is such a file; type overwrite=true, or output=... "
        "for another one"
    )
    result = run("train.py", "experiment=plan_shapes", *SHORT, "output_dir=run")
    assert result.code == 0, result.out
    assert "length   2 steps of 8 images" in result.out
    assert written(tmp_path / "run/config.yaml")["optimizer"]["lr"] == plan["optimizer"]["lr"]


@pytest.mark.slow
def test_a_plan_from_python_for_four_bands_beside_other_configs(photos, monkeypatch):
    monkeypatch.chdir(photos)
    GlobalHydra.instance().clear()
    for path in photos.glob("images/*/*.png"):
        image = np.array(Image.open(path))
        Image.fromarray(np.concatenate([image, image[..., :1] // 2], -1)).save(path)
    data = ("data=folder", f"data.root={photos}", "data.dataset.classes=[a,b,c]", "data.channels=4")
    given = ("model=unet", "backbone.channels=[4,4,4,4,4]", "head.channels=[4,4,4,4]", "trainer.max_epochs=3")
    more = ("data.num_workers=0", "trainer.precision=32-true", "trainer.accelerator=cpu", "max_images=4")
    plan = segframe.plan(*data, *given, *more, "output=plans/experiment/bands.yaml")
    assert plan.file == Path("plans/experiment/bands.yaml")
    assert plan.train_words == ["--config-dir=plans", "experiment=bands"]
    assert "4 of 6 training images were read, at even distances" in plan.notes
    found = {decision.key: decision for decision in plan.decisions}
    assert (found["backbone"].value, found["head"].value, found["backbone"].given) == ("unet", "unet", True)
    assert len(found["normalize.mean"].value) == 4
    assert found["data.crop_size"].value == [64, 64]  # of 48x64
    assert "backbone.weights" not in found  # which U-Net's encoder does not have
    assert not {"trainer.max_steps", "head.rates"} & found.keys()
    assert "optimizer.lr=" in str(plan)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", ["experiment=bands", f"hydra.searchpath=[file://{photos / 'plans'}]"])
    check_keys(config)
    check_targets(config, without=("logger", "callbacks"))  # which need output_dir
    assert list(config.normalize.mean) == found["normalize.mean"].value
    assert (config.trainer.max_epochs, config.trainer.max_steps) == (3, None)


def test_mistakes(run, tmp_path):
    for words, error in {
        ("budget=90",): "budget=90: it must be a time in s, m, h or d; type budget=45m or budget=2h",
        ("output=plan.yaml",): "type output=configs/experiment/plan.yaml",
        ("budgte=2h",): "did you mean budget?",
        ("data=nowhere",): "data=nowhere: there is no such option",
        ("max_images=0",): "max_images=0: it must be 1 or more",
    }.items():
        assert error in run(PROGRAM, *words).error
    assert not (tmp_path / "configs").exists()
