"""Disks that fill up: the last good checkpoint stays, one sentence tells, and with room again the run goes on."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import photos
import runs
from forks import Child
from PIL import Image
from report import Part, Settings

WORDS = (
    *("train.py", "model=unet", "backbone.channels=[8,16,32,64,256]", "head.channels=[64,32,16,8]"),
    *("data.dataset.size=32", "data.crop_size=32", "data.batch_size=4", "data.num_workers=0"),
    *("data.dataset.num_images={train: 12, val: 3, test: 2}", "trainer.accelerator=cpu", "resume=auto"),
    *("trainer.max_steps=12", "trainer.val_every_n_steps=4", "trainer.checkpoint_every=3"),
    *("callbacks.curves.every_n_steps=1", "output_dir=disk/run"),
)
PAGE = 4096
ROOMS = (0, 3, 7, 12)
"""Pages for what predict.py writes of six images, which needs some twenty."""
CLONE_NEWNS, CLONE_NEWUSER, MS_REC, MS_PRIVATE, MS_REMOUNT = 0x20000, 0x10000000, 0x4000, 1 << 18, 32
libc = ctypes.CDLL(None, use_errno=True)


def torture(settings: Settings, folder: Path) -> Part:
    """The part: a disk too small for the checkpoints, and disks that something else fills at different moments."""
    part = Part("disk", settings)
    place = folder / "whole"
    (place / "disk").mkdir(parents=True)
    child = Child(WORDS, place, folder / "whole.log")
    if child.wait():
        part.note(-1, "the run that nothing happens to", [child.out])
        return part
    whole = runs.digest(place / "disk/run")
    checkpoint = (place / "disk/run/checkpoints/last.ckpt").stat().st_size
    if refused := try_mounting():
        part.skip(refused)
        return part
    cases: list[tuple[str, int, Callable[[Path], bool] | None, int]] = [
        ("2.5 checkpoints' room", int(2.5 * checkpoint), None, 0),
        ("1.5 checkpoints' room", int(1.5 * checkpoint), None, 0),
        ("half a checkpoint's room", checkpoint // 2, None, 0),
    ]
    for left in (0, 1, 2, 5):
        cases.append((f"filled after the first checkpoint but for {left} pages", 9 * checkpoint, first, left))
    for left in (0, 1):
        cases.append((f"filled after the first validation but for {left} pages", 9 * checkpoint, validated, left))
        cases.append((f"filled as the run begins but for {left} pages", 9 * checkpoint, begun, left))
    for number, (title, size, due, left) in enumerate(cases):
        if settings.pick in (None, number):
            work = partial(endure, due=due, left=left, size=size, whole=whole)
            complaints = in_a_namespace(number, folder, size, work)
            part.note(number, title, complaints, " ".join(WORDS))
            part.say(f"{title}: {'failed' if complaints else 'passed'}")
    photos.make(folder / "photos")
    for number, room in enumerate(ROOMS, len(cases)):
        if settings.pick in (None, number):
            work = partial(predict, run=place / "disk/run", images=folder / "photos/images", room=room)
            complaints = in_a_namespace(number, folder, 99 * PAGE, work)
            part.note(number, f"predictions on {room} pages", complaints)
            part.say(f"predictions on {room} pages: {'failed' if complaints else 'passed'}")
    number = len(cases) + len(ROOMS)
    if settings.pick in (None, number):
        complaints = in_a_namespace(number, folder, 99 * PAGE, hand_on)
        part.note(number, "workers without room for temporary files", complaints)
        part.say(f"workers without room for temporary files: {'failed' if complaints else 'passed'}")
    return part


def begun(run: Path) -> bool:
    """Whether the run has written its config."""
    return (run / "config.yaml").exists()


def first(run: Path) -> bool:
    """Whether there is a checkpoint."""
    return (run / "checkpoints/last.ckpt").exists()


def validated(run: Path) -> bool:
    """Whether there is a checkpoint of a validation."""
    return (run / "checkpoints/best.ckpt").exists()


def try_mounting() -> str | None:
    """Why no small disk can be had here, if so."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "small disks are made with Linux's unshare"
    command = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m none /mnt || mount -t tmpfs none /tmp"]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode == 0 else f"mounting is refused here ({done.stderr.strip()})"


