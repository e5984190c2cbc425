"""The rules of plans on synthetic facts."""

from functools import partial

import pytest

from segframe.analysis.planning import crop_rules, network_rules, run_rules
from segframe.analysis.planning.facts import ClassFacts, DataFacts, MachineFacts, StepFacts
from segframe.errors import UserError

GB = 10**9


def a_class(name="road", share=0.5, width=30.0, in_window=(1.0, 1.0, 0.8, 0.5, 0.3)):
    return ClassFacts(name, share, 1.0, width, in_window)


CLASSES = (a_class("road", 0.6), a_class("sky", 0.3), a_class("pole", 0.1, 6.0, (1.0, 0.5, 0.2, 0.1, 0.0)))
DATA = DataFacts(
    train_images=400,
    val_images=100,
    examined=400,
    classes=CLASSES,
    void=0.0,
    size=(360, 480),
    smallest=(360, 480),
    largest=(360, 480),
    val_size=(360, 480),
    val_largest=(360, 480),
    channels=3,
    max_value=255,
    mean=(100.0, 100.0, 100.0),
    std=(50.0, 50.0, 50.0),
    decoded_bytes=GB // 3,
    has_files=True,
    weights="imagenet",
)
CPU = MachineFacts("2 cores", False, 2, 2, 16 * GB, 16 * GB, 100 * GB, 0.0, ("bf16-mixed", "32-true"))
GPU = CPU._replace(device="a GPU", is_gpu=True, device_bytes=80 * GB, cores=16, loader_processes=8)
STEP = StepFacts((192, 192), 4, "bf16-mixed", 0.4, GB // 4, 0.01, 0.008)
HOUR = 3600.0
WHOLE = (360, 480)


def value_of(decisions, key):
    return {decision.key: decision.value for decision in decisions}.get(key)


def small(classes):
    return DATA._replace(classes=tuple(classes))


def everything(variant):
    return True


def nothing(variant):
    return False


def test_backbones_are_those_whose_weights_are_at_hand():
    assert network_rules.choose_backbone(DATA, CPU, everything).value == "efficientnet_lite0"
    assert network_rules.choose_backbone(DATA, GPU, everything).value == "resnet50"
    assert network_rules.choose_backbone(DATA, GPU, lambda variant: "lite" in variant).value == "efficientnet_lite0"
    assert network_rules.choose_backbone(DATA, CPU, nothing).value == "resnet18"
    assert network_rules.choose_backbone(DATA._replace(weights=None), CPU, everything).value == "resnet18"


def test_weights_and_what_they_were_trained_with():
    choose, normalize = network_rules.choose_weights, network_rules.choose_normalization
    assert choose(DATA, "resnet50", everything).value == "imagenet"
    assert choose(DATA, "resnet50", nothing).value is None
    assert choose(DATA._replace(weights=None), "resnet50", everything).value is None
    assert value_of(normalize(DATA, "tf_efficientnet_lite0", "imagenet"), "normalize") == "efficientnet_lite"
    assert value_of(normalize(DATA, "tf_efficientnet_lite0", None), "normalize") == "imagenet"
    bands = DATA._replace(channels=4, mean=(1.0, 2.0, 3.0, 4.0), std=(1.0, 1.0, 1.0, 1.0))
    assert value_of(normalize(bands, "resnet18", None), "normalize.mean") == [1.0, 2.0, 3.0, 4.0]
    assert value_of(normalize(DATA, "resnet18", None), "normalize.mean") is None


def test_narrow_objects_get_a_head_of_full_detail():
    def choose(data):
        return value_of(network_rules.choose_head(data, CPU, pretrained=False), "head")

    assert choose(DATA) == "deeplabv3plus"
    assert choose(small([a_class("ground", 0.97), a_class("crack", 0.03, 2.5)])) == "unet"
    assert choose(small([*CLASSES[:2], a_class("pole", 0.1, 2.0)])) == "deeplabv3plus"
    assert choose(small([a_class("only", 1.0)])) == "deeplabv3plus"


def test_what_imagenet_weights_change():
    heads = [network_rules.choose_head(DATA, machine, pretrained=True) for machine in (CPU, GPU)]
    assert [value_of(head, "head") for head in heads] == ["upernet", "upernet"]
    assert [value_of(head, "head.channels") for head in heads] == [128, None]
    assert network_rules.choose_loss(DATA, pretrained=True).value == "sum"
    rates = run_rules.choose_learning_rate("adamw", 8, 2000, pretrained=True)
    assert (value_of(rates, "optimizer.lr"), value_of(rates, "backbone.lr_multiplier")) == (0.002, 0.5)
    average = run_rules.choose_average(2000, pretrained=True)
    assert value_of(average, "callbacks") == "ema"
    assert value_of(average, "callbacks.average.decay") == 0.995
    assert value_of(average, "callbacks.average.update_starting_at_step") == 200
    assert run_rules.choose_average(200, pretrained=True) == []
    assert run_rules.choose_average(2000, pretrained=False) == []


def test_a_rare_foreground_adds_dice():
    for pretrained in (False, True):
        choose = partial(network_rules.choose_loss, pretrained=pretrained)
        assert choose(small([a_class("no", 0.99), a_class("yes", 0.01)])).value == "cross_entropy_dice"
        assert choose(small([a_class("no", 0.7), a_class("yes", 0.3)])).value == "cross_entropy"
        assert choose(small([a_class("no", 1.0), a_class("yes", 0.0, 0.0)])).value == "cross_entropy"
    assert network_rules.choose_loss(DATA, pretrained=False).value == "cross_entropy"


def test_the_faster_precision():
    slow = STEP._replace(precision="32-true", seconds=0.5)
    found = network_rules.choose_precision([STEP, slow])
    assert found.value == "bf16-mixed"
    assert "bf16-mixed 0.4 s, 32-true 0.5 s" in found.reason
    assert network_rules.choose_precision([STEP, slow._replace(seconds=0.1)]).value == "32-true"


def test_crops_grow_with_the_budget_up_to_the_median_image():
    sizes = [crop_rules.choose_crop(DATA, CPU, STEP, seconds, None).size for seconds in (60, HOUR, 2 * HOUR, 9 * HOUR)]
    assert sizes == sorted(sizes)
    assert sizes[0] == (192, 256)
    assert sizes[-1] == (352, 480)
    large = DATA._replace(size=(4000, 6000))
    crop = crop_rules.choose_crop(large, GPU, STEP._replace(seconds=0.001), 90 * HOUR, None)
    assert 0.8 * crop_rules.LARGEST_AREA < crop.size[0] * crop.size[1] < 1.2 * crop_rules.LARGEST_AREA
    assert "usual" in crop.reason
    tiny = crop_rules.choose_crop(DATA._replace(size=(50, 70)), CPU, STEP, 60, None)
    assert tiny.size == (64, 64)


def test_memory_shrinks_crops_first_and_then_the_batch():
    full = crop_rules.choose_crop(DATA, GPU, STEP, 90 * HOUR, None)
    assert (full.size, full.batch, full.accumulate) == ((352, 480), 16, 1)
    less = crop_rules.choose_crop(DATA, GPU._replace(device_bytes=4 * GB), STEP, 90 * HOUR, None)
    assert less.batch == 16
    assert less.size < full.size
    assert "memory" in less.reason
    little = crop_rules.choose_crop(DATA, GPU._replace(device_bytes=GB // 2), STEP, 90 * HOUR, None)
    assert little.size == (192, 256)
    assert little.batch < 8 <= little.batch * little.accumulate
    for crop, memory in ((full, 80 * GB), (less, 4 * GB), (little, GB // 2)):
        assert STEP.peak_bytes / STEP.pixels * crop.batch * crop.size[0] * crop.size[1] < memory
    unknown = crop_rules.choose_crop(DATA, CPU, STEP._replace(peak_bytes=None), 90 * HOUR, None)
    assert unknown.size == (352, 480)


def test_the_batch():
    assert crop_rules.choose_crop(DATA, CPU, STEP, HOUR, None).batch == 8
    assert crop_rules.choose_crop(DATA, GPU, STEP, HOUR, None).batch == 16
    few, many = (crop_rules.choose_crop(DATA, CPU, STEP, HOUR, batch) for batch in (2, 32))
    assert (few.batch, many.batch) == (2, 32)
    assert few.size > many.size


def test_rates_that_crops_can_train():
    # The recipe of configs/experiment/camvid_scratch.yaml, and DeepLab v3's own crops.
    assert crop_rules.choose_rates(None, 16, (192, 256)).value == [2, 4, 6]
    assert crop_rules.choose_rates(None, 16, (528, 528)).value is None
    assert crop_rules.choose_rates(None, 8, (264, 264)).value == [6, 12, 18]
    assert crop_rules.choose_rates([6, 12, 18, 24], 8, (96, 96)).value == [1, 3, 4, 6]
    assert crop_rules.choose_rates(None, 16, (32, 32)).value == [1]


def test_the_output_stride_leaves_cells():
    assert crop_rules.choose_stride(16, (192, 256)).value == 16
    assert crop_rules.choose_stride(16, (64, 64)).value == 8
    assert crop_rules.choose_stride(8, (32, 32)).value == 8


def inference_of(data=DATA, machine=CPU, crop=(192, 256), stride=4):
    step = STEP._replace(size=crop)
    step = step._replace(peak_bytes=STEP.peak_bytes * step.pixels // STEP.pixels)
    return crop_rules.choose_inference(data, machine, step, stride, crop_rules.largest_scale(data, crop))


def test_sliding_windows_for_images_far_larger_than_crops():
    assert value_of(inference_of(), "inference") == "whole"
    large = DATA._replace(val_largest=(4000, 6000))
    assert value_of(inference_of(large, GPU, (512, 768)), "inference") == "sliding_window"
    wide = DATA._replace(val_largest=(2000, 3000))
    assert value_of(inference_of(wide, GPU, (1024, 1024)), "inference") == "whole"
    assert value_of(inference_of(wide, GPU._replace(device_bytes=GB), (1024, 1024)), "inference") == "sliding_window"


def test_enlarged_images_for_objects_narrower_than_the_logits():
    narrow, crop = small([*CLASSES[:2], a_class("pole", 0.1, 2.3)]), (320, 448)
    found = inference_of(narrow, crop=crop)
    assert [value_of(found, f"inference{key}") for key in ("", ".scales", ".flip")] == ["tta", [1.3333], False]
    assert "pole (2.3 px)" in found[0].reason
    assert value_of(inference_of(crop=crop), "inference") == "whole"  # 6 px in cells of 4
    assert value_of(inference_of(crop=crop, stride=8), "inference") == "tta"
    # Crops of half an image are enlarged by a quarter at most in training.
    assert value_of(inference_of(narrow, crop=(192, 256)), "inference") == "whole"
    assert value_of(inference_of(narrow, crop=(256, 320)), "inference") == "tta"  # by exactly a third
    fits = STEP.peak_bytes / STEP.pixels * 360 * 480 / 2 / crop_rules.MEMORY_SHARE
    for memory, expected in ((1.1 * fits, "whole"), (1.9 * fits, "tta")):
        assert value_of(inference_of(narrow, CPU._replace(device_bytes=memory), crop), "inference") == expected


def test_loading():
    found = run_rules.choose_loading(DATA, CPU, STEP, 1)
    assert (found.cache, found.workers) == ("ram", 1)
    assert found.seconds == pytest.approx(0.4 + 4 * 0.002 / 2)  # without reading, on two cores
    assert run_rules.choose_loading(DATA, CPU, STEP, 2).seconds == pytest.approx(2 * found.seconds)
    large = DATA._replace(decoded_bytes=40 * GB)
    assert run_rules.choose_loading(large, CPU, STEP, 1).cache is None
    slow = STEP._replace(sample_seconds=0.5, read_seconds=0.4)
    late = run_rules.choose_loading(large, CPU, slow, 1)
    assert (late.cache, late.workers) == ("disk", 2)
    assert run_rules.choose_loading(large, CPU._replace(disk_bytes=GB), slow, 1).cache is None
    assert run_rules.choose_loading(DATA._replace(has_files=False), CPU, STEP, 1).cache is None
    waiting = run_rules.choose_loading(large._replace(decoded_bytes=400 * GB), GPU, slow, 1)
    assert waiting.workers == 7
    assert waiting.seconds == pytest.approx(0.4)


def test_the_length_fits_into_the_budget():
    choose_length = run_rules.choose_length
    length = choose_length(DATA, 0.5, 8, WHOLE, 36.0, HOUR)
    assert length.steps % length.every == 0
    assert length.steps // length.every == 10  # a tenth of the hour
    used = run_rules.START_SECONDS + length.steps * 0.5 + 10 * 36
    assert 0.98 * HOUR < used <= HOUR
    assert choose_length(DATA, 0.5, 8, WHOLE, 900.0, HOUR).every_reason == "1 validation of 900 s"
    quick = choose_length(DATA, 0.001, 8, WHOLE, 1.0, 10 * HOUR)
    assert 0.99 * 50_000 <= quick.steps <= 50_000  # 1000 passes
    assert quick.steps // quick.every == run_rules.MOST_VALIDATIONS
    assert choose_length(DATA._replace(train_images=20), 0.001, 8, WHOLE, 1.0, HOUR).steps == 5000
    with pytest.raises(UserError, match=r"type budget=\d+m, or validate fewer images: .*=10$"):
        choose_length(DATA, 0.5, 8, WHOLE, 900.0, 600)
    with pytest.raises(UserError, match=r"validation 0.2 s, so hardly a step fits; type budget=2m$"):
        choose_length(DATA._replace(val_images=8), 0.5, 8, WHOLE, 0.2, 25)


def test_learning_rates_follow_the_batch():
    choose = partial(run_rules.choose_learning_rate, pretrained=False)
    assert [value_of(choose("adamw", images, 2000), "optimizer.lr") for images in (2, 8, 32)] == [0.0005, 0.001, 0.002]
    assert [value_of(choose("sgd", images, 2000), "optimizer.lr") for images in (8, 16)] == [0.005, 0.01]
    assert value_of(choose("rmsprop", 8, 2000), "optimizer.lr") is None
    warmups = [value_of(choose("sgd", 8, steps), "scheduler.warmup_steps") for steps in (10, 2000, 90_000)]
    assert warmups == [1, 100, 1500]


def test_passes_count_pixels():
    assert run_rules.count_passes(DATA, (180, 240), 8 * 400) == 2
    assert run_rules.count_passes(DATA, (512, 512), 8 * 400) == 8  # crops larger than the images


def test_augmentation_grows_with_the_passes():
    few, many = (run_rules.choose_augmentation(DATA, (192, 256), crops) for crops in (20_000, 40_000))
    assert (value_of(few, "transforms"), value_of(few, "transforms.scale")) == ("light", [0.5, 1.25])
    assert (value_of(many, "transforms"), value_of(many, "transforms.scale")) == ("standard", [0.5, 1.25])
    few, many = (run_rules.choose_augmentation(DATA, (352, 480), crops) for crops in (2000, 20_000))
    assert [value_of(each, "transforms.scale") for each in (few, many)] == [[0.75, 1.5], [0.5, 1.96]]


def test_crops_around_rare_classes():
    rare = small([*CLASSES, a_class("sign", 0.001, 9.0, (0.1, 0.05, 0.02, 0.01, 0.0))])
    key = "transforms.rare_class_probability"
    assert value_of(run_rules.choose_sampling(rare, (192, 256), 8), key) == 0.33
    assert value_of(run_rules.choose_sampling(rare, (192, 256), 64), key) == 0.0
    assert value_of(run_rules.choose_sampling(rare, (352, 480), 8), key) == 0.0  # crops hold whole images
    assert value_of(run_rules.choose_sampling(DATA, (192, 256), 8), key) == 0.0
    assert value_of(run_rules.choose_sampling(DATA, (192, 256), 8), "transforms.max_class_share") == 0.75
    assert value_of(run_rules.choose_sampling(DATA, (352, 480), 8), "transforms.max_class_share") is None
    two = small([a_class("no", 0.6), a_class("yes", 0.4)])
    assert value_of(run_rules.choose_sampling(two, (192, 256), 8), "transforms.max_class_share") is None


def test_a_class_in_windows_between_those_that_were_counted():
    pole = CLASSES[2]
    assert [pole.seen(share) for share in (1.0, 0.5, 0.25, 0.01)] == [1.0, 0.5, 0.2, 0.0]
    assert 0.5 < pole.seen(0.7) < 1.0


def test_notes():
    length = run_rules.Length(2000, 200, "", "")
    assert run_rules.find_notes(DATA, CPU, (192, 256), 4, length) == []
    poor = DATA._replace(
        train_images=20,
        examined=10,
        classes=(*CLASSES, a_class("bus", 0.0, 0.0), a_class("wall", 0.1, 400.0), a_class("wire", 0.01, 1.5)),
    )
    notes = " ".join(run_rules.find_notes(poor, CPU._replace(load=2.0), (192, 256), 4, length._replace(steps=50)))
    for word in ("10 of 20", "bus", "wall", "wire (1.5 px)", "50 steps", "20 training", "2.0 other processes"):
        assert word in notes
