"""The tables of CamVid at an equal number of steps."""

import json
from pathlib import Path

import pytest
from conftest import composed

from benchmark import camvid_tables
from benchmark.row import Setup


@pytest.mark.parametrize("words", [words for table in camvid_tables.TABLES.values() for words in table.values()])
def test_rows_are_settings_of_one_recipe(words):
    config = composed("experiment=camvid_heads", *words)
    assert config.trainer.max_steps == 600


def test_only_rows_without_results_are_trained(tmp_path, monkeypatch, capsys):
    started = []

    def start(folder: Path, *words: str) -> None:
        started.append(words)
        (folder / "test").mkdir(parents=True, exist_ok=True)
        (folder / "test/metrics.json").write_text(json.dumps({"test/miou": 0.5, "test/mean_boundary_iou": 0.25}))

    monkeypatch.setattr(camvid_tables, "start", start)
    for _ in range(2):
        camvid_tables.main(camvid_tables.parse(["camvid", "losses", str(tmp_path), "focal"]))
    assert [words[0] for words in started] == ["train.py", "scripts/evaluate.py"]
    assert "loss=focal" in started[0]
    assert capsys.readouterr().out.count("0.500") == 2


def test_costs(trained, monkeypatch):
    monkeypatch.setattr(Setup, "rounds", 1)
    parameters, gflops, milliseconds = camvid_tables.costs({"a row": trained})["a row"]
    assert int(parameters.replace(",", "")) > 0
    assert float(gflops) > 0
    assert float(milliseconds) > 0
