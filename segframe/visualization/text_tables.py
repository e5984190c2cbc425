"""Tables of text for the terminal, Markdown and LaTeX."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from segframe.visualization.tables import empty_table

LATEX_SIGNS = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
LATEX_SIGNS |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


class TextTable(NamedTuple):
    """A table whose first column holds names, and all others figures."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def for_terminal(self) -> Table:
        table = empty_table(self.header, self.title)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Return the table in GitHub's Markdown, with its title above."""
        lines = [self.header, ["---", *("---:" for _ in self.header[1:])], *self.rows]
        rows = ["| " + " | ".join(re.sub(r"([|*_\\])", r"\\\1", cell) for cell in row) + " |\n" for row in lines]
        return f"{self.title}\n\n{''.join(rows)}"

    def latex(self) -> str:
        """Return the table as a tabular of LaTeX's package booktabs, with its title in a comment."""
        lines = [" & ".join(map(latex, row)) + r" \\" for row in (self.header, *self.rows)]
        body = "\n".join([r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"])
        columns = "l" + "r" * (len(self.header) - 1)
        return f"% {self.title}\n\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n"


def latex(text: str) -> str:
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)
