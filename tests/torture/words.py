"""Bad words on the command line, from configs/ and the schema: misspelt, of another type, out of range, unbalanced."""

import random
from collections.abc import Iterator
from typing import Any

import yaml
from case import CHECK_DATA, CLASSES, EVALUATE, PREDICT, SHAPES, TINY, Case, train, train_photos, typo
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from segframe.cli.error_messages import dotted
from segframe.config import schema as schema

PROGRAMS: dict[str, tuple[str, ...]] = {
    "train": ("train.py", "output_dir=out"),
    "evaluate": EVALUATE,
    "predict": PREDICT,
    "check_data": CHECK_DATA,
    "replay": ("scripts/replay.py", "checkpoint=run/checkpoints/last.ckpt", "output_dir=out"),
    "summary": ("scripts/summary.py", "receptive_field=false", "output_dir=out"),
    "benchmark": ("scripts/benchmark.py", "quick=true", "only=[metric_150]", "output_dir=out"),
}
OPEN = (
    "output_weights",
    "trainer.lightning",
    "data.dataset.num_images",
    "label_map",
    "rows",
    "transforms",
    "callbacks",
)
"""Below these any key may stand, or is added with a plus."""
ANYTHING = ("_target_", "_partial_", "fused", "compile", "heatmaps", "checkpoint_every", "data.root")
"""What takes values of several types, or is told of in another way."""


def groups(program: str) -> list[str]:
    """The config groups of a program that users choose from."""
    name = "train" if program == "summary" else program
    lines = yaml.safe_load((schema.CONFIG_DIR / f"{name}.yaml").read_text())["defaults"]
    return [key for line in lines if isinstance(line, dict) for key in line if (schema.CONFIG_DIR / key).is_dir()]


def composed(program: str, *words: str) -> Any:
    """A program's config as plain containers, unresolved."""
    with initialize_config_dir(str(schema.CONFIG_DIR), version_base="1.3"):
        return OmegaConf.to_container(compose(program, list(words)), resolve=False)


def trees() -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Programs with choices that bring further keys."""
    yield "train", (), composed("train")
    choices = (
        ("data=folder", CLASSES, "data.root=photos"),
        ("aux_head=fcn", "optimizer=adamw", "scheduler=cosine", "head=deeplabv3"),
        ("head=fcn8s", "backbone=vgg16", "scheduler=step", "optimizer=rmsprop", "loss=cross_entropy_dice"),
        ("model=unet", "callbacks=early_stopping", "normalize=caffe", "transforms=light", "loss=dice"),
    )
    for words in choices:
        yield "train", words, composed("train", *words)
    for words in (("inference=sliding_window",), ("inference=tta", "postprocess=dense_crf")):
        yield "predict", words, composed("predict", *words)
        # Its data are the checkpoint's, which are known once that is read.
        yield "evaluate", words, composed("predict", *words)
    yield "check_data", (), composed("check_data", *CHECK_DATA[1:4])
    yield "replay", (), composed("replay")
    yield "summary", (), composed("summary")
    yield "benchmark", (), composed("benchmark")


def options(rng: random.Random) -> Iterator[Case]:
    """Options and groups that are misspelt."""
    for program, words in PROGRAMS.items():
        for group in groups(program):
            known = {path.stem for path in (schema.CONFIG_DIR / group).glob("*.yaml")} | {"checkpoint", "null"}
            for option in schema.options(group):
                wrong = typo(option, rng, known)
                yield Case(f"{program}: {group}={wrong}", (*words, f"{group}={wrong}"), wrong)
            wrong = typo(group, rng, {*groups(program), *composed("train")})
            yield Case(f"{program}: {wrong}=...", (*words, f"{wrong}={schema.options(group)[0]}"), wrong)


def keys(rng: random.Random) -> Iterator[Case]:
    """Keys that are misspelt: set, added, taken away."""
    for program, more, tree in trees():
        known = set(dotted(tree, ""))
        for key in sorted(known):
            parent, _, last = key.rpartition(".")
            if last.isdigit() or last.startswith("_") or key.startswith(OPEN):
                continue
            if program in ("evaluate", "predict") and not key.startswith(("inference.", "postprocess.", "al", "fe")):
                continue
            wrong = f"{parent}.{typo(last, rng, {name.rpartition('.')[2] for name in known})}".strip(".")
            sign = rng.choice(("", "", "+", "~"))
            word = f"~{wrong}" if sign == "~" else f"{sign}{wrong}=1"
            yield Case(f"{program}: {word}", (*PROGRAMS[program], *more, word), wrong.replace(".", r"\."))


def types(rng: random.Random) -> Iterator[Case]:
    """Values of another type than the default's."""
    wrong = {
        bool: ("maybe", "[true]", "{a: 1}"),
        int: ("abc", "[1]", "{a: 1}"),
        float: ("abc", "[1.5]", "{a: 1}"),
        list: ("abc", "{a: 1}"),
    }
    for program, more, tree in trees():
        for key in sorted(set(dotted(tree, ""))):
            value = select(tree, key)
            if type(value) not in wrong or key.startswith(OPEN) or key.endswith(ANYTHING) or key[-1].isdigit():
                continue
            if program in ("evaluate", "predict") and key.startswith("data"):
                continue
            if (program, key) == ("check_data", "data.crop_size"):
                continue  # which takes several types, and is not used
            for bad in wrong[type(value)]:
                # What the sentence names: the key, or its last word where the part itself complains.
                named = key.rpartition(".")[2].replace("_", "[_ ]")
                yield Case(f"{program}: {key}={bad}", (*PROGRAMS[program], *more, f"{key}={bad}"), named)


