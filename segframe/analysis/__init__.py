"""Analysis of networks and runs: summary, receptive field, replay of a diverged step, report."""

from segframe.analysis.html_report import HtmlReport

__all__ = ["HtmlReport"]
