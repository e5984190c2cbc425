"""The stored reference logits are complete and small."""

import pytest
import torch
from references import FOLDER, NAMES, count_parameters, load

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