def select(tree: Any, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree


def brackets(rng: random.Random) -> Iterator[Case]:
    """Values that open what they do not close, or name what is not there."""
    known = [key for key in dotted(composed("train"), "") if not key.split(".")[-1].isdigit() and "_target_" not in key]
    paths = ("output_dir", "resume", "init_from", "data.root")
    for key in sorted(set(known) - set(paths)):
        bad = rng.choice(("[1,2", "{a: 1", "a]b", "(1", "'abc", "[[1]", "{a: [1}", '"abc', "[1,2}", "a: {"))
        yield Case(f"train: {key}={bad}", (*PROGRAMS["train"], f"{key}={bad}"), key.replace(".", r"\."))
        unknown = rng.choice(("${nowhere}", "${oc.nowhere:x}", "${a.b", "${optimizer.nowhere}"))
        yield Case(
            f"train: {key}={unknown}",
            (*PROGRAMS["train"], f"{key}={unknown}"),
            rf"nowhere|{key}|\$\{{a".replace(".", r"\."),
        )


RANGES: dict[str, tuple[object, ...]] = {
    "seed": (-1, -(2**40), 2**70),
    "data.batch_size": (0, -1, -(10**9)),
    "data.num_workers": (-1, -100),
    "data.crop_size": (0, -5, 4, "[0,32]", "[32]", "[32,32,32]", 1.5, "[-1,5]"),
    "data.dataset.size": (0, 31, -32),
    "data.dataset.num_images.train": (0, -1),
    "data.train_split": ("nosuch",),
    "data.val_split": ("nosuch",),
    "data.cache": ("tape", "disk", "ram"),
    "trainer.max_steps": (0, -1),
    "trainer.max_epochs": (0, -3),
    "trainer.val_every_n_steps": (0, -1),
    "trainer.val_every_n_epochs": (0, -1, -0.5),
    "trainer.accumulate_grad_batches": (0, -1),
    "trainer.checkpoint_every": (0, -1, "5h", "soon", 0.5, "nanmin"),
    "trainer.precision": ("17", "64-bit", "bf17-mixed"),
    "trainer.accelerator": ("gpuu", "abacus"),
    "trainer.gradient_clip_val": ("-1",),
    "optimizer.lr": (-1, "-inf", "nan", "null"),
    "optimizer.momentum": (-1,),
    "optimizer.weight_decay": (-1,),
    "normalize.mean": ("[1]", "[1,2,3,4]", "[]"),
    "normalize.std": ("[0,0,0]", "[1,2]", "[-1,1,1]"),
    "transforms.scale": ("[2.0,0.5]", "[0,1]", "[1]", "[-1,1]"),
    "transforms.scale_step": (0, -1),
    "transforms.train.1.p": (2, -0.5),
    "transforms.train": ("[{_target_: albumentations.RandomCrop, height: 64, width: 64}]",),
    "loss.class_weights": ("[1,2]", "[]"),
    "loss.label_smoothing": (2, -1),
    "loss.reduction": ("median",),
    "monitor": ("val/mIoU", "val", "train/loss"),
    "monitor_mode": ("maximum", "up"),
    "scheduler.power": ("null",),
    "scheduler.warmup_steps": (-1,),
    "batch_norm.frozen": ("some",),
    "batch_norm.backbone_momentum": (-1, 2),
    "backbone.channels": ("[4,4]", "[]", "[0,4,8,8,8]", "[-4,4,8,8,8]"),
    "backbone.dropout": (2, -1),
    "head.channels": ("[4]", "[0,8,4,4]"),
    "head.upsampling": ("cubic",),
    "init_from": ("nowhere", "photos", "run/config.yaml", "run/metrics.csv"),
    "resume": ("nowhere", "photos", "run/config.yaml"),
    "input_scales": ("[0]", "[-1]", "[0.5,abc]"),
    "output_weights.main": ("abc", "null"),
    "+trainer.lightning.limit_val_batches": ("-1",),
    "+trainer.lightning.max_epochs": (3,),
    "+trainer.lightning.devices": (0,),
    "+callbacks.mine": (1, "abc", "{a: 1}", "{_target_: os.getcwd}", "{_target_: nowhere.Callback}"),
    "+logger.mine": (1, "{_target_: os.getcwd}"),
    "output_dir": ("run", "photos/images/val/v0.png", "photos/list.txt/x"),
}
RESNET = ("train.py", "backbone=resnet18", "head=fcn", *SHAPES, *TINY)
OTHERS = (
    *((RESNET, f"backbone.weights={value}") for value in ("nowhere.pth", "photos", "run/config.yaml", "IMAGENET1K_V9")),
    *((RESNET, f"backbone.{word}") for word in ("variant=resnet999", "output_stride=7", "multi_grid=[1]")),
    *((RESNET, f"head.{word}") for word in ("output_stride=7", "output_stride=0", "reads=c9", "reads=[]", "dropout=2")),
    *((EVALUATE, word) for word in ("split=nosuch", "split=5", "precision=7", "accelerator=tpu", "output_stride=3")),
    *((EVALUATE, word) for word in ("data.num_workers=-1", "data=camvid", "data=voc", "checkpoint=nowhere")),
    *((EVALUATE, f"inference=sliding_window inference.{word}") for word in ("window=0", "window=[1,2,3]", "stride=-1")),
    *(
        (EVALUATE, f"inference=sliding_window inference.{word}")
        for word in ("mode=slow", "batch_size=0", "stride=9999")
    ),
    *((EVALUATE, f"inference=tta inference.{word}") for word in ("scales=[]", "scales=[0]", "scales=[-1]", "mode=x")),
    *((EVALUATE, f"inference=shift_and_stitch inference.{word}") for word in ("factor=0", "factor=-2", "factor=3")),
    *((EVALUATE, f"postprocess=dense_crf postprocess.{word}") for word in ("iterations=-1", "bi_w=-4", "pos_xy_std=0")),
    *(
        (PREDICT, word)
        for word in ("alpha=2", "alpha=-1", "feature_channels=0", "heatmaps=[dragon]", "heatmaps=dragon")
    ),
    *((PREDICT, word) for word in ("input=nowhere", "input=run/checkpoints", "output=run/config.yaml", "precision=x")),
    *((PROGRAMS["summary"], word) for word in ("size=0", "size=[1,2,3]", "size=-5", "num_classes=0", "num_classes=-1")),
    *(
        (PROGRAMS["summary"], word)
        for word in ("receptive_field=true effective_field.size=3", "receptive_field=true init_from=nowhere")
    ),
    *(
        (CHECK_DATA, word)
        for word in ("splits=[nosuch]", "splits=[]", "splits=train", "json=photos/images", "data=null")
    ),
    *((CHECK_DATA, word) for word in ("json=photos/list.txt/x.json", "data.num_workers=-1", "+model=unet", "data=5")),
    *((PROGRAMS["benchmark"], word) for word in ("only=[nothing]", "threads=0", "accelerator=tpu", "camvid=nowhere")),
)


def ranges(rng: random.Random) -> Iterator[Case]:
    """Numbers, names and paths of the right type that cannot be."""
    for key, values in RANGES.items():
        last = key.lstrip("+").split(".")[-1]
        for value in values:
            named = rf"(?i){last}|{last.split('_')[-1]}|{key.split('.')[0].lstrip('+')}"
            if (isinstance(value, str) and value.isidentifier()) or "/" in str(value):
                named += f"|{value}"
            yield Case(f"train: {key}={value}", train(f"{key}={value}"), named)
    for words, more in OTHERS:
        key, _, value = more.split()[-1].partition("=")
        first, *_, last = [*key.lstrip("+").split(".")] * 2
        named = rf"(?i){last}|{first}|{value.strip('[]') or last}"
        yield Case(f"{words[0]}: {more}", (*words, *more.split()), named)
    folder = (
        *("classes=[a]", "classes=[]", "classes=[a,a]", "classes=nowhere.txt", "classes=[a,b]", "classes=photos"),
        *("palette=[[1,2,3]]", "palette=[[1,2],[3,4],[5,6]]", "palette=[[0,0,256],[1,1,1],[2,2,2]]", "palette=[1,2,3]"),
        *("images=nowhere", "masks=nowhere", "images=list.txt", "masks=list.txt", "mask_suffix=_x", "val_ratio=1.5"),
        *("val_ratio=-1", "val_ratio=0", "splits={train: nowhere.txt, val: list.txt}", "label_map={0: 9}"),
        *("label_map={0: dragon}", "label_map={-1: 0}", "label_map={70000: 0}", "label_map={x: 0}", "splits={a: b}"),
        *("splits={train: images, val: images}", "splits={train: list.txt, val: list.txt} data.dataset.val_ratio=0.5"),
    )
    for more in folder:
        key, _, value = more.partition("=")
        named = rf"{key}|{value[:8].strip('[]{}')}|list.txt|split|mask|class|photos/images"
        words = tuple(f"data.dataset.{more}".replace(" data.", "\ndata.").split("\n"))
        yield Case(f"folder: {more}", train_photos(*words), named)
