"""Does to segframe what the world does to programs: kills, bad inputs, damaged files, full disks. See the README.

.venv/bin/python tests/torture [quick] [only=kills,inputs,fuzz,disk] [seed=N] [pick=N]
"""

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Before anything is imported that would start threads: what has threads cannot be forked.
os.environ["OMP_NUM_THREADS"] = "1"

from forks import warm
from report import Settings, table

PARTS = ("kills", "inputs", "fuzz", "disk")


def main() -> int:
    """Runs the parts; 1 where anything failed."""
    settings, parts = Settings(), PARTS
    for word in sys.argv[1:]:
        match word.partition("="):
            case ("quick", "", ""):
                settings.quick = True
            case ("only", _, names) if set(names.split(",")) <= set(PARTS):
                parts = tuple(names.split(","))
            case ("seed", _, number) if number.isdigit():
                settings.seed = int(number)
            case ("pick", _, number) if number.isdigit():
                settings.pick = int(number)
            case _:
                sys.exit(f"error: {word}: give {__doc__.strip().splitlines()[-1]}")
    print("importing, once for all", flush=True)
    warm()
    done = []
    for name in parts:
        # No TemporaryDirectory: a child's end would remove it.
        folder = Path(tempfile.mkdtemp(prefix=f"segframe-{name}-")).resolve()
        try:
            done.append(importlib.import_module(name).torture(settings, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{table(done)}")
    failed = sum(part.failed for part in done)
    print(f"{sum(part.passed for part in done)} passed, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # what was imported has nothing to say at its end
