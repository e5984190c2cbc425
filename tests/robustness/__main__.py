"""Robustness tests: kill runs, give bad inputs, fuzz readers, fill disks.

.venv/bin/python tests/robustness [quick] [only=kills,devices,inputs,fuzz,disk] [seed=N] [pick=N]
"""

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Before anything is imported that would start threads: a process with threads cannot be forked safely.
os.environ["OMP_NUM_THREADS"] = "1"

from forks import import_programs
from report import Settings, table

PARTS = ("kills", "devices", "inputs", "fuzz", "disk")


def main() -> int:
    """Run the parts; return 1 if anything failed."""
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
                sys.exit(f"error: {word}: unknown; give {__doc__.strip().splitlines()[-1]}")
    words = [*(word for word in sys.argv[1:] if not word.startswith("seed=")), f"seed={settings.seed}"]
    print(f"repeat with: .venv/bin/python tests/robustness {' '.join(words)}", flush=True)
    import_programs()
    done = []
    for name in parts:
        # No TemporaryDirectory: the end of a forked child would remove it.
        folder = Path(tempfile.mkdtemp(prefix=f"segframe-{name}-")).resolve()
        try:
            done.append(importlib.import_module(name).run(settings, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    failed = sum(part.failed for part in done)
    print(f"\n{table(done)}\n{sum(part.passed for part in done)} passed, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # without the exit handlers of imported libraries
