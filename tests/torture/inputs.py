"""Fifteen hundred bad inputs: each must end in one sentence that names the culprit, and change nothing there was."""

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import photos
import resumes
import strangers
import words
from case import Case, train_photos
from forks import ROOT, Child
from report import Part, Settings

SOURCES = {
    "options": (words.options, 160),
    "keys": (words.keys, 200),
    "types": (words.types, 200),
    "brackets": (words.brackets, 90),
    "ranges": (words.ranges, 220),
    "photos": (photos.cases, 190),
    "check_data": (photos.looked_through, 130),
    "strangers": (strangers.cases, 190),
    "resumes": (resumes.cases, 130),
}
"""Kinds of cases and how many are drawn of each at most."""
QUICK = 8
"""One of so many, when it must be quick."""


def torture(settings: Settings, folder: Path) -> Part:
    """The part: all in forked children, then some as commands of their own."""
    part = Part("inputs", settings)
    drawn = draw(settings.seed)
    numbers = range(0, len(drawn), QUICK) if settings.quick else range(len(drawn))
    if settings.pick is not None:
        numbers = range(settings.pick, settings.pick + 1)
    template = prepare(folder)
    for count, number in enumerate(numbers):
        attempt(part, number, drawn[number], folder, template, False)
        if count % 50 == 49:
            part.say(f"{count + 1} of {len(numbers)} inputs, {part.failed} failed")
    rng = random.Random(f"{settings.seed} commands")
    chosen = rng.sample(range(len(drawn)), 8 if settings.quick else 50) if settings.pick is None else []
    for number in chosen:
        attempt(part, number, drawn[number], folder, template, True)
    part.say(f"{len(numbers)} inputs of {len(SOURCES)} kinds, {len(chosen)} of them again as commands of their own")
    return part


def draw(seed: int) -> list[Case]:
    """The campaign's cases, the same for the same seed."""
    drawn = []
    for kind, (make, limit) in SOURCES.items():
        found = list(make(random.Random(f"{seed} {kind}")))
        drawn += random.Random(f"{seed} {kind} drawn").sample(found, min(limit, len(found)))
    return drawn


def prepare(folder: Path) -> Path:
    """The folder that each case gets a copy of: data, and a run on them."""
    template = folder / "template"
    template.mkdir()
    photos.make(template / "photos")
    child = Child([*train_photos(), "output_dir=run", "logger=default"], template, folder / "template.log")
    if child.wait():
        raise SystemExit(f"the run that the cases are made of fails:\n{child.out}")
    return template


def attempt(part: Part, number: int, case: Case, folder: Path, template: Path, own: bool) -> None:
    """Runs a case in a folder of its own, in a child or as a command, and notes what is wrong with how it ends."""
    place = folder / f"case-{number}"
    shutil.copytree(template, place, symlinks=True)
    case.prepare(place)
    before = snapshot(place)
    if own:
        command = [sys.executable, str(ROOT / case.words[0]), *case.words[1:]]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(
                command, cwd=place, capture_output=True, text=True, errors="replace", timeout=240, env=environment
            )
            code, out = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            code, out = 124, ""
    else:
        child = Child(case.words, place, folder / f"case-{number}.log")
        code, out = child.wait(), child.out
        child.log.unlink()
    complaints = judge(case, code, out, before, snapshot(place), findings(place) if case.found else [])
    part.note(number, f"{case.title}{' as a command' if own else ''}", complaints, shlex.join(case.words))
    shutil.rmtree(place, ignore_errors=True)


def snapshot(folder: Path) -> dict[str, str]:
    """What each path is, files by their content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            kind = "link"
        elif path.is_dir():
            kind = "folder"
        else:
            kind = sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = kind
    return found


def findings(place: Path) -> list[str]:
    """The errors that check_data.py has told, with their files; none where it could not begin."""
    path = place / "out/check_data.json"
    told = json.loads(path.read_text())["findings"] if path.exists() else []
    return [" ".join((one["what"], *one["files"], one["advice"])) for one in told if one["severity"] == "error"]


def judge(
    case: Case, code: int, out: str, before: dict[str, str], after: dict[str, str], errors: list[str]
) -> list[str]:
    """What is wrong with the end of a case."""
    found = []
    lines = [line for line in out.splitlines() if line.startswith(("error: ", "skipped: "))]
    if code == 0:
        found.append("exit code 0")
    if code < 0 or code == 124:
        found.append(f"exit code {code}: it was killed, or did not end")
    if "Traceback" in out or "Exception ignored" in out:
        found.append("a traceback")
    if errors:
        if code != 1 or lines:
            found.append(f"exit code {code}, {len(lines)} errors beside the findings")
        # In the file, and on the terminal.
        if not all(any(re.search(case.culprit, text) for text in texts) for texts in (errors, [out])):
            found.append(f"no finding names {case.culprit}")
    # predict.py tells of each image that it leaves out.
    elif sum(line.startswith("error: ") for line in lines) != 1 and not (lines and lines[0].startswith("skipped: ")):
        found.append("not one line `error: ...`")
    elif not re.search(case.culprit, lines[0]):
        found.append(f"the sentence does not name {case.culprit}")
    elif len(lines[0]) > 1000:
        found.append("an endless sentence")
    # A run that goes on writes down with what, before it has read its checkpoint.
    rewritten = ("run/train.log", "run/config.yaml", "run/environment.json") if "resume=" in str(case.words) else ()
    changed = [path for path, kind in before.items() if after.get(path) != kind and path not in rewritten]
    found += [f"{path} is not what it was" for path in changed]
    new = [path for path in after.keys() - before.keys() if not path.startswith(("out", "run/train.log", "run/events"))]
    found += [f"{path} is new" for path in new]
    found += [f"{path} was made" for path in after.keys() - before.keys() if path.endswith(".ckpt")]
    return [*found, out[-1500:]] if found else []
