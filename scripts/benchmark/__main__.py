"""Compare segframe with other projects: python scripts/benchmark [key=value ...]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark import schema
from segframe.cli.main import Program, run_program

if __name__ == "__main__":
    schema.register()
    run_program(Program("benchmark.runner.run_benchmark", "benchmark", config_dir=schema.CONFIG_DIR))
