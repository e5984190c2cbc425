"""The properties of tests/test_fuzz.py with many more examples than the tests take."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from forks import ROOT
from report import Part, Settings

EXAMPLES = {True: 300, False: 3000}
"""Of each property: quick, and not."""


def torture(settings: Settings, folder: Path) -> Part:
    """The part: pytest in a process of its own, drawing from the campaign's seed."""
    part = Part("fuzz", settings)
    examples, report = EXAMPLES[settings.quick], folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_fuzz.py", f"--hypothesis-seed={settings.seed}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SEGFRAME_FUZZ": str(examples)}
    part.say(f"{examples} examples of each property")
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", f"--junitxml={report}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    if not report.exists():
        part.note(0, "pytest", [done.stdout[-3000:] + done.stderr[-3000:]], " ".join(command))
        return part
    for number, case in enumerate(ElementTree.parse(report).getroot().iter("testcase")):
        wrong = [node.text or node.get("message", "") for node in case if node.tag in ("failure", "error")]
        again = f"SEGFRAME_FUZZ={examples} {' '.join(command)} -k '{case.get('name')}'"
        part.note(number, str(case.get("name")), [text[-3000:] for text in wrong], again)
    return part
