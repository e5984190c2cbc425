"""What inference asks of a network: the stride of its logits."""

import pytest
import torch
from conftest import composed

from segframe.inference.network import logit_stride
from segframe.models.build import build_segmenter


@pytest.mark.parametrize(
    ("words", "stride"), [(["model=fcn8s"], 1), (["model=deeplabv1"], 8), (["model=deeplabv3plus"], 4)]
)
def test_logit_stride(words, stride):
    with torch.device("meta"):
        assert logit_stride(build_segmenter(composed(*words), 2)) == stride
