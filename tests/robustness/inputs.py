"""Bad inputs: each must end with one error message that names its cause, and change no existing file."""

import json
import random
import re
import shlex
import shutil
from hashlib import sha256
from pathlib import Path

import checkpoints
import command_lines
import images
from case import TRAIN_PHOTOS, Case
from forks import Child
from report import Part, Settings

SOURCES = {
    "options": (command_lines.options, 120),
    "keys": (command_lines.keys, 150),
    "types": (command_lines.types, 150),
    "images": (images.cases, 100),
    "check_data": (images.check_data_cases, 60),
    "checkpoints": (checkpoints.cases, 100),
}
"""Kinds of cases, and how many at most are drawn of each."""
QUICK = 8
"""A quick run takes every eighth case."""


def run(settings: Settings, folder: Path) -> Part:
    """Run all cases, or every eighth in a quick run, in forked children."""
    part = Part("inputs", settings)
    drawn = draw(settings.seed)
    numbers = range(0, len(drawn), QUICK) if settings.quick else range(len(drawn))
    if settings.pick is not None:
        numbers = range(settings.pick, settings.pick + 1)
    template = folder / "template"
    images.write_dataset(template / "photos")
    child = Child([*TRAIN_PHOTOS, "output_dir=run", "logger=default"], template, folder / "template.log")
    if child.wait():
        part.add(-1, "the run that the cases start from", [child.out])
        return part
    for count, number in enumerate(numbers):
        attempt(part, number, drawn[number], folder, template)
        if count % 50 == 49:
            part.log(f"{count + 1} of {len(numbers)} inputs, {part.failed} failed")
    part.log(f"{len(numbers)} inputs")
    return part


def draw(seed: int) -> list[Case]:
    """Draw the cases of a seed."""
    drawn = []
    for kind, (make, limit) in SOURCES.items():
        found = list(make(random.Random(f"{seed} {kind}")))
        drawn += random.Random(f"{seed} {kind} drawn").sample(found, min(limit, len(found)))
    return drawn


def attempt(part: Part, number: int, case: Case, folder: Path, template: Path) -> None:
    """Run a case in a copy of the template, and add its problems to the part."""
    place = folder / f"case-{number}"
    shutil.copytree(template, place)
    case.prepare(place)
    before = checksums(place)
    child = Child(case.words, place, folder / f"case-{number}.log")
    code, out = child.wait(), child.out
    problems = judge(case, code, out, findings(place))
    problems += changes(before, checksums(place))
    part.add(number, case.title, [*problems, out[-1500:]] if problems else [], shlex.join(case.words))
    child.log.unlink()
    shutil.rmtree(place)


def checksums(folder: Path) -> dict[str, str]:
    """All paths below a folder; of files with their checksums."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): sha256(p.read_bytes()).hexdigest() if p.is_file() else "" for p in paths}


def findings(place: Path) -> list[str]:
    """The errors in check_data.json with their files; none if checking could not begin."""
    path = place / "out/check_data.json"
    found = json.loads(path.read_text())["findings"] if path.exists() else []
    return [" ".join(map(str, finding.values())) for finding in found if finding["severity"] == "error"]


def judge(case: Case, code: int, out: str, errors: list[str]) -> list[str]:
    """The problems of a case's exit code and output; `errors` are the findings of check_data.py."""
    problems = []
    # predict.py reports every image that it skips.
    lines = [line for line in out.splitlines() if line.startswith(("error: ", "skipped: "))]
    if code != 1:
        problems.append(f"exit code {code}")
    if re.search("Traceback|Exception ignored|Error executing job", out):
        problems.append("more than an error message")
    if errors:
        if lines:
            problems.append("an error message beside the findings")
        if not all(any(re.search(case.culprit, text) for text in texts) for texts in (errors, [out])):
            problems.append(f"no finding names {case.culprit}")
    elif sum(line.startswith("error: ") for line in lines) != 1 and not (lines and lines[0].startswith("skipped: ")):
        problems.append("not one line `error: ...`")
    elif not re.search(case.culprit, lines[0]):
        problems.append(f"the message does not name {case.culprit}")
    elif len(lines[0]) > 1000:
        problems.append(f"a message of {len(lines[0])} characters")
    return problems


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Changes in a case's folder that must not be."""
    problems = [f"{path} has changed" for path in before if after.get(path) != before[path]]
    new = after.keys() - before.keys()
    problems += [f"{path} is new" for path in new if not path.startswith("out")]
    return problems + [f"{path} was written" for path in new if path.endswith(".ckpt")]
