"""The notebook of the documentation runs, and shows what its text says."""

import re

import pytest
from conftest import ROOT

CELL = re.compile(r"^```\{code-cell\} python\n(?::tags:[^\n]*\n\n)?(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's client
def test_the_notebook_runs_and_shows_pictures(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs pip install segframe[docs]")
    nbclient = pytest.importorskip("nbclient", reason="needs pip install segframe[docs]")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = (ROOT / "docs/notebook.md").read_text()
    cells = [nbformat.v4.new_code_cell(code) for code in CELL.findall(text)]
    assert len(cells) == text.count("{code-cell}") > 5
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    shown = [output.data for output in outputs if output.output_type in ("display_data", "execute_result")]
    assert sum("image/png" in data for data in shown) == 2
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "modle is not a setting; did you mean model?" in printed
    assert any("mean over classes" in data["text/plain"] for data in shown)
    assert (tmp_path / "runs/notebook/checkpoints/best.ckpt").is_file()
