"""Make report.html of a run: one page with its settings, curves, metrics with intervals, and images."""

from segframe.cli.main import run

if __name__ == "__main__":
    run("report")
