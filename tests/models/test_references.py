"""The stored reference logits: complete, small, and drawn again as the same bits."""

import zlib

import pytest
import torch
from references import FOLDER, NAMES, count_parameters, load, seeded_images, seeded_state

COUNTS = {  # name: (keys, parameters) as published or counted in the project's own code
    "deeplabv2_resnet101": (632, 44_048_532),
    "fcn16s": (36, 134_815_994),
    "fcn32s": (33, 136_152_917),
    "fcn8s": (39, 134_489_759),
    "fcn8s_atonce": (39, 134_489_759),
    "unet": (118, 31_038_933),
    "unet_bilinear": (110, 17_264_277),
    "vainf_deeplabv3_resnet101": (668, 58_630_997),
    "vainf_deeplabv3_resnet50": (362, 39_638_869),
    "vainf_deeplabv3plus_resnet101": (674, 58_753_973),
    "vainf_deeplabv3plus_resnet50": (368, 39_761_845),
}


def checksum(tensor):
    return zlib.crc32(tensor.numpy().tobytes())


def test_every_reference_is_counted():
    assert sorted(COUNTS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_is_complete(name):
    reference = load(name)
    assert (len(reference.keys), count_parameters(reference.keys)) == COUNTS[name]
    assert reference.images.shape == (1, 3, *reference.metadata["size"])
    assert {"repository", "commit", "torch", "call", "preprocessing"} <= set(reference.metadata)
    assert reference.logits
    for output, logits in reference.logits.items():
        stored = tuple(-(-side // reference.step[output]) for side in reference.metadata["outputs"][output]["size"])
        assert logits.shape == (1, 21, *stored)
        assert logits.dtype == torch.float32
        assert 0.1 < logits.abs().max() < 150
        assert logits.std((2, 3)).mean() > 0.5, "nearly the same everywhere: misplaced maps would pass"


def test_the_files_are_small():
    sizes = [path.stat().st_size for path in FOLDER.iterdir()]
    assert max(sizes) < 60_000
    assert sum(sizes) < 400_000


KEYS = {
    "conv.weight": ((8, 4, 3, 3), "float32"),
    "conv.bias": ((8,), "float32"),
    "up_conv.weight": ((8, 4, 3, 3), "float32"),
    "bn.weight": ((16,), "float32"),
    "bn.running_mean": ((16,), "float32"),
    "bn.running_var": ((16,), "float32"),
    "bn.num_batches_tracked": ((), "int64"),
}


def test_weights_are_the_same_bits_everywhere():
    state = seeded_state(KEYS, 3, {"bn.weight": 0.25})
    assert {name: checksum(tensor) for name, tensor in state.items()} == {
        "conv.weight": 4203172482,
        "conv.bias": 883373151,
        "up_conv.weight": 1503855702,
        "bn.weight": 3625766945,
        "bn.running_mean": 2054843980,
        "bn.running_var": 653234502,
        "bn.num_batches_tracked": 1696784233,
    }


def test_images_are_the_same_bits_everywhere():
    assert checksum(seeded_images((33, 47), 3)) == 1660218032
