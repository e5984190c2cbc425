"""segframe compared with other projects on the same work: `python scripts/benchmark`."""
