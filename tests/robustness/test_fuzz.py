"""Properties of readers: whatever a file holds, it is read, or a UserError says what is wrong; nothing else is raised.

`make torture` tries many more examples (SEGFRAME_FUZZ of each property).
"""

import io
import json
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pictures import FORMATS, NO_PIXELS, pictures
from PIL import Image

from segframe.config.saved_run import check_saved_run
from segframe.data.binary_masks import threshold
from segframe.data.class_files import read_class_file
from segframe.data.datasets.folder import Folder
from segframe.data.file_listing import Sample, pair
from segframe.data.image_io import read_header, read_image, read_raw
from segframe.data.label_map import LabelTable, voc_palette
from segframe.data.mask_checks import map_mask
from segframe.data.pixel_format import PixelFormat
from segframe.data.split_lists import read_list
from segframe.errors import UserError
from segframe.models.from_checkpoint import restore
from segframe.models.weights import third_party
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
pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow and torch warn of damaged files

MASKS = (".png", ".bmp", ".tif", ".gif")
CLASSES = ("ground", "road", "sky")
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples: creating folders would take longer than reading files."""
    return tmp_path_factory.mktemp("fuzz")


def read_or_refuse(reader, *arguments):
    """What a reader returns; None if it raises a UserError, which must have a message."""
    try:
        return reader(*arguments)
    except UserError as error:
        message = str(error)
    assert message.strip()
    assert "Traceback" not in message
    return None


@st.composite
def mutated(draw, contents):
    """A valid file with bytes replaced, removed or inserted, or cut off."""
    content = bytearray(draw(contents))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.sampled_from((0, 1, 50, len(content))))
        content[at : at + length] = draw(st.binary(max_size=20))
    return bytes(content)


formats = st.builds(PixelFormat, st.sampled_from((1, 3, 4, 6)), st.sampled_from((255, 4095, 65535)))


@pytest.mark.parametrize("suffix", [*FORMATS, ".npy"])
def test_images(folder, suffix):
    path = folder / f"image{suffix}"

    @profile
    @given(st.binary(max_size=300) | mutated(pictures(suffix)), formats)
    @example(b"", PixelFormat())
    @example(NO_PIXELS, PixelFormat(1, 4095))
    def holds(content, pixels):
        path.write_bytes(content)
        read_or_refuse(read_header, path)
        image = read_or_refuse(read_image, path, pixels)
        if image is not None:
            assert image.dtype == pixels.depth
            assert image.ndim == 3
            assert image.shape[2] == pixels.channels

    holds()


@pytest.mark.parametrize("suffix", MASKS)
def test_masks(folder, suffix):
    path, table = folder / f"mask{suffix}", LabelTable(CLASSES, {7: "road"}, voc_palette(3))

    @profile
    @given(st.binary(max_size=300) | mutated(pictures(suffix)))
    @example(b"")
    def holds(content):
        path.write_bytes(content)
        read_or_refuse(lambda: threshold(read_raw(path), path))
        mask = read_or_refuse(lambda: map_mask(table, read_raw(path), path))
        assert mask is None or (mask.dtype == np.uint8 and mask.ndim == 2 and {*mask.flat} <= {0, 1, 2, 255})

    holds()


@profile
@given(st.sampled_from(MASKS), st.sampled_from(["L", "P", "I;16"]), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_a_valid_mask_is_read_exactly(folder, suffix, mode, level, seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 41, 2)
    depth = np.uint16 if mode == "I;16" and suffix in (".png", ".tif") else np.uint8
    values = rng.integers(0, np.iinfo(depth).max, (height, width), dtype=depth, endpoint=True)
    mask = Image.fromarray(values)
    if mode == "P" and suffix != ".gif":
        mask.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    png, tif = {"compress_level": level}, {"compression": "tiff_lzw"}
    path = folder / f"exact{suffix}"
    mask.save(path, **{".png": png, ".tif": tif, ".gif": {"optimize": False}, ".bmp": {}}[suffix])
    assert np.array_equal(read_raw(path), values)


@profile
@given(st.binary(max_size=200) | mutated(st.just(b"a\nb c\nimages/d.jpg masks/d.png\n")))
def test_split_lists(folder, content):
    path = folder / "list.txt"
    path.write_bytes(content)
    names = read_or_refuse(read_list, path, "advice")
    if names is not None:
        assert all(name == name.strip() and name for name in names)
        read_or_refuse(pair, names, {"a": path}, {"a": path}, "here")


LISTS = {
    "names": "{name}",
    "files": "{name}.png",
    "numbers": "{name} 1 1 2",
    "pairs": "images/{name}.png masks/{name}.png",
    "tabs": "images/{name}.png\tmasks/{name}.png",
    "slashes": "/images/{name}.png /masks/{name}.png",
    "backslashes": "images\\{name}.png,masks\\{name}.png",
    "quotes": '"images/{name}.png","masks/{name}.png"',
    "elsewhere": "/home/me/data/images/{name}.png /home/me/data/masks/{name}.png",
    "absolute": "{root}/images/{name}.png {root}/masks/{name}.png",
}
NAMES = ("a", "b-2", "my", "my c", "\u00fc_1")


@profile
@given(
    st.sampled_from(list(LISTS)),
    st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
    st.lists(st.sampled_from(("# a comment", "", "\ufeff")), max_size=2, unique=True).map(sorted),
    st.booleans(),
    st.sampled_from(("\n", "\r\n")),
)
def test_lists_of_any_style_name_the_same_files(folder, style, names, before, header, end):
    root = folder / "listed"
    for path in (root / f"{kind}/{name}.png" for kind in ("images", "masks") for name in NAMES):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    lines = [LISTS[style].format(name=name, root=root) for name in names]
    columns = ["image,mask"] if header and style in ("backslashes", "quotes") else []
    (root / "t.txt").write_text(end.join([*before[::-1], *columns, *lines, ""]), encoding="utf-8", newline="")
    found = Folder(root, "t", classes=["x", "y"], splits={"t": "t.txt"}).samples
    assert found == [Sample(name, root / f"images/{name}.png", root / f"masks/{name}.png") for name in names]


CLASS_FILES = {
    "cvat": lambda rows: [f"{name}:{','.join(map(str, colour))}::" for name, colour in rows],
    "kaggle": lambda rows: ["name,r,g,b", *(f"{name}, {','.join(map(str, colour))}" for name, colour in rows)],
    "roboflow": lambda rows: ["Pixel Value, Class", *(f"{k}, {name}" for k, (name, _) in enumerate(rows))],
    "names": lambda rows: [name for name, _ in rows],
}
COLOUR = st.tuples(*[st.integers(0, 255)] * 3)
NAMED = st.lists(st.tuples(st.from_regex(r"[a-z]{3,8}x", fullmatch=True), COLOUR), min_size=2, max_size=5)


@profile
@given(st.sampled_from(list(CLASS_FILES)), NAMED, st.sampled_from(("\n", "\r\n")), mutated(st.just(b"")))
def test_class_files(folder, kind, rows, end, noise):
    rows = list({colour: (name, colour) for name, colour in dict(rows).items()}.values())
    path, content = folder / "classes.txt", end.join(CLASS_FILES[kind](rows)).encode()
    path.write_bytes(content)
    found = read_class_file(path)
    assert found.names == [name for name, _ in rows]
    assert found.palette == ([colour for _, colour in rows] if kind in ("cvat", "kaggle") else None)
    assert not found.label_map
    at = len(noise) % (len(content) + 1)
    path.write_bytes(content[:at] + noise + content[at:])
    found = read_or_refuse(read_class_file, path)
    assert found is None or all(name.strip() for name in found.names)


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


TENSORS = {
    "state_dict": {"a": torch.arange(40.0)},
    "segframe": {"config": {}, "classes": ["x"], "palette": [[1, 2, 3]]},
}


@profile
@given(
    st.binary(max_size=200)
    | mutated(st.sampled_from([saved(TENSORS), pickle.dumps([1, 2])]))
    | PLAIN.map(saved)
    | st.dictionaries(st.sampled_from(["state_dict", "segframe", "model"]), PLAIN).map(saved)
)
@example(b"")
def test_checkpoints_and_weights(folder, content):
    path, safe = folder / "x.ckpt", folder / "x.safetensors"
    for file in (path, safe):
        file.write_bytes(content)
    read_or_refuse(restore, path)
    read_or_refuse(third_party.read_weights, path)
    read_or_refuse(read_file, safe)


CONFIG = b"backbone:\n  _target_: segframe.models.backbones.ResNet\nseed: 0\ntrainer: {max_epochs: 1}\n"


@profile
@given(st.binary(max_size=100) | mutated(st.just(CONFIG)) | PLAIN.map(lambda node: json.dumps(node).encode()))
@example(b"seed: !!python/object/apply:os.system ['true']")
@example(b'"0"')
def test_configs_of_runs(folder, content):
    (folder / "config.yaml").write_bytes(content)
    read_or_refuse(check_saved_run, folder)


TABLE = b"step,loss,miou\r\n1,0.5,\r\n2,0.25,0.1\r\n"


@profile
@given(st.binary(max_size=100) | mutated(st.just(TABLE)) | mutated(st.just(TABLE + b"3,0.")))
@example(b"")
@example(b"step,loss\n1,2,3\n")
def test_metrics(folder, content):
    (folder / "metrics.csv").write_bytes(content)
    logger = read_or_refuse(CSVLogger, str(folder))
    if logger is not None:
        logger.resume(1)
        logger.log_metrics({"loss": 1.0, "new": 2.0}, step=5)
        logger.save()
        assert read_or_refuse(CSVLogger, str(folder)) is not None
