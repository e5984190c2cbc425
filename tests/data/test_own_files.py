"""A dataset whose images are in files that only its own `read` knows."""

import re
import traceback

import numpy as np
import pytest
from conftest import RUN

from segframe.data import Shapes
from segframe.data.image_batches import image_loader
from segframe.errors import UserError

MODULE = """
import numpy as np

from segframe.data import SegmentationDataset
from segframe.data.file_listing import Sample


class Arrays(SegmentationDataset):
    classes, palette, splits, source = ("low", "high"), ((0, 0, 0), (255, 0, 0)), ("train", "val"), "put arrays there"
    reads_files = False

    def find(self):
        return [Sample(path.stem, path, path) for path in sorted((self.root / self.split).glob("*.npy"))]

    def read(self, index):
        try:
            image = np.load(self.samples[index].image)
        except EOFError as error:
            raise OSError(error) from None
        return image, (image[..., 0] > 127).astype(np.uint8)
"""


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "arrays.py").write_text(MODULE)
    for split, count in (("train", 8), ("val", 2)):
        (tmp_path / "data" / split).mkdir(parents=True)
        for k in range(count):
            image = np.random.default_rng(k + 10 * count).integers(0, 256, (32, 32, 3), np.uint8)
            np.save(tmp_path / "data" / split / f"{k}.npy", image)
    data = tmp_path / "configs" / "data"
    data.mkdir(parents=True)
    data.joinpath("arrays.yaml").write_text(
        "defaults: [_base, _self_]\ndataset: {_target_: arrays.Arrays, _partial_: true}\nroot: data\n"
        "train_split: train\nval_split: val\ncrop_size: 32\n"
    )
    return ("data=arrays", "data.num_workers=0")


def test_it_trains_and_is_checked(run, words):
    small = ("backbone=resnet18", "head=fcn", "data.weights=null", "data.batch_size=4", "trainer.accelerator=cpu")
    result = run("train.py", *words, *small, *RUN, "output_dir=run")
    assert result.code == 0, result.out
    result = run("scripts/check_data.py", *words)
    assert result.code == 0, result.out
    assert re.search(r"train.*\b8\b", result.out)
    assert "cannot be read" not in result.out


@pytest.mark.parametrize("workers", [0, 1])
def test_exceptions_of_its_own_name_the_sample(workers):
    class Broken(Shapes):
        def read(self, index):
            return super().read(index) if index != 5 else {}["frame"]

    dataset = Broken(None, "train", size=32, num_images={"train": 8})
    with pytest.raises(KeyError) as error:
        list(image_loader(dataset, workers))
    text = "".join(traceback.format_exception(error.value))
    assert "'frame'" in text
    assert "data.dataset=Broken: sample 5 (train_0005)" in text


def test_its_mistakes_are_findings(run, words, tmp_path):
    np.save(tmp_path / "data/train/1.npy", np.zeros((32, 32, 5), np.uint8))
    (tmp_path / "data/train/2.npy").write_bytes(b"")
    result = run("scripts/check_data.py", *words, "output_dir=checked")
    assert result.code == 1
    assert "Arrays 1 is uint8 of shape (32, 32, 5), but data.channels=3" in result.out
    assert "2.npy" in (tmp_path / "checked/check_data.json").read_text()


def test_it_has_no_cache(run, words):
    error = run("train.py", *words, "data.cache=ram").error
    assert "Arrays is generated, or reads its files itself: set data.cache=null" in error


def test_its_sizes_are_read(words, tmp_path):
    import arrays

    from segframe.analysis.planning.measure_data import read_size
    from segframe.data.inspection.facts import examine

    dataset = arrays.Arrays(tmp_path / "data", "val")
    assert read_size(dataset, 0) == (32, 32)
    assert examine(dataset, 0).image.header.mode == "3 bands of uint8"
    with pytest.raises(UserError, match="put arrays there"):
        arrays.Arrays(tmp_path / "nowhere", "val")
