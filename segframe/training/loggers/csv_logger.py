"""metrics.csv."""

import csv
from collections.abc import Mapping
from contextlib import suppress
from io import StringIO
from math import isnan
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from segframe.errors import UserError
from segframe.files import translate_write_errors, write_text
from segframe.training.loggers.base import ResumableLogger


class CSVLogger(ResumableLogger):
    """`<save_dir>/metrics.csv`: one row per step, one column per metric, in order of appearance.

    An existing file is continued, without a last line that a killed run left incomplete.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self._columns = ["step"]
        self._rows: dict[int, dict[str, str]] = {}
        self._open: int | None = None  # the step whose row is not in the file yet
        self._stale = False  # the file does not merely lack the open row
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        try:
            complete, _, rest = self.path.read_text(encoding="utf-8").rpartition("\n")
            header, *rows = list(csv.reader(StringIO(complete))) or [self._columns]
            if header[:1] != ["step"] or len(set(header)) < len(header):
                raise ValueError("its first line names no columns")
            self._rows = {int(row[0]): dict(zip(header, row, strict=True)) for row in rows if row}
        except (ValueError, csv.Error) as error:
            raise UserError(f"{self.path} is damaged ({error}): move it away to continue without its metrics") from None
        self._columns, self._stale = header, bool(rest)

    name = version = ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Merge the metrics into the step's row, which is written when another begins, or by `save`."""
        step = step or 0
        if step != self._open:
            self.save()
            self._stale |= step <= max(self._rows, default=-1)
            self._open = step
        new_columns = [name for name in metrics if name not in self._columns]
        self._stale |= bool(new_columns)
        self._columns += new_columns
        row = self._rows.setdefault(step, {"step": str(step)})
        row.update({name: "" if isnan(value) else f"{float(value):.6g}" for name, value in metrics.items()})

    @rank_zero_only
    def resume(self, step: int) -> None:
        kept = {s: row for s, row in self._rows.items() if s <= step}
        self._stale, self._rows = self._stale or len(kept) < len(self._rows), kept

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the file; after a failed run a full disk raises no second error."""
        with suppress(*() if status == "success" else (UserError,)):
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write what the file lacks."""
        text = StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        if self._stale:
            writer.writeheader()
            writer.writerows(self._rows[step] for step in sorted(self._rows))
            write_text(self.path, text.getvalue())
        elif self._open is not None:
            writer.writerow(self._rows[self._open])
            self._stale = True  # until the whole line is there
            with translate_write_errors(self.path), self.path.open("a", newline="") as file:
                file.write(text.getvalue())
        self._open, self._stale = None, False
