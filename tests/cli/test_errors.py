"""What a user can get wrong ends in one clear sentence, a non-zero exit code and no folder with half a run."""

import errno
import io
import logging

import pytest
import torch
from conftest import TINY

from segframe.cli.main import interruptible
from segframe.errors import UserError

NORMALIZE = {"mean": [0.0] * 3, "std": [1.0] * 3}
WRONG = [
    ("optimizer.lrr=3", "optimizer.lrr is not a setting; did you mean optimizer.lr?"),
    ("lr=0.1", "lr is not a setting; did you mean optimizer.lr?"),
    ("bakbone=resnet18", "bakbone is not a setting; did you mean backbone?"),
    ("trainer.max_step=3", "trainer.max_step is not a setting; did you mean trainer.max_steps?"),
    ("transforms.crop=3", "transforms.crop is not a setting; did you mean transforms.crop_size?"),
    ("backbone=resnet999", "backbone=resnet999: there is no such option; did you mean resnet"),
    ("aux_head=null", "aux_head=null: there is no such option; there is fcn, none"),
    ("~loss=5", "loss=5: there is no such option"),
    ("model=fcn8", "model=fcn8: there is no such option; did you mean fcn8s?"),
    ("+optimzer.lr=3", "optimzer is not a setting; did you mean optimizer?"),
    ("trainer.max_epochs=abc", "trainer.max_epochs: Value 'abc' of type 'str' could not be converted to Integer"),
    ("seed=abc", "seed: Value 'abc' of type 'str' could not be converted to Integer"),
    ("data.batch_size=many", "data.batch_size: Value 'many' of type 'str' could not be converted to Integer"),
    ("data.batch_size=0", "data.batch_size must be positive, got 0"),
    ("data.num_workers=-1", "data.num_workers=-1"),
    ("optimizer.lr=abc", "optimizer.lr=abc: torch.optim.SGD expects float"),
    ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1"),
    ("optimizer.lr=[1,", "cannot read 'optimizer.lr=[1,' on the command line"),
    ("trainer.precision=17", "trainer: Precision '17' is invalid"),
    ("trainer.lightning.foo=1", "trainer.lightning.foo is not a setting yet; add it with +trainer.lightning.foo=..."),
    ("+trainer.lightning.max_stepz=1", "trainer.lightning.max_stepz: Lightning's Trainer takes no such argument"),
    ("transforms.crop_size=abc", "transforms.crop_size=abc: segframe.data.RandomScaleCrop expects int"),
    (
        "backbone.weights=nowhere.pth",
        "backbone.weights=nowhere.pth: neither a file nor weights of torchvision's resnet18",
    ),
    ("backbone.output_stride=7", "backbone.output_stride must be 4, 8, 16 or 32, got 7"),
    ("resume=nowhere", "resume=nowhere: there is no nowhere/config.yaml"),
    ("init_from=nowhere", "there is no checkpoint nowhere"),
    ("data=voc", "no VOC2012/JPEGImages under data/voc"),
    ("data=camvid", "data/camvid"),
    ("data=folder", "data.root must be given"),
    ("~backbone", "backbone must be given"),
    ("loss.class_weights=[1,2]", "loss.class_weights has 2 entries for 8 classes"),
    ("monitor=val/mIoU", "monitor=val/mIoU: there is no such figure; did you mean val/miou?"),
    ("monitor_mode=maximum", "monitor_mode=maximum: val/miou is best where it is highest; monitor_mode=max, or auto"),
    (
        "+callbacks.best_checkpoint.save_top_k=3",
        "callbacks.best_checkpoint.save_top_k=3: there is one best.ckpt; a callback of its own",
    ),
    (
        "+trainer.lightning.limit_train_batches=2",
        "trainer.lightning.limit_train_batches=2 ends the run before its first validation, after 3 batches",
    ),
    (
        "+trainer.lightning.limit_train_batches=0.5",
        "trainer.lightning.limit_train_batches=0.5 ends the run before its first validation",
    ),
    ("monitor_mode=min", "monitor_mode=min: val/miou is best where it is highest"),
    ("backbone.variant=resnet999", "backbone.variant=resnet999: there is no such variant; choose one of resnet18"),
    ("seed=-1", "seed must be 0 or more and below 2**32, got -1"),
    ("normalize.mean=[1,2]", "normalize.mean and normalize.std are 3 numbers each"),
    ("~optimizer.lr", "optimizer.lr must be given"),
    ("transforms.train.1.p=2", "transforms: "),
    ("data.download=true", "Shapes has no automatic download"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val must be positive or null, got -1"),
    ("batch_norm.head_momentum=2", "batch_norm.head_momentum is a share between 0 and 1, got 2"),
    ("data.dataset=5", "data.dataset=5: here belongs a part of configs/"),
    ("data.dataset.num_images={train: x}", "data.dataset.num_images={'train': 'x', 'val': 3, 'test': 2}: segframe"),
    ("normalize.std=[1,-1,1]", "normalize.mean and normalize.std are 3 numbers each, std above 0"),
    ("optimizer.lr=nan", "optimizer.lr=nan: a finite number is needed"),
    ("seed=1e10", "seed"),
    ("seed=10000000000", "seed must be 0 or more and below 2**32, got 10000000000"),
    ("+callbacks.mine={a: 1}", "callbacks.mine makes a dict, which is no Callback"),
    ("+logger.mine=1", "logger.mine: Cannot instantiate config of type int"),
    ("head.reads=c7", "this head reads c7; the backbone offers c1, c2, c3, c4, c5"),
]


@pytest.mark.parametrize(("word", "sentence"), WRONG)
def test_one_sentence(run, tmp_path, word, sentence):
    group = word.partition("=")[0]
    data = () if group == "data" else TINY[2:]
    parts = TINY[:2] if not word.startswith(("~", "backbone=", "model=")) else ()
    result = run("train.py", *parts, *data, "trainer.max_epochs=1", word, "output_dir=wrong")
    assert result.code == 1
    lines = [line for line in result.out.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.out
    assert sentence in lines[0]
    assert "Traceback" not in result.out
    assert not (tmp_path / "wrong/checkpoints").exists()


def test_a_right_word_is_not_blamed_for_a_wrong_one(run):
    result = run("train.py", "transforms.train.1.p=0.3", "trainer.max_epochs=abc", "output_dir=wrong")
    assert "error: trainer.max_epochs: Value 'abc'" in result.out


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("scripts/evaluate.py", ["checkpoint=x.ckpt"]),
        ("scripts/predict.py", ["checkpoint=x.ckpt", "input=x", "output=y"]),
        ("scripts/summary.py", ["receptive_field=false"]),
        ("scripts/check_data.py", []),
    ],
)
def test_scripts_take_no_keys_that_they_do_not_know(run, tmp_path, script, words):
    torch.save(
        {"state_dict": {}, "segframe": {"config": {"normalize": NORMALIZE}, "classes": ["a"], "palette": [[0, 0, 0]]}},
        "x.ckpt",
    )
    result = run(script, *words, "+accelerater=1")
    assert result.code == 1
    assert "error: accelerater is not a setting" in result.out


