"""Whatever stands in a file, its reader answers or says in one sentence what is wrong: nothing else is ever raised.

`make torture` has the same properties tried with many more examples (SEGFRAME_FUZZ of each).
"""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from segframe.config import untrusted
from segframe.data.datasets.folder import Folder
from segframe.data.file_listing import pair
from segframe.data.image_io import read_image, read_raw
from segframe.data.label_map import LabelTable, voc_palette
from segframe.data.split_lists import read_list
from segframe.errors import UserError
from segframe.models.from_checkpoint import restore
from segframe.models.weights import checkpoint, third_party
from segframe.models.weights.pretrained import read_file
from segframe.training.loggers import CSVLogger

EXAMPLES = int(os.environ.get("SEGFRAME_FUZZ", "0"))
profile = settings(
    max_examples=EXAMPLES or 60,
    deadline=20_000,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=list(HealthCheck),
)
# Of Pillow and torch, about files that they doubt.
pytestmark = pytest.mark.filterwarnings("ignore")

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".gif": "GIF", ".webp": "WEBP"}
MASKS = (".png", ".bmp", ".tif", ".gif")
CLASSES = ("ground", "road", "sky")
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["ground", "road", "sky", "rad", "ignore", "other", ""]) | st.text(max_size=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for all examples: making one for each would take longer than reading."""
    return tmp_path_factory.mktemp("fuzz")


def answers(call, *arguments):
    """What a reader makes of its file; None where it says in one sentence what is wrong."""
    try:
        return call(*arguments)
    except UserError as error:
        told = str(error)
    assert told.strip()
    assert "Traceback" not in told
    return None


@st.composite
def mutated(draw, contents):
    """A valid file with some bytes changed, left out or put in, or cut off."""
    content = bytearray(draw(contents))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(("change", "cut", "insert", "drop", "zero"))):
            case "change" if content:
                content[at] = draw(st.integers(0, 255))
            case "cut":
                del content[at:]
            case "insert":
                content[at:at] = draw(st.binary(max_size=20))
            case "drop":
                del content[at : at + draw(st.integers(1, 50))]
            case "zero":
                content[at : at + 8] = bytes(8)
    return bytes(content)


@st.composite
def pictures(draw, suffix):
    """A valid file of this format."""
    modes = {".jpg": ("RGB", "L", "CMYK"), ".gif": ("L", "P"), ".webp": ("RGB", "RGBA"), ".bmp": ("RGB", "L", "1", "P")}
    mode = draw(st.sampled_from(modes.get(suffix, ("RGB", "L", "P", "1", "RGBA", "LA", "I;16"))))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 255, (height, width, 3), dtype=np.uint8)
    if suffix == ".tif" and mode == "P":
        mode = "L"
    picture = (
        Image.fromarray(values[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(values).convert(mode)
    )
    file = io.BytesIO()
    picture.save(file, FORMATS[suffix])
    return file.getvalue()


def try_files(path, read, is_right):
    """Whatever the file holds, what is read of it is right, or one sentence says what is wrong."""

    @profile
    @given(st.binary(max_size=300) | mutated(pictures(path.suffix)))
    @example(b"")
    def holds(content):
        path.write_bytes(content)
        found = answers(read, path)
        assert found is None or (found.dtype == np.uint8 and is_right(found))

    holds()


@pytest.mark.parametrize("suffix", FORMATS)
def test_images(folder, suffix):
    try_files(folder / f"image{suffix}", read_image, lambda image: image.ndim == 3 and image.shape[2] == 3)


@pytest.mark.parametrize("suffix", MASKS)
def test_masks(folder, suffix):
    path, table = folder / f"mask{suffix}", LabelTable(CLASSES, {7: "road"}, voc_palette(3))
    try_files(path, lambda at: table(read_raw(at), at), lambda mask: mask.ndim == 2 and {*mask.flat} <= {0, 1, 2, 255})


@profile
@given(
    st.sampled_from(MASKS),
    st.sampled_from(["L", "P", "I;16"]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 9),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_a_valid_mask_reads_back_exactly(folder, suffix, mode, height, width, level, optimize, seed):
    rng = np.random.default_rng(seed)
    depth = np.uint16 if mode == "I;16" and suffix in (".png", ".tif") else np.uint8
    values = rng.integers(0, np.iinfo(depth).max, (height, width), dtype=depth, endpoint=True)
    mask = Image.fromarray(values)
    if mode == "P" and suffix != ".gif":
        mask.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    png = {"compress_level": level, "optimize": optimize}
    options = {".png": png, ".tif": {"compression": "tiff_lzw"}, ".gif": {"optimize": False}, ".bmp": {}}
    path = folder / f"exact{suffix}"
    mask.save(path, **options[suffix])
    assert np.array_equal(read_raw(path), values)


@profile
@given(st.binary(max_size=200) | mutated(st.just(b"a\nb c\nimages/d.jpg masks/d.png\n")))
def test_lists(folder, content):
    path = folder / "list.txt"
    path.write_bytes(content)
    names = answers(read_list, path, "cure")
    if names is not None:
        assert all(name == name.strip() and name for name in names)
        answers(pair, names, {"a": path}, {"a": path}, "here")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder dataset whose list and class names are still to be written."""
    root = tmp_path_factory.mktemp("photos")
    for kind in ("images", "masks"):
        (root / kind).mkdir()
        for name in ("a", "b"):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / kind / f"{name}.png")
    return root


