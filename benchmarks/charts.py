"""Draw the tables of docs/performance.md: docs/images/performance-*.png, one dot for each library and shape.

    python benchmarks/charts.py

Each picture carries the figures it was drawn from, so that a test can tell when a table has moved on.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
#: {picture: heading of the section whose first table it shows}
SECTIONS = {"forward": "Forward", "step": "One step at a time", "training": "Forward and backward"}
TITLES = {
    "forward": "Forward: time of the others, over that of lstm_cy",
    "step": "One step at a time: time of the others, over that of lstm_cy",
    "training": "Forward and backward: time of the others, over that of lstm_cy",
}
COLOURS = {
    "NumPy": "#9a9a9a",
    "PyTorch": "#d9534f",
    "ONNX Runtime": "#3a76b8",
    "OpenVINO": "#7a5195",
    "TensorFlow": "#e8a33d",
    "JAX": "#4c9f70",
}


def picture(name):
    """Where the picture of that name is kept."""
    return ROOT / "docs" / "images" / f"performance-{name}.png"


def ratios(name):
    """{shape: {library: its time over ours}} of a section's first table: the numbers in brackets."""
    section = PAGE.read_text().split(f"\n## {SECTIONS[name]}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\|(.*)\|$", section, re.MULTILINE)
    head, _, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    table = {}
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        found = {library: re.search(r"\((.*)\)", cells[library]) for library in COLOURS if library in cells}
        table[row[0]] = {library: float(match[1]) for library, match in found.items() if match}
    return table


def chart(name):
    """The picture of a section, a matplotlib Figure."""
    from matplotlib.figure import Figure

    table = ratios(name)
    figure = Figure(figsize=(9, 1.3 + 0.27 * len(table)), layout="constrained")
    axes = figure.subplots()
    for library, colour in COLOURS.items():
        points = [(row[library], place) for place, row in enumerate(table.values()) if library in row]
        if points:
            axes.scatter(*zip(*points, strict=True), s=42, color=colour, label=library, zorder=3)
    axes.axvline(1, color="black", linewidth=1.2, label="lstm_cy")
    axes.set_xscale("log")
    axes.set_xlim(0.8)
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if tick < axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(table)), table)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.grid(color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(TITLES[name], loc="left", fontsize=11)
    axes.legend(loc="lower right", fontsize=9)
    return figure


def main():
    for name in SECTIONS:
        chart(name).savefig(picture(name), dpi=110, metadata={"Description": json.dumps(ratios(name))})


if __name__ == "__main__":
    main()
