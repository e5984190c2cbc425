"""Build the network of a config and load its initial weights."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from segframe.config.instantiate import instantiate
from segframe.config.run_schema import NormalizeConfig
from segframe.config.schema import SummaryConfig
from segframe.config.validate import check_keys, check_targets, find_source
from segframe.errors import UserError, error_context
from segframe.models.backbones.base import Backbone
from segframe.models.check_parts import check_attributes
from segframe.models.heads.base import Head
from segframe.models.segmenter import Normalize, Segmenter
from segframe.models.weights.pretrained import COUNTERS, LEFTOVERS, difference
from segframe.models.weights.third_party import Weights, load_what_fits, read_weights

log = logging.getLogger(__name__)


def build_segmenter(config: DictConfig, num_classes: int) -> Segmenter:
    """Return the network of a config, with the pretrained backbone weights that it names."""
    backbone = build_backbone(config)

    def build_head(name: str) -> Head:
        make_head = instantiate(config[name], name)
        with error_context(name, RuntimeError, ArithmeticError):
            head: Head = make_head(features=backbone.features, num_classes=num_classes)
        check_attributes(name, head, "lr_multiplier")
        return head

    channels, mean, std = config.data.channels, config.normalize.mean, config.normalize.std
    if not len(mean) == len(std) == channels:
        raise UserError(
            f"data.channels={channels}: normalize.mean={list(mean)} and normalize.std={list(std)} have another number; "
            "type those that scripts/check_data.py measures and prints with the same data=..."
        )
    aux_head = build_head("aux_head") if config.aux_head else None
    segmenter = Segmenter(
        backbone,
        build_head("head"),
        aux_head,
        build_normalize(config.normalize),
        list(config.input_scales),
        config.batch_norm.frozen,
    )
    for name, tensor in segmenter.named_parameters():
        if not tensor.numel():
            raise UserError(f"{name} would be {tuple(tensor.shape)}: numbers of channels must be positive")
    in_backbone, settings = set(backbone.modules()), config.batch_norm
    for layer in segmenter.norm_layers():
        layer.momentum = settings.backbone_momentum if layer in in_backbone else settings.head_momentum
    return segmenter


def build_initialized(config: DictConfig, classes: tuple[str, ...]) -> Segmenter:
    """Return the network of a config for these classes, with the weights of `init_from` if set."""
    weights = read_weights(config.init_from) if config.init_from else None
    if weights is not None and len(weights.normalize["mean"]) == config.data.channels:
        config.normalize = weights.normalize
    segmenter = build_segmenter(config, len(classes))
    if weights is not None:
        load_initial_weights(segmenter, weights, config, classes)
    return segmenter


def build_untrained(config: DictConfig) -> Segmenter:
    """Return the network of a SummaryConfig for `num_classes` classes, in training mode, for `segframe.network`."""
    check_keys(config, SummaryConfig)
    check_targets(config, without=("data", "transforms", "callbacks", "logger"))
    segmenter = build_initialized(config, tuple(map(str, range(config.num_classes))))
    return segmenter.to(memory_format=torch.channels_last)


@contextmanager
def name_source(config: DictConfig, part: str) -> Iterator[None]:
    """Context that extends a UserError about `<part>.<key>` by the setting which that key interpolates in the YAML."""
    try:
        yield
    except UserError as error:
        for key, value in config[part].items():
            name = f"{part}.{key}"
            if re.match(rf"{re.escape(name)}\b", str(error)) and (source := find_source(config, name)) != name:
                raise UserError(f"{source}={value}: {error}") from error
        raise


def build_backbone(config: DictConfig) -> Backbone:
    """Return the backbone of a config, frozen as far as it says."""
    settings: Any = OmegaConf.to_container(config.backbone, resolve=True)
    frozen = settings.pop("frozen", False)
    with name_source(config, "backbone"):
        backbone: Backbone = instantiate(settings, "backbone")
    check_attributes("backbone", backbone, "features", "lr_multiplier")
    if frozen:
        backbone.freeze(frozen, settings.get("in_channels", 3))
    return backbone


def build_normalize(config: NormalizeConfig) -> Normalize:
    return Normalize(list(config.mean), list(config.std), config.bgr)


def load_initial_weights(segmenter: Segmenter, weights: Weights, config: DictConfig, classes: tuple[str, ...]) -> None:
    """Copy the weights of init_from, and log what is left out: score layers of other classes, heads of another kind.

    UserError where the backbone is another one, or where only some layers of a head fit.
    """
    log.info("init_from=%s: %s", config.init_from, weights.origin)
    for key, value in weights.expects.items():
        here = OmegaConf.select(config, key)
        if here != value:
            log.warning("  these weights were trained with %s=%s, here it is %s", key, value, here)
    if weights.classes is None:
        log.info("  the file does not name its classes: score layers are copied where their number agrees")
    own, state, scores = segmenter.state_dict(), weights.state, segmenter.score_layers
    for part in ("backbone", "head", "aux_head"):
        mine, theirs = (layers_of(part, tensors, scores) for tensors in (own, state))
        problem = difference(mine, theirs, LEFTOVERS if part == "backbone" else COUNTERS)
        if problem is None:
            continue
        same_kind = weights.heads.get(part) in (None, OmegaConf.select(config, f"{part}._target_"))
        fits = any(mine[name].shape == theirs[name].shape for name in mine.keys() & theirs.keys())
        if part == "backbone" or (fits and same_kind):
            raise UserError(f"init_from={config.init_from}: {problem}; choose the {part} of these weights")
        state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{part}.")}
        log.info("  %s: %s", part, f"it starts at random: {problem}" if mine else "left out, this network has none")
    other_classes = scores if weights.classes not in (None, classes) else ()
    left_out = load_what_fits(segmenter, state, other_classes)
    log.info("  %d tensors copied", len(state) - len(left_out))
    for line in left_out:
        if line.startswith(scores):
            log.info("  left out: %s", line)


def layers_of(part: str, state: dict[str, Tensor], scores: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors of a part but its score layers; what belongs to no part is counted among the backbone's."""
    others = ("head.", "aux_head.", "normalize.") if part == "backbone" else ()
    prefix = "" if part == "backbone" else f"{part}."
    return {name: t for name, t in state.items() if name.startswith(prefix) and not name.startswith((*others, *scores))}
