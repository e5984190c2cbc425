"""Tables for the terminal."""

import numpy as np
import pytest

from segframe.cli.sweep import SweepRow
from segframe.visualization.tables import metrics_table, print_table, sweep_table

NAMES = ("background", "cat", "dog")
METRICS = {"val/miou": 0.458, "val/mean_accuracy": 0.625, "val/fwiou": 0.583, "val/pixel_accuracy": 0.7}


def test_metrics_table_marks_absent_classes(capsys):
    matrix = np.array([[6, 2, 0], [1, 1, 0], [0, 0, 0]])
    metrics = {"val/iou/background": 6 / 9, "val/iou/cat": 0.25, "val/iou/dog": float("nan"), **METRICS}
    print_table(metrics_table(metrics, matrix, NAMES, title="last validation"))
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[1]: line.replace("│", " ").split() for line in lines if line.startswith("│")}
    assert rows["background"] == ["background", "0.6667", "0.7500", "0.8000"]
    assert rows["dog"] == ["dog", "-", "-", "0.0000"]
    assert rows["mean"][-2:] == ["0.4580", "0.6250"]


def test_markup_in_names_is_printed_literally(capsys):
    names = ("x[/b]", "[red]cat", "a :car:")
    metrics = {f"val/iou/{name}": 1.0 for name in names} | METRICS
    print_table(metrics_table(metrics, np.eye(3, dtype=np.int64), names, title="runs/x[/y]/last.ckpt"))
    print_table(sweep_table([SweepRow({"[bold]": "[1,2]"}, folder="runs/[b]", error="no x[/z]")], "val/miou", "max"))
    out = capsys.readouterr().out
    for text in (*names, "runs/x[/y]/last.ckpt", "[bold]", "[1,2]", "no x[/z]"):
        assert text in out


@pytest.mark.parametrize(("mode", "order"), [("max", "bcad"), ("min", "cbad")])
def test_sweep_table_puts_the_best_first_and_failures_last(mode, order):
    rows = [
        SweepRow({"model": "a"}, {"val/miou": float("nan")}, 61.4, "runs/0"),
        SweepRow({"model": "b"}, {"val/miou": 0.7}, 75, "runs/1"),
        SweepRow({"optimizer.lr": "0.1", "model": "c"}, {"val/miou": 0.6}, 9, "runs/2"),
        SweepRow({"model": "d"}, error="out of memory"),
    ]
    table = sweep_table(rows, "val/miou", mode)
    assert [column.header for column in table.columns] == ["model", "optimizer.lr", "val/miou", "time", "folder"]
    assert "".join(table.columns[0].cells) == order
    assert list(table.columns[3].cells)[2] == "1:01"
    assert list(table.columns[4].cells)[-1] == "out of memory"


def test_sweep_table_without_the_metric_keeps_the_order():
    rows = [SweepRow({"model": name}, {"parameters": 9000}) for name in "ba"]
    table = sweep_table([*rows, SweepRow({"model": "c"}, error="unknown")], "val/miou", "max")
    assert [column.header for column in table.columns] == ["model", "parameters", "error"]
    assert list(table.columns[0].cells) == ["b", "a", "c"]
    assert list(table.columns[1].cells) == ["9,000", "9,000", "-"]
