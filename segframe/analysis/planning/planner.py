"""The planner: measures, and applies the rules in order."""

from collections.abc import Mapping
from typing import Any

from segframe.analysis.planning import crop_rules, network_rules, run_rules
from segframe.analysis.planning.decision import Decision
from segframe.analysis.planning.draft import Draft
from segframe.analysis.planning.measure_data import measure_data
from segframe.analysis.planning.measure_machine import Trial, has_imagenet_weights, measure_machine
from segframe.config import validate
from segframe.data.build import build_datasets, run_length
from segframe.data.image_batches import limited
from segframe.errors import height_width
from segframe.inference.build import build_inference
from segframe.inference.network import logit_stride

PROBE_SIDE = {False: 192, True: 384}
PROBE_BATCH = {False: 4, True: 8}
"""Crops of the first measurement, without and with a GPU, which few pixels do not use fully."""


class Planner:
    """Measures data and machine and makes the decisions that follow; the result is in `draft` and `notes`."""

    def __init__(self, draft: Draft, seconds: float, max_images: int) -> None:
        self.draft, self.seconds = draft, seconds
        config = draft.with_settings({"data.cache": None})
        validate.check_parts(config)
        validate.check_targets(config)
        self.train, self.val = build_datasets(config)
        self.machine = measure_machine(config.trainer.accelerator, config.data.num_workers, config.data.root)
        self.data = measure_data(self.train, self.val, config.data, max_images)
        self.notes: list[str] = []

    def decide(self) -> None:
        self.decide_network()
        self.decide_crops()
        trial = self.trial()
        self.step = trial.measure_step()
        stride = logit_stride(trial.module.segmenter)
        self.decide_inference(stride)
        inference = build_inference(self.draft.config.inference, trial.config)
        self.validation = trial.measure_validation(self.val, inference)
        length = self.decide_length()
        self.notes = run_rules.find_notes(self.data, self.machine, self.step.size, stride, length)

    def trial(self, settings: Mapping[str, Any] | None = None) -> Trial:
        """Return the network of the decisions so far, ready to be measured with other settings."""
        return Trial(self.draft.with_settings({"data.cache": None, **(settings or {})}), self.train)

    def decide_network(self) -> None:
        """Decide backbone, weights, normalization, head, loss, optimizer and scheduler."""
        draft, data = self.draft, self.data
        draft.add(network_rules.choose_backbone(data, self.machine, has_imagenet_weights))
        backbone = draft.config.backbone
        if backbone.get("weights", "imagenet") in ("imagenet", None):
            draft.add(network_rules.choose_weights(data, backbone.get("variant", ""), has_imagenet_weights))
        backbone = draft.config.backbone
        draft.add(*network_rules.choose_normalization(data, backbone.get("variant", ""), backbone.get("weights")))
        self.pretrained = backbone.get("weights") is not None
        draft.add(*network_rules.choose_head(data, self.machine, self.pretrained))
        draft.add(
            network_rules.choose_loss(data, self.pretrained),
            Decision("optimizer", "adamw", "needs little tuning (Loshchilov & Hutter, 2019)"),
            Decision("scheduler", "poly", "DeepLab's, to the end of the run"),
        )

    def decide_crops(self) -> None:
        """Measure a small step in each precision; decide precision, crops, batch and what depends on them."""
        draft, data = self.draft, self.data
        sides = [min(PROBE_SIDE[self.machine.is_gpu], crop_rules.rounded(side)) for side in data.size]
        crops = "crop_size" in draft.config.transforms
        settings = {"data.crop_size": sides, "data.batch_size": PROBE_BATCH[self.machine.is_gpu] if crops else 1}
        if "weights" in draft.config.backbone:
            settings["backbone.weights"] = None
        given = "trainer.precision" in draft.given
        precisions = [draft.config.trainer.precision] if given else self.machine.precisions
        steps = [self.trial({**settings, "trainer.precision": each}).measure_step() for each in precisions]
        draft.add(network_rules.choose_precision(steps))
        step = min(steps, key=lambda each: each.seconds)
        if not crops:
            draft.add(Decision("data.batch_size", 1, "images of their own sizes, without a crop, make no batch"))
            return
        batch = draft.config.data.batch_size if "data.batch_size" in draft.given else None
        left = (1 - run_rules.VALIDATION_SHARE) * self.seconds - run_rules.START_SECONDS
        crop = crop_rules.choose_crop(data, self.machine, step, max(left, 1), batch)
        draft.add(
            Decision("data.crop_size", list(crop.size), crop.reason),
            Decision("data.batch_size", crop.batch, crop.batch_reason),
        )
        if crop.accumulate > 1:
            reason = f"gradients of {crop.batch * crop.accumulate} images per step"
            draft.add(Decision("trainer.accumulate_grad_batches", crop.accumulate, reason))
        head, size = draft.config.head, height_width("data.crop_size", draft.config.transforms.crop_size)
        if "rates" in head:
            draft.add(crop_rules.choose_stride(head.output_stride, size))
            draft.add(crop_rules.choose_rates(head.rates, head.output_stride, size))

    def decide_inference(self, stride: int) -> None:
        """Choose the inference, unless the user has. `stride`: pixels per cell of the logits."""
        transforms = self.draft.config.transforms
        if "inference" not in self.draft.given and "crop_size" in transforms:
            is_given = self.draft.is_given("transforms.scale")
            scale = max(transforms.scale) if is_given else crop_rules.largest_scale(self.data, self.step.size)
            self.draft.add(*crop_rules.choose_inference(self.data, self.machine, self.step, stride, scale))

    def decide_length(self) -> run_rules.Length:
        """Decide loading, length, learning rate and augmentation, by the time of a step of the plan's size."""
        draft, data = self.draft, self.data
        trainer = draft.config.trainer
        accumulate = trainer.accumulate_grad_batches
        images = self.step.batch * accumulate
        loading = run_rules.choose_loading(data, self.machine, self.step, accumulate)
        draft.add(
            Decision("data.num_workers", loading.workers, loading.workers_reason),
            Decision("data.cache", loading.cache, loading.cache_reason),
        )
        number = limited(data.val_images, trainer.lightning.get("limit_val_batches"))
        validation = number * self.validation.seconds
        length = run_rules.choose_length(data, loading.seconds, images, self.step.size, validation, self.seconds)
        draft.add(
            Decision("trainer.max_steps", length.steps, length.reason),
            Decision("trainer.val_every_n_steps", length.every, length.every_reason),
        )
        steps = run_length(trainer, data.train_images, draft.config.data.batch_size).total_steps
        optimizer = draft.config.optimizer._target_.rpartition(".")[2].lower()
        draft.add(*run_rules.choose_learning_rate(optimizer, images, steps, self.pretrained))
        draft.add(*run_rules.choose_average(steps, self.pretrained))
        draft.add(*run_rules.choose_augmentation(data, self.step.size, steps * images))
        draft.add(*run_rules.choose_sampling(data, self.step.size, images))
        return length._replace(steps=steps)
