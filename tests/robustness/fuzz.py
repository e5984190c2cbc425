"""The properties of test_fuzz.py with many more examples than `make test` tries."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from forks import ROOT
from report import Part, Settings

EXAMPLES = {True: 300, False: 3000}
"""Of each property, in a quick run and in a full one."""


def run(settings: Settings, folder: Path) -> Part:
    """Run pytest in a process of its own, with the seed of the robustness tests."""
    part = Part("fuzz", settings)
    examples, report = EXAMPLES[settings.quick], folder / "report.xml"
    command = f"-m pytest -q tests/robustness/test_fuzz.py --hypothesis-seed={settings.seed} -p no:cacheprovider"
    command += " -o faulthandler_timeout=3600"  # of all examples of a property
    part.log(f"{examples} examples of each property")
    done = subprocess.run(
        [sys.executable, *command.split(), f"--junitxml={report}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SEGFRAME_FUZZ": str(examples)},
    )
    if not report.exists():
        part.add(0, "pytest", [done.stdout[-3000:] + done.stderr[-3000:]], f"python {command}")
        return part
    for number, case in enumerate(ElementTree.parse(report).getroot().iter("testcase")):
        failures = [node.text or node.get("message", "") for node in case if node.tag in ("failure", "error")]
        again = f"SEGFRAME_FUZZ={examples} python {command} -k '{case.get('name')}'"
        part.add(number, str(case.get("name")), [text[-3000:] for text in failures], again)
    return part
