import numpy as np
import pytest

from segframe.visualization.overlays import VOID, colorize, comparison, confusion_picture, legend, overlay
from segframe.visualization.tables import SweepRow, metrics_table, print_table, sweep_table

NAMES = ("background", "cat", "dog")
PALETTE = ((0, 0, 0), (200, 10, 10), (10, 10, 200))


def test_colorize_gives_each_class_its_color_and_void_light_grey() -> None:
    colors = colorize(np.array([[0, 1], [2, 255]], dtype=np.uint8), PALETTE)
    assert colors.dtype == np.uint8
    assert colors.tolist() == [[[0, 0, 0], [200, 10, 10]], [[10, 10, 200], list(VOID)]]


def test_overlay_mixes_without_wrapping_around() -> None:
    image = np.full((2, 2, 3), 250, dtype=np.uint8)
    classes = np.full((2, 2), 1, dtype=np.uint8)
    assert overlay(image, classes, PALETTE, alpha=0.0).tolist() == image.tolist()
    assert overlay(image, classes, PALETTE, alpha=0.5)[0, 0].tolist() == [225, 130, 130]


def test_legend_wraps_and_names_void() -> None:
    wide, narrow = legend(NAMES, PALETTE, [0, 1, 255], 600), legend(NAMES, PALETTE, [0, 1, 255], 130)
    assert wide.shape[1] == 600
    assert narrow.shape[1] == 130
    assert narrow.shape[0] > wide.shape[0]
    for color in (*PALETTE[:2], VOID):
        assert (wide == np.array(color, dtype=np.uint8)).all(-1).any()
    assert not (wide == np.array(PALETTE[2], dtype=np.uint8)).all(-1).any()


@pytest.mark.parametrize("size", [(32, 48), (375, 500), (1024, 2048), (65, 33)])
def test_comparison_is_readable_at_any_size(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    truth = np.zeros(size, dtype=np.uint8)
    truth[:5] = 255
    picture = comparison(image, truth, np.ones_like(truth), NAMES, PALETTE)
    assert picture.dtype == np.uint8
    assert 256 < picture.shape[0] < 700
    assert picture.shape[1] > 3 * 130


def test_comparison_shows_the_three_panels_in_order() -> None:
    image = np.full((300, 300, 3), 100, dtype=np.uint8)
    truth, prediction = np.full((300, 300), 1, dtype=np.uint8), np.full((300, 300), 2, dtype=np.uint8)
    row = comparison(image, truth, prediction, NAMES, PALETTE)[200]
    assert [row[x].tolist() for x in (150, 456, 762)] == [[100, 100, 100], [150, 55, 55], [55, 55, 150]]


def test_confusion_picture_colors_by_row_and_greys_absent_classes() -> None:
    matrix = np.array([[10, 0, 0], [0, 0, 10], [0, 0, 0]])
    picture = confusion_picture(matrix, NAMES)
    below, right = np.argwhere((picture == VOID).all(-1)).max(axis=0)
    cells = picture[below - 170 : below : 80, right - 170 : right : 80]
    assert (cells[2] == VOID).all()
    assert cells[0, 0].tolist() == cells[1, 2].tolist() == [8, 48, 107]
    assert cells[0, 1].tolist() == [250, 252, 255]


def test_confusion_picture_of_many_classes_stays_small() -> None:
    picture = confusion_picture(np.eye(150, dtype=np.int64), [f"class {k}" for k in range(150)])
    assert max(picture.shape) < 2500


def test_figures_table_marks_absent_classes(capsys: pytest.CaptureFixture[str]) -> None:
    matrix = np.array([[6, 2, 0], [1, 1, 0], [0, 0, 0]])
    metrics = {"val/iou/background": 6 / 9, "val/iou/cat": 0.25, "val/iou/dog": float("nan"), "val/miou": 0.458}
    metrics |= {"val/mean_accuracy": 0.625, "val/fwiou": 0.583, "val/pixel_accuracy": 0.7}
    print_table(metrics_table(metrics, matrix, NAMES, title="last validation"))
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[1]: line.replace("│", " ").split() for line in lines if line.startswith("│")}
    assert rows["background"] == ["background", "66.67", "75.00", "80.00"]
    assert rows["dog"] == ["dog", "-", "-", "0.00"]
    assert rows["mean"][-2:] == ["45.80", "62.50"]


def test_tables_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("x[/b]", "[red]cat", "a :car:")
    metrics = {f"val/iou/{name}": 1.0 for name in names} | dict.fromkeys(("val/miou", "val/mean_accuracy"), 1.0)
    metrics |= {"val/fwiou": 1.0, "val/pixel_accuracy": 1.0}
    print_table(metrics_table(metrics, np.eye(3, dtype=np.int64), names, title="runs/x[/y]/last.ckpt"))
    print_table(sweep_table([SweepRow({"[bold]": "[1,2]"}, folder="runs/[b]", error="no x[/z]")]))
    told = capsys.readouterr().out
    for text in (*names, "runs/x[/y]/last.ckpt", "[bold]", "[1,2]", "no x[/z]"):
        assert text in told


@pytest.mark.parametrize(("mode", "order"), [("max", "bcad"), ("min", "cbad")])
def test_sweep_table_puts_the_best_first_and_failures_last(mode: str, order: str) -> None:
    rows = [
        SweepRow({"model": "a"}, {"val/miou": float("nan")}, 61.4, "runs/0"),
        SweepRow({"model": "b"}, {"val/miou": 0.7}, 75, "runs/1"),
        SweepRow({"optimizer.lr": "0.1", "model": "c"}, {"val/miou": 0.6}, 9, "runs/2"),
        SweepRow({"model": "d"}, error="out of memory"),
    ]
    table = sweep_table(rows, mode=mode)
    assert [column.header for column in table.columns] == ["model", "optimizer.lr", "val/miou", "time", "folder"]
    assert "".join(table.columns[0].cells) == order
    assert list(table.columns[3].cells)[2] == "1:01"
    assert list(table.columns[4].cells)[-1] == "out of memory"


def test_sweep_table_puts_the_lowest_loss_first() -> None:
    rows = [SweepRow({"model": name}, {"val/loss": loss}) for name, loss in (("a", 0.5), ("b", 0.1), ("c", 0.9))]
    assert "".join(sweep_table(rows, "val/loss").columns[0].cells) == "bac"
    assert "".join(sweep_table(rows, "val/loss", "auto").columns[0].cells) == "bac"
