"""The tables of CamVid at an equal number of steps."""

import json
from pathlib import Path

import pytest
from conftest import composed

from benchmark import camvid_tables


@pytest.mark.parametrize("words", [words for table in camvid_tables.TABLES.values() for words in table.values()])
def test_rows_are_settings_of_one_recipe(words):
    config = composed("experiment=camvid_heads", *words)
    assert config.trainer.max_steps == 600


def test_only_runs_that_are_not_there_are_trained(tmp_path, monkeypatch, capsys):
    started = []

    def start(folder: Path, *words: str) -> None:
        started.append(words)
        (folder / "test").mkdir(parents=True, exist_ok=True)
        (folder / "test/metrics.json").write_text(json.dumps({"test/miou": 0.5, "test/mean_boundary_iou": 0.25}))

    monkeypatch.setattr(camvid_tables, "start", start)
    for _ in range(2):
        camvid_tables.main(Path("camvid"), "losses", tmp_path, ["focal"])
    assert [words[0] for words in started] == ["train.py", "scripts/evaluate.py"]
    assert "loss=focal" in started[0]
    assert capsys.readouterr().out.count("0.500") == 2
