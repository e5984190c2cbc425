"""Rules of a plan: loading, length, learning rate, augmentation and sampling. Pure functions of facts."""

from math import ceil, sqrt
from typing import NamedTuple

from segframe.analysis.planning.crop_rules import FEWEST_STEPS, largest_scale, narrower_than, share_of_image
from segframe.analysis.planning.decision import Decision
from segframe.analysis.planning.facts import DataFacts, MachineFacts, Size, StepFacts
from segframe.errors import UserError

WIDE_PASSES = 20
"""Passes over the images' pixels from which strong augmentation is chosen."""
WHOLE_IMAGE = 0.9
"""Share of an image's sides, from which crops are taken to hold the image."""
FOREGROUND_CROPS = 0.33
"""Share of the patches with foreground in nnU-Net (Isensee et al., 2021)."""
VALIDATION_SHARE, MOST_VALIDATIONS = 0.1, 20
"""Share of the budget for validations, and most of them."""
START_SECONDS = 20.0
"""Time from the command to the first training step."""
LEAST_STEPS, USEFUL_STEPS = MOST_VALIDATIONS, 100
"""Steps below which a budget is refused, and those of the budget that is then advised."""
FEWER_IMAGES = 10
"""Number of validation images that a plan recommends if one validation takes over VALIDATION_SHARE of the budget."""
MOST_PASSES, FEW_IMAGES_STEPS = 1000, 5000
"""Upper limit of a planned training: MOST_PASSES passes over all pixels, or FEW_IMAGES_STEPS steps if that is more."""
MOST_STEPS = 160_000
"""mmsegmentation's longest schedule."""
BUSY = 0.5
"""Load per core above which a note says that measured times are not those of an idle machine."""
CACHE_SHARE = 0.5
"""Fraction of the free memory that cached images may take."""


class Loading(NamedTuple):
    """Data loading of a plan, and the time of an optimizer step with it."""

    workers: int
    workers_reason: str
    cache: str | None
    cache_reason: str
    seconds: float
    """Seconds of an optimizer step including data loading."""


def choose_loading(data: DataFacts, machine: MachineFacts, step: StepFacts, accumulate: int) -> Loading:
    """Choose workers and cache and estimate a step's time with loading, which on a CPU competes for the cores."""
    sample = step.sample_seconds
    cache, reason = None, "there are no image files that can be cached"
    if data.has_files:
        gigabytes, free = data.decoded_bytes / 1e9, (machine.free_bytes or 0) / 1e9
        held = 0 if machine.is_gpu else (step.peak_bytes or 0) / 1e9
        late = step.batch * sample > machine.loader_processes * step.seconds
        if gigabytes < CACHE_SHARE * (free - held):
            cache, reason = "ram", f"decoded images: {gigabytes:.2g} GB of {free:.2g} GB that are free"
        elif late and 2 * data.decoded_bytes < machine.disk_bytes:
            cache, reason = (
                "disk",
                f"decoded images: {gigabytes:.2g} GB, more than memory; reading would delay training",
            )
        else:
            reason = f"decoded images: {gigabytes:.2g} GB, {free:.2g} GB of memory are free"
    if cache is not None:
        sample -= step.read_seconds
    workers = min(machine.loader_processes, max(1, ceil(1.25 * step.batch * sample / step.seconds)))
    if machine.is_gpu:
        batch_seconds = max(step.seconds, step.batch * sample / max(1, workers))
    else:
        batch_seconds = step.seconds + step.batch * sample / machine.cores
    why = f"a batch takes {step.batch * sample:.2g} s to load, a step {step.seconds:.2g} s"
    return Loading(workers, why, cache, reason, accumulate * batch_seconds)


class Length(NamedTuple):
    """Length of a run in optimizer steps."""

    steps: int
    every: int
    """Steps between validations."""
    reason: str
    every_reason: str


def count_passes(data: DataFacts, crop: Size, crops: float) -> float:
    """Return how often a number of crops shows each pixel of the training images, on average."""
    share = min(1.0, crop[0] * crop[1] / (data.size[0] * data.size[1]))
    return crops * share / data.train_images


