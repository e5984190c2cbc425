"""Interface of every dataset in configs/data."""

import pytest
from conftest import composed, options

from segframe.config.instantiate import instantiate
from segframe.data.base import SegmentationDataset
from segframe.errors import UserError


@pytest.mark.parametrize("name", options("data"))
def test_interface(name, tmp_path):
    own = ["data.dataset.classes=[road,sky]"] if name == "folder" else []
    config = composed(f"data={name}", *([] if name == "shapes" else [f"data.root={tmp_path}"]), *own).data
    make = instantiate(config.dataset, "data.dataset")
    assert issubclass(make.func, SegmentationDataset)
    assert make.func.__doc__
    try:
        dataset = make(root=config.root, split=config.val_split)
    except UserError as error:
        dataset, message = None, str(error)
    if dataset is None:
        # Without files the error names the folder and what to do.
        assert str(tmp_path) in message
        assert "\n" not in message
        assert len(message) > len(str(tmp_path)) + 30
        return
    item = dataset[0]
    assert len(dataset.palette) == len(dataset.classes) == len(set(dataset.classes))
    assert item["image"].shape[0] == 3
    assert item["image"].shape[1:] == item["mask"].shape
    assert set(item["mask"].unique().tolist()) <= {*range(len(dataset.classes)), 255}
    with pytest.raises(UserError, match="no split 'nothing'"):
        make(root=config.root, split="nothing")