def test_an_output_that_is_a_file(run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("train.py", *TINY, "output_dir=file")
    assert result.code == 1
    assert "error: " in result.out
    assert "Traceback" not in result.out


@pytest.mark.parametrize("script", ["scripts/evaluate.py", "scripts/predict.py"])
def test_checkpoints_that_are_none(run, tmp_path, script):
    more = ("input=.", "output=out") if "predict" in script else ()
    (tmp_path / "x.png").write_bytes(b"")
    files = {
        "text.ckpt": "cannot be read as a checkpoint",
        "tensor.ckpt": "not a checkpoint",
        "bare.ckpt": "not a segframe",
    }
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    for name, reason in {**files, "absent.ckpt": "there is no checkpoint absent.ckpt"}.items():
        result = run(script, f"checkpoint={name}", *more)
        assert result.code == 1
        assert reason in result.out
        assert "Traceback" not in result.out
    result = run(script, *more)
    assert result.code == 1
    assert "checkpoint must be given" in result.out


def test_a_run_that_does_not_start_leaves_no_folder(run, tmp_path):
    assert run("train.py", "data=folder", "data.root=nowhere", "data.dataset.classes=[a]").code == 1
    assert not list(tmp_path.glob("outputs/*/*"))


def test_ctrl_c_ends_without_a_traceback(capsys):
    with pytest.raises(SystemExit) as end, interruptible():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_debug_shows_where_an_error_comes_from(run):
    words = (*TINY, "trainer.max_epochs=1", "monitor=val/mIoU", "output_dir=wrong")
    with pytest.raises(UserError, match="monitor=val/mIoU: there is no such figure"):
        run("train.py", *words, "debug=true")
    assert run("train.py", *words, "debug=false").code == 1
    result = run("train.py", *words, "debug=yes")
    assert result.code == 1
    assert "error: debug=yes: debug=true shows the traceback" in result.out


def test_a_line_that_the_log_has_no_room_for_is_no_further_error(run, monkeypatch, capfd):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logging, "raiseExceptions", True)
    assert run("scripts/check_data.py", "data=null").code == 1
    logging.StreamHandler(Full()).handle(logging.makeLogRecord({"msg": "a line"}))
    assert capfd.readouterr().err == ""


def test_a_sentence_may_name_an_error():
    assert str(UserError("a backbone a.UserError: b")) == "a backbone a.UserError: b"
    text = "Caught UserError in DataLoader worker process 0.\nOriginal Traceback:\nsegframe.errors.UserError: bad\n"
    assert str(UserError(text)) == "bad"
