"""A figure as the program that makes it: the data, the numbers, the chart, the file."""

from __future__ import annotations

import altair as alt

from lens.figures.printing import Kind, Print
from lens.recipe.program import plain_text, program
from lens.version import version


def figure_program(
    chart: alt.TopLevelMixin, kind: Kind, how: Print, *, file: str, note: str = ""
) -> str:
    """Python that makes the figure from its data and saves it; runs where this project is.

    Args:
        chart: made by `lens.figures`.
        kind: of the file.
        how: the size of the figure and what stands on it.
        file: name of the file.
        note: where its numbers come from, kept inside the file.

    Raises:
        LensError: it isn't known how something in the figure was made.
    """
    save, needed = plain_text(how)
    end = [
        f"how = {save}",
        f"note = {plain_text(note)[0]}",
        f'Path({plain_text(file)[0]}).write_bytes(printed(chart, "{kind}", how, note))',
    ]
    imports = ["from pathlib import Path", "from lens.figures.printing import printed", *needed]
    return f"# Grok MoE Lens {version()}\n" + program(chart, end=end, imports=imports)