def in_a_namespace(number: int, folder: Path, size: int, work: Callable[[Path, Path], list[str]]) -> list[str]:
    """`work` in a folder with a small disk, of a process that may mount; what it complains of."""
    place, told = folder / f"case-{number}", folder / f"case-{number}.told"
    (place / "disk").mkdir(parents=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            with small_disk(place / "disk", size):
                complaints = work(place, folder / f"case-{number}.log")
        except BaseException as error:
            complaints = [f"the case itself failed: {type(error).__name__}: {error}"]
        told.write_text("\0".join(complaints))
        os._exit(0)
    os.waitpid(pid, 0)
    return [complaint for complaint in told.read_text().split("\0") if complaint]


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    """A disk of so many bytes at `place`, in a namespace of this process."""
    user, group = os.getuid(), os.getgid()
    system(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    system(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    system(libc.mount(b"none", str(place).encode(), b"tmpfs", 0, f"size={size}".encode()))
    yield


def enlarge(place: Path) -> None:
    """Makes room."""
    system(libc.mount(b"none", str(place).encode(), b"tmpfs", MS_REMOUNT, b"size=2g"))


def system(code: int) -> None:
    """OSError where a call of libc's failed."""
    if code:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def endure(
    place: Path, log: Path, due: Callable[[Path], bool] | None, left: int, size: int, whole: dict[str, object]
) -> list[str]:
    """Runs on the small disk, fills it where asked, makes room and goes on; what was wrong."""
    disk, run = place / "disk", place / "disk/run"
    child = Child(WORDS, place, log)
    while due is not None and child.poll() is None and not due(run):
        time.sleep(0.0005)
    if due is not None:
        fill(disk / "filler", left)
    complaints, code, out = [], child.wait(), child.out
    complaints += told(code, out, run, "disk/run") + runs.damages(run)
    if due is None and size > 1 << 24 and not first(run):
        complaints.append("no checkpoint was left")
    (disk / "filler").unlink(missing_ok=True)
    enlarge(disk)
    child = Child(WORDS, place, log.with_suffix(".again"))
    if child.wait():
        complaints.append(f"going on: exit code {child.code}\n{child.out[-2000:]}")
    else:
        complaints += runs.differences(run, whole)
    return [*complaints, out[-3000:]] if complaints else []


def told(code: int, out: str, folder: Path, named: str) -> list[str]:
    """What is wrong with how a program ends whose disk is full."""
    lines = [line for line in out.splitlines() if line.startswith("error: ")]
    complaints = [f"{path.name} was left" for path in folder.rglob("*.unfinished")]
    if code != 1 or len(lines) != 1 or "No space left on device" not in lines[0] or named not in lines[0]:
        complaints.append(f"exit code {code}, {len(lines)} errors that say that a file cannot be written")
    if "Traceback" in out or "Exception" in out or "Logging error" in out:
        complaints.append("more than a sentence")
    return complaints


def predict(place: Path, log: Path, run: Path, images: Path, room: int) -> list[str]:
    """Predicts onto so many pages; what was wrong."""
    output = place / "disk/out"
    fill(place / "disk/filler", room)
    words = ("scripts/predict.py", f"checkpoint={run}", f"input={images}", "output=disk/out", "accelerator=cpu")
    child = Child(words, place, log)
    complaints = told(child.wait(), child.out, output, "disk/out")
    for path in output.rglob("*.png"):
        try:
            np.array(Image.open(path))
        except OSError as error:
            complaints.append(f"{path}: {error}")
    return [*complaints, child.out[-3000:]] if complaints else []


def hand_on(place: Path, log: Path) -> list[str]:
    """Trains with workers that cannot make the sockets which batches are handed on through; what was wrong."""
    disk, words = place / "disk", [word for word in WORDS if not word.startswith(("data.num_workers", "output_dir"))]
    system(libc.mount(b"none", str(disk).encode(), b"tmpfs", MS_REMOUNT, b"nr_inodes=1"))
    before = partial(setattr, tempfile, "tempdir", str(disk))
    child = Child([*words, "data.num_workers=2", "output_dir=run"], place, log, before)
    complaints = told(child.wait(), child.out, place / "run", "disk/pymp-")
    return [*complaints, child.out[-3000:]] if complaints else []


def fill(path: Path, left: int) -> None:
    """Fills a disk but for so many pages."""
    with path.open("wb", buffering=0) as file:
        for piece in (1 << 20, PAGE):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError:
                pass
        size = path.stat().st_size
        file.truncate(max(0, size - left * PAGE))