@profile
@given(
    st.binary(max_size=60)
    | st.lists(
        st.sampled_from(
            ["a", "b", "a.png", "c", "../a", "/", ".", "a.png,b.png", "a b", "a.png " * 60, "\xe9.png b.png"]
        )
    )
    .map("\n".join)
    .map(str.encode),
    st.lists(NAMES, max_size=5) | st.binary(max_size=60),
    PLAIN,
    st.none() | st.lists(st.lists(st.integers(-2, 300), max_size=4), max_size=4),
)
def test_folders(photos, listed, classes, label_map, palette):
    (photos / "list.txt").write_bytes(listed)
    if isinstance(classes, bytes):
        (photos / "names.txt").write_bytes(classes)
        classes = "names.txt"
    label_map = label_map if isinstance(label_map, dict) else None
    settings_ = {"classes": classes, "palette": palette, "label_map": label_map, "splits": {"train": "list.txt"}}
    dataset = answers(lambda: Folder(photos, "train", **settings_))
    if dataset is not None:
        answers(dataset.read, 0)


@profile
@given(st.dictionaries(st.integers(-3, 70000) | NAMES | st.just("#e0e0c0"), st.integers(-3, 300) | NAMES, max_size=5))
def test_label_maps(folder, label_map):
    table = answers(LabelTable, CLASSES, label_map, voc_palette(3))
    if table is not None:
        answers(table, np.arange(256, dtype=np.uint8)[None], folder / "mask.png")
        answers(table, np.arange(2**16, dtype=np.uint16)[None], folder / "mask.png")


def packed(content, legacy=False):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


@st.composite
def archives(draw):
    """A zip file with the members of a checkpoint, and anything in them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in draw(
            st.lists(st.sampled_from(["x/data.pkl", "x/version", "x/data/0", "x/byteorder"]), unique=True)
        ):
            archive.writestr(name, draw(st.binary(max_size=40) | PLAIN.map(pickle.dumps)))
    return file.getvalue()


TENSORS = {
    "state_dict": {"a": torch.arange(40.0)},
    "segframe": {"config": {}, "classes": ["x"], "palette": [[1, 2, 3]]},
}
STORED = (
    st.binary(max_size=200)
    | archives()
    | mutated(st.sampled_from([packed(TENSORS), packed(TENSORS, legacy=True), pickle.dumps([1, 2])]))
    | PLAIN.map(packed)
    | st.dictionaries(st.text(max_size=3) | st.integers(), st.just(torch.zeros(1))).map(packed)
    | st.dictionaries(st.sampled_from(["state_dict", "segframe", "model"]), PLAIN).map(packed)
)


@profile
@given(STORED)
@example(b"")
def test_checkpoints_and_weights(folder, content):
    path = folder / "x.ckpt"
    path.write_bytes(content)
    for reader in (
        checkpoint.load_file,
        checkpoint.load_run,
        checkpoint.load_state_dict,
        third_party.read_weights,
        restore,
    ):
        answers(reader, path)
    safe = folder / "x.safetensors"
    safe.write_bytes(content)
    answers(read_file, safe)


@profile
@given(
    st.dictionaries(st.sampled_from(["backbone", "head", "aux_head", "normalize", "input_scales"]), PLAIN), PLAIN, PLAIN
)
def test_what_a_checkpoint_says_of_its_network(folder, config, classes, palette):
    unet = {"_target_": "segframe.models.backbones.UNetEncoder", "channels": [2, 2], "padded": True, "batch_norm": True}
    base = {"backbone": unet, "normalize": {"mean": [0.0] * 3, "std": [1.0] * 3}, "head": {"_target_": "x"}}
    path = folder / "built.ckpt"
    torch.save({"state_dict": {}, "segframe": {"config": base | config, "classes": classes, "palette": palette}}, path)
    answers(restore, path)


CONFIG = b"backbone:\n  _target_: segframe.models.backbones.ResNet\nseed: 0\ntrainer: {max_epochs: 1}\n"


@profile
@given(st.binary(max_size=100) | mutated(st.just(CONFIG)) | PLAIN.map(lambda node: json.dumps(node).encode()))
@example(b"a: &a [*a]")
@example(b"? [a]\n: 1")
@example(b"a: " + b"[" * 2000)
@example(b"seed: !!python/object/apply:os.system ['true']")
def test_configs_of_runs(folder, content):
    path = folder / "config.yaml"
    path.write_bytes(content)
    answers(untrusted.check_folder, path.parent)


TABLE = b"step,loss,miou\r\n1,0.5,\r\n2,0.25,0.1\r\n"


@profile
@given(st.binary(max_size=100) | mutated(st.just(TABLE)) | mutated(st.just(TABLE + b"3,0.")))
@example(b"")
@example(b"step,loss\n\n")
@example(b"loss\n1\n")
@example(b"step,loss\n1,2,3\n")
@example(b"step,step\n1,2\n")
def test_metrics(folder, content):
    path = Path(folder / "metrics.csv")
    path.write_bytes(content)
    logger = answers(CSVLogger, str(folder))
    if logger is not None:
        logger.resume(1)
        logger.log_metrics({"loss": 1.0, "new": 2.0}, step=5)
        logger.save()
        assert answers(CSVLogger, str(folder)) is not None
