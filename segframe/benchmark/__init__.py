"""segframe and its peers side by side, on the same work, in turns: `scripts/benchmark.py`."""