def choose_length(
    data: DataFacts, step_seconds: float, images: int, crop: Size, validation: float, seconds: float
) -> Length:
    """Return the steps that fit into a budget beside their validations.

    `images`: crops of an optimizer step; `validation`: seconds of one of all images. UserError if hardly a step fits.
    """
    count = int(max(1, min(MOST_VALIDATIONS, VALIDATION_SHARE * seconds // validation)))
    left = seconds - START_SECONDS - count * validation
    fitting, reason = int(left / step_seconds), f"{left:,.0f} s at {step_seconds:.3g} s per step with loading"
    if fitting < LEAST_STEPS:
        needed = ceil((START_SECONDS + validation + USEFUL_STEPS * step_seconds) / 60)
        is_long = data.val_images > FEWER_IMAGES and validation > VALIDATION_SHARE * seconds
        fewer = f", or validate fewer images: +trainer.lightning.limit_val_batches={FEWER_IMAGES}"
        raise UserError(
            f"budget: a step takes {step_seconds:.2g} s and one validation {validation:.3g} s, so hardly a step fits; "
            f"type budget={needed}m{fewer * is_long}"
        )
    longest = min(MOST_STEPS, max(FEW_IMAGES_STEPS, int(MOST_PASSES / count_passes(data, crop, images))))
    if fitting > longest:
        passes = count_passes(data, crop, longest * images)
        fitting, reason = longest, f"{passes:,.0f} passes over the images; the budget allows more"
    every = fitting // count
    return Length(every * count, every, reason, f"{count} validation{'s' * (count > 1)} of {validation:.3g} s")


def choose_learning_rate(optimizer: str, images: int, steps: int, pretrained: bool) -> list[Decision]:
    """Choose learning rate and warm-up for Adam, AdamW and SGD. `images`: number of images per optimizer step."""
    decisions = []
    if optimizer in ("adamw", "adam") and pretrained:
        lr = round_to_two(2e-3 * sqrt(images / 8))
        decisions += [
            Decision("optimizer.lr", lr, "0.002 at 8 images per step, by the root of the batch"),
            Decision("backbone.lr_multiplier", 0.5, "its weights are not random"),
        ]
    elif optimizer in ("adamw", "adam"):
        lr = round_to_two(1e-3 * sqrt(images / 8))
        decisions.append(Decision("optimizer.lr", lr, "0.001 at 8 images per step, by the root of the batch"))
    elif optimizer == "sgd":
        lr = round_to_two(0.01 * images / 16)
        reason = "0.01 at 16 images per step, linear in the batch (Goyal et al., 2017)"
        decisions.append(Decision("optimizer.lr", lr, reason))
    warmup = min(1500, max(1, steps // 20))
    return [*decisions, Decision("scheduler.warmup_steps", warmup, "a twentieth of the steps, 1500 at most")]


def choose_average(steps: int, pretrained: bool) -> list[Decision]:
    """Return settings of an exponential moving average of the weights over a tenth of the steps, or none."""
    if not pretrained or steps < FEWEST_STEPS:
        return []
    decay = 1 - round_to_two(10 / steps)
    return [
        Decision("callbacks", "ema", "validates and saves an average of the weights"),
        Decision("callbacks.average.decay", decay, f"mostly the last {1 / (1 - decay):,.0f} of {steps:,} steps"),
        Decision("callbacks.average.update_starting_at_step", steps // 10, "a tenth of the steps"),
    ]


def round_to_two(value: float) -> float:
    return float(f"{value:.2g}")


def choose_augmentation(data: DataFacts, crop: Size, crops: float) -> list[Decision]:
    """Choose the option of transforms and the range of scales; `crops`: number of crops in the whole training."""
    passes = count_passes(data, crop, crops)
    number = f"{passes:,.0f}" if passes >= 10 else f"{passes:.2g}"
    ratio = share_of_image(data, crop)
    smallest, largest = 0.5, round(largest_scale(data, crop), 2)
    option, reason = "standard", f"{number} passes over the images: scale, flip and colour"
    if passes < WIDE_PASSES:
        option, reason = "light", f"{number} passes over the images: too few to learn from colour jitter"
        smallest, largest = 0.75 if ratio >= WHOLE_IMAGE else 0.5, min(1.5, largest)
    share = f"crops are {ratio:.2f} of an image's side, {number} passes; DeepLab's range is 0.5 to 2"
    return [Decision("transforms", option, reason), Decision("transforms.scale", [smallest, largest], share)]


def choose_sampling(data: DataFacts, crop: Size, images: int) -> list[Decision]:
    """Return rare_class_probability and max_class_share of the crops. `images`: of an optimizer step."""
    share = min(1.0, share_of_image(data, crop))
    rare = min(data.present, key=lambda each: each.seen(share), default=None)
    seen = rare.seen(share) * images if rare is not None else 0
    probability, reason = 0.0, "crops hold whole images"
    if rare is not None and share < WHOLE_IMAGE:
        reason = f"{rare.name}, the rarest class, is in {seen:.1f} crops of a step"
        if 0 < seen < 1:
            probability, reason = (
                FOREGROUND_CROPS,
                f"{rare.name}, the rarest class, is in a crop every {1 / seen:.1f} steps (nnU-Net's share)",
            )
    decisions = [Decision("transforms.rare_class_probability", probability, reason)]
    largest = data.largest_class
    if len(data.classes) > 2 and share < 0.75 and 0.5 < largest.share < 0.75:
        reason = f"{largest.name} has {largest.share:.0%} of the pixels (mmsegmentation's cat_max_ratio)"
        decisions.append(Decision("transforms.max_class_share", 0.75, reason))
    return decisions


def find_notes(data: DataFacts, machine: MachineFacts, crop: Size, stride: int, length: Length) -> list[str]:
    """Return warnings: other load on the machine, unread images, absent classes, narrow or large objects, few steps."""
    notes = []
    if machine.load > BUSY:
        notes.append(
            f"{machine.load:.1f} other processes per core: a training beside them takes longer than the budget"
        )
    if data.examined < data.train_images:
        notes.append(f"{data.examined:,} of {data.train_images:,} training images were read, at even distances")
    if absent := [each.name for each in data.classes if each.share == 0]:
        notes.append(f"no training mask that was read shows {', '.join(absent[:5])}")
    if narrow := narrower_than(data, stride):
        notes.append(f"objects narrower than the logits' stride of {stride} px: {narrow}")
    wide = [each.name for each in data.present if each.width > max(crop)]
    if wide:
        notes.append(
            f"objects larger than the crops: {', '.join(wide[:5])}; smaller images would show more around them"
        )
    if length.steps < FEWEST_STEPS:
        notes.append(f"{length.steps} steps are few; a longer budget gives more")
    if data.train_images < 50:
        notes.append(f"{data.train_images} training images: validation figures vary by the choice of images")
    return notes
