"""Record of the steps that a run has sent to an experiment tracker, so that a resumed run sends none twice."""

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from segframe.errors import UserError
from segframe.files import write_json


class SentSteps:
    """A file in the run's folder with the run's id at a tracker, and the last step sent of each curve and picture.

    Trackers cannot discard what followed the checkpoint of a killed run. The resumed run computes the same again, and
    so sends nothing that the tracker has.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id: str | None = None
        self._steps: dict[str, int] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self.id, self._steps = str(content["id"]), {name: int(step) for name, step in content["steps"].items()}
        except FileNotFoundError:
            pass
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}): move it away, and a new run begins there") from None

    def lacks(self, name: str, step: int | None) -> bool:
        return step is None or step > self._steps.get(name, -1)

    def add(self, run_id: str | None, names: Iterable[str] = (), step: int | None = None) -> None:
        if step is not None:
            self._steps |= dict.fromkeys(names, step)
        self.id = run_id
        write_json(self.path, {"id": run_id, "steps": self._steps})


def require(package: str) -> None:
    """UserError where a tracker's package is not installed."""
    if find_spec(package) is None:
        raise UserError(f"logger={package}: needs {package}; pip install 'segframe[{package}]'")


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
