"""Networks of a run's config."""

import logging

from omegaconf import DictConfig, OmegaConf

from segframe.config.instantiate import instantiate
from segframe.config.schema import NormalizeConfig
from segframe.errors import UserError, error_context
from segframe.models.heads.base import Head
from segframe.models.segmenter import Normalize, Segmenter
from segframe.models.weights import checkpoint
from segframe.models.weights.third_party import load_what_fits, read_weights

log = logging.getLogger(__name__)


def build_segmenter(config: DictConfig, num_classes: int) -> Segmenter:
    """The network of a run's config, with the first weights that it names."""
    backbone = instantiate(config.backbone, "backbone")

    def build_head(name: str) -> Head:
        make_head = instantiate(config[name], name)
        with error_context(name, RuntimeError, ArithmeticError):
            return make_head(features=backbone.features, num_classes=num_classes)

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
    for name in ("backbone_momentum", "head_momentum"):
        if not 0 <= settings[name] <= 1:
            raise UserError(f"batch_norm.{name} is a share between 0 and 1, got {settings[name]}")
    for layer in segmenter.norm_layers():
        layer.momentum = settings.backbone_momentum if layer in in_backbone else settings.head_momentum
    return segmenter


def build_normalize(config: NormalizeConfig) -> Normalize:
    """The first layer of a network."""
    return Normalize(list(config.mean), list(config.std), config.bgr)


def initialize_from(segmenter: Segmenter, config: DictConfig, classes: tuple[str, ...]) -> None:
    """Starts from other weights, where names and shapes agree, and tells which tensors were left out.

    Images are normalised as the weights expect them from here on, in `config` too.
    """
    path = config.init_from
    source = checkpoint.find_checkpoint(path)
    weights = read_weights(source)
    log.info("init_from=%s: %s", source, weights.origin)
    if weights.normalize != config.normalize:
        config.normalize.merge_with(weights.normalize)
        log.info("  images are normalised as these weights expect: %s", OmegaConf.to_container(config.normalize))
        segmenter.normalize = build_normalize(config.normalize)
    for key, value in weights.expects.items():
        here = OmegaConf.select(config, key)
        if here != value:
            log.warning("  these weights were trained with %s=%s, here it is %s", key, value, here)
    other = segmenter.score_layers if weights.classes not in (None, classes) else ()
    left_out, untouched = load_what_fits(segmenter, weights.state, other)
    if weights.classes is None:
        log.info("  its classes are not told in the file: scores are taken where there are as many")
    if all(name in untouched for name in segmenter.state_dict() if name.startswith("backbone.")):
        raise UserError(f"init_from={path}: no tensor of its backbone fits this backbone; choose the same one")
    log.info("  %d tensors taken", len(weights.state) - len(left_out))
    for line in left_out:
        log.info("  left out: %s", line)
    for line in untouched:
        log.info("  starts anew: %s", line)
