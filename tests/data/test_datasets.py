"""Interface of every dataset in configs/data."""

import pytest
from conftest import composed, options
from dataset_files import check_error

from segframe.config.instantiate import instantiate
from segframe.data.base import SegmentationDataset


@pytest.mark.parametrize("name", options("data"))
def test_interface(name, tmp_path):
    own = ["data.dataset.classes=[road,sky]"] if name == "folder" else []
    config = composed(f"data={name}", *([] if name == "shapes" else [f"data.root={tmp_path}"]), *own).data
    make = instantiate(config.dataset, "data.dataset")
    assert issubclass(make.func, SegmentationDataset)
    assert make.func.__doc__
    if name != "shapes":
        check_error(lambda: make(root=config.root, split=config.val_split), tmp_path)
        return
    dataset = make(root=config.root, split=config.val_split)
    item = dataset[0]
    assert len(dataset.palette) == len(dataset.classes) == len(set(dataset.classes))
    assert item["image"].shape[0] == 3
    assert item["image"].shape[1:] == item["mask"].shape
    assert set(item["mask"].unique().tolist()) <= {*range(len(dataset.classes)), 255}
    check_error(lambda: make(root=config.root, split="nothing"), "no split 'nothing'")
