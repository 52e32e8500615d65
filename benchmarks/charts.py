"""Draw the tables of docs/performance.md: docs/images/performance-*.png, one dot for each library and shape.

    python benchmarks/charts.py

Each picture contains the figures it was drawn from, so that a test fails when a table has changed. The README's tables,
one for each processor, are written too.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
#: {the end of a picture's name: heading of the processor's section}; the overview shows the first
PROCESSORS = {"zen3": "AMD EPYC, Zen 3", "zen5": "AMD EPYC, Zen 5, before explicit vectors"}
#: {the beginning of a picture's name: heading of the section whose first table it shows}
SECTIONS = {"forward": "Forward", "step": "One step at a time", "training": "Forward and backward"}
#: a picture of a few rows of each section
OVERVIEW = {
    "forward": ("1x100x32x32", "1x100x64x64", "4x50x128x128", "32x50x256x256"),
    "step": ("1x1x32x32", "1x1x128x128"),
    "training": ("16x50x32x64", "32x50x256x256"),
}
PICTURES = ("overview", *(f"{kind}-{processor}" for processor in PROCESSORS for kind in SECTIONS))
#: rows of the README's tables: (name, heading, threads, shapes); a heading that a processor lacks is left out
SUMMARY = (
    ("forward", "Forward", 1, ("1x100x32x32", "1x100x64x64", "4x50x128x128", "32x50x256x256")),
    ("forward", "Threads", 2, ("1x100x128x128", "32x50x256x256")),
    ("one step", "One step at a time", 1, ("1x1x32x32", "1x1x128x128")),
    ("forward + backward", "Forward and backward", 1, ("16x50x32x64", "32x50x256x256")),
)
SUMMARISED = ("lstm_cy", "NumPy", "PyTorch", "ONNX Runtime", "OpenVINO")
#: where the README has it
MARKS = "<!-- figures of docs/performance.md, written by benchmarks/charts.py -->\n", "<!-- end of the figures -->\n"
COLOURS = {
    "NumPy": "#9a9a9a",
    "PyTorch": "#d9534f",
    "ONNX Runtime": "#3a76b8",
    "OpenVINO": "#7a5195",
    "TensorFlow": "#e8a33d",
    "JAX": "#4c9f70",
    "ncnn": "#8c564b",
    "tract": "#17a2b8",
    "MNN": "#bcbd22",
}


def path(picture):
    """Return the path of a picture."""
    return ROOT / "docs" / "images" / f"performance-{picture}.png"


def ratios(picture):
    """Return {row: {library: its time / ours}}: the numbers in brackets."""
    if picture == "overview":
        tables = {kind: ratios(f"{kind}-{next(iter(PROCESSORS))}") for kind in OVERVIEW}
        return {f"{kind}, {shape}": tables[kind][shape] for kind, shapes in OVERVIEW.items() for shape in shapes}
    kind, processor = picture.split("-")
    table = {}
    for shape, cells in table_of(processor, SECTIONS[kind]).items():
        found = {library: re.search(r"\((.*)\)", cells[library]) for library in COLOURS if library in cells}
        table[shape] = {library: float(match[1]) for library, match in found.items() if match}
    return table


def section_of(processor):
    """Return the text of a processor's section of docs/performance.md."""
    return PAGE.read_text().split(f"\n## {PROCESSORS[processor]}\n")[1].split("\n## ")[0]


def table_of(processor, heading):
    """Return {shape: {library: cell}} of the first table with times of lstm_cy under a heading; None without it.

    Columns are named by the library; those of narrow products are left out.
    """
    section = section_of(processor)
    if f"\n### {heading}\n" not in section:
        return None
    section = section.split(f"\n### {heading}\n")[1].split("\n### ")[0]
    for text in re.findall(r"(?:^\|.*\|\n)+", section, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
        head = [name.removesuffix(" float32") for name in head]
        if "lstm_cy" in head:
            return {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    raise ValueError(f"{PAGE.name}: expected a table with a column lstm_cy under {heading!r}")


def summary():
    """Return the README's tables: medians on the processors of docs/performance.md."""
    lines = []
    for processor, title in PROCESSORS.items():
        lines += [f"| {title} | threads | {' | '.join(SUMMARISED)} |", f"|---|{'--:|' * (1 + len(SUMMARISED))}"]
        for name, heading, threads, shapes in SUMMARY:
            table = table_of(processor, heading)
            for shape in shapes if table else ():
                times = [re.match(r"[\d.]*", table[shape].get(library, ""))[0] for library in SUMMARISED]
                lines.append(f"| {name}, {shape} | {threads} | **{times[0]}** | {' | '.join(times[1:])} |")
        lines.append("")
    shapes = "Shapes are batch x steps x inputs x hidden units."
    return "\n".join([*lines, f"Medians in microseconds; every library in float32. {shapes}"]) + "\n"


def write_summary():
    """Write the README's tables between their marks."""
    begin, end = MARKS
    before, rest = README.read_text().split(begin)
    README.write_text(before + begin + summary() + end + rest.split(end)[1])


def chart(picture):
    """Return a picture as a matplotlib Figure."""
    from matplotlib.figure import Figure

    table = ratios(picture)
    figure = Figure(figsize=(9, 1.3 + 0.27 * len(table)), layout="constrained")
    axes = figure.subplots()
    for library, colour in COLOURS.items():
        points = [(row[library], place) for place, row in enumerate(table.values()) if library in row]
        if points:
            axes.scatter(*zip(*points, strict=True), s=42, color=colour, label=library, zorder=3)
    axes.axvline(1, color="black", linewidth=1.2, label="lstm_cy")
    axes.set_xscale("log")
    axes.set_xlim(min(0.8, 0.9 * min(value for row in table.values() for value in row.values())))
    low, high = axes.get_xlim()
    ticks = [tick for tick in (0.5, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if low < tick < high]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(table)), table)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.grid(color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    kind, _, processor = picture.partition("-")
    processor = processor or next(iter(PROCESSORS))
    begin = f"{SECTIONS[kind]}: t" if kind in SECTIONS else "T"
    title = f"{begin}ime of the others, over that of lstm_cy ({PROCESSORS[processor]})"
    axes.set_title(title, loc="left", fontsize=11)
    figure.legend(loc="outside lower center", fontsize=9, ncols=7, frameon=False)
    return figure


def main():
    write_summary()
    for picture in PICTURES:
        chart(picture).savefig(path(picture), dpi=110, metadata={"Description": json.dumps(ratios(picture))})


if __name__ == "__main__":
    main()
