"""Full disks: the last checkpoint stays intact, one error message says so, and with free space the run resumes."""

import ctypes
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import images
import numpy as np
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
PREDICTION_PAGES = (0, 7)
"""Free pages for predictions of six images, which need about twenty."""
CLONE_NEWNS, CLONE_NEWUSER, MS_REC, MS_PRIVATE, MS_REMOUNT = 0x20000, 0x10000000, 0x4000, 1 << 18, 32
Work = Callable[[Path, Path], list[str]]
libc = ctypes.CDLL(None, use_errno=True)


def run(settings: Settings, folder: Path) -> Part:
    """Train on disks too small for the checkpoints, on disks that fill up later, and predict on small ones."""
    part = Part("disk", settings)
    place = folder / "uninterrupted"
    (place / "disk").mkdir(parents=True)
    child = Child(WORDS, place, folder / "uninterrupted.log")
    if child.wait():
        part.add(-1, "the run on a large disk", [child.out])
        return part
    if problems := on_small_disk(-1, folder, PAGE, lambda place, log: []):
        part.skipped = f"mounting is not permitted here ({problems[0]})"
        return part
    reference = place / "disk/run"
    size = (reference / "checkpoints/last.ckpt").stat().st_size
    expected = runs.digest(reference)
    images.write_dataset(folder / "photos")
    cases: list[tuple[str, int, Work]] = []
    for share in (2.5, 1.5, 0.5):
        room = int(share * size)
        cases.append((f"room for {share} checkpoints", room, partial(train, None, 0, room, expected)))
    for due, pages in (("checkpoints/last.ckpt", (0, 1, 5)), ("checkpoints/best.ckpt", (0, 1)), ("config.yaml", (0,))):
        for left in pages:
            title = f"filled after {due} exists but for {left} pages"
            cases.append((title, 9 * size, partial(train, due, left, 9 * size, expected)))
    for room in PREDICTION_PAGES:
        work = partial(predict, reference, folder / "photos/images", room)
        cases.append((f"predictions on {room} pages", 99 * PAGE, work))
    for number, (title, room, work) in enumerate(cases):
        if settings.pick in (None, number):
            problems = on_small_disk(number, folder, room, work)
            part.add(number, title, problems, " ".join(WORDS))
            part.log(f"{title}: {'failed' if problems else 'passed'}")
    return part


def on_small_disk(number: int, folder: Path, size: int, work: Work) -> list[str]:
    """Call `work` in a child that has mounted a disk of `size` bytes; return its problems."""
    place, answer = folder / f"case-{number}", folder / f"case-{number}.problems"
    (place / "disk").mkdir(parents=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            mount_disk(place / "disk", size)
            problems = work(place, folder / f"case-{number}.log")
        except BaseException as error:
            problems = [f"{type(error).__name__}: {error}"]
        answer.write_text("\0".join(problems))
        os._exit(0)
    os.waitpid(pid, 0)
    return [problem for problem in answer.read_text().split("\0") if problem]


def mount_disk(place: Path, size: int) -> None:
    """Mount a disk of `size` bytes at `place`, in a namespace of this process."""
    user, group = os.getuid(), os.getgid()
    check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    check(libc.mount(b"none", str(place).encode(), b"tmpfs", 0, f"size={size}".encode()))


def check(code: int) -> None:
    """OSError if a call of libc failed."""
    if code:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def train(due: str | None, left: int, size: int, expected: dict[str, object], place: Path, log: Path) -> list[str]:
    """Train on the small disk, fill it once the run's file `due` exists, enlarge it and resume; return the problems."""
    disk, folder = place / "disk", place / "disk/run"
    before = partial(fill_after, folder / due, disk / "filler", left) if due is not None else None
    child = Child(WORDS, place, log, before)
    code, out = child.wait(), child.out
    problems = check_end(code, out, folder, "disk/run") + runs.find_damage(folder)
    if due is None and size > 1 << 24 and not (folder / "checkpoints/last.ckpt").exists():
        problems.append("no checkpoint was left")
    (disk / "filler").unlink(missing_ok=True)
    check(libc.mount(b"none", str(disk).encode(), b"tmpfs", MS_REMOUNT, b"size=2g"))
    child = Child(WORDS, place, log.with_suffix(".resumed"))
    if child.wait():
        problems.append(f"resuming: exit code {child.code}\n{child.out[-2000:]}")
    else:
        problems += runs.differences(folder, expected)
    return [*problems, out[-3000:]] if problems else []


def predict(run: Path, images: Path, room: int, place: Path, log: Path) -> list[str]:
    """Predict with so many free pages; return the problems."""
    output = place / "disk/out"
    fill(place / "disk/filler", room)
    words = ("scripts/predict.py", f"checkpoint={run}", f"input={images}", "output=disk/out", "accelerator=cpu")
    child = Child(words, place, log)
    problems = check_end(child.wait(), child.out, output, "disk/out")
    for path in output.rglob("*.png"):
        try:
            np.array(Image.open(path))
        except OSError as error:
            problems.append(f"{path}: {error}")
    return [*problems, child.out[-3000:]] if problems else []


def check_end(code: int, out: str, folder: Path, named: str) -> list[str]:
    """The problems of how a program ended when its disk was full; its error message must name `named`."""
    lines = [line for line in out.splitlines() if line.startswith("error: ")]
    problems = [f"{path.name} was left" for path in folder.rglob("*.unfinished")]
    if code != 1 or len(lines) != 1 or "No space left on device" not in lines[0] or named not in lines[0]:
        problems.append(f"exit code {code}, {len(lines)} errors that say that a file cannot be written")
    if "Traceback" in out or "Exception" in out or "Logging error" in out:
        problems.append("more than an error message")
    return problems


def fill_after(due: Path, filler: Path, left: int) -> None:
    """Fill the disk as soon as `due` is written: in the run's own process, for it may end before another one does."""
    replace = os.replace

    def replace_and_fill(source: Path, target: Path) -> None:
        replace(source, target)
        if Path(target).absolute() == due and not filler.exists():
            fill(filler, left)

    os.replace = replace_and_fill  # type: ignore[assignment]


def fill(path: Path, left: int) -> None:
    """Fill the disk of `path` but for `left` pages."""
    with path.open("wb", buffering=0) as file:
        for piece in (1 << 20, PAGE):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError:
                pass
        size = path.stat().st_size
        file.truncate(max(0, size - left * PAGE))
