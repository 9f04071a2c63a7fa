"""The report's drawings as inline SVG: learning curves, confusion, reliability. Text stays text, equal data gives equal bytes."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

INK, FAINT, LINE, ACCENT, SECOND = "#22303c", "#6b7a87", "#dfe5ea", "#1f6f78", "#b4632a"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "attune",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.color": INK,
    "legend.frameon": False,
}


def _svg(figure: Any, name: str) -> str:
    """The figure as an <svg> element that takes the width it is given."""
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, transparent=True)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{name}" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">', svg, count=1
    )
    return re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{re.sub('[^a-z]', '', name.lower())}-", svg)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def curves(curve: Sequence[dict[str, float]], best_step: int, main_metric: str) -> list[str]:
    """Loss on training and validation rows, and the main metric on validation rows, over the optimizer steps; [] without a curve."""
    import matplotlib as mpl
    from matplotlib.ticker import MaxNLocator

    panels = [
        ("Loss", [("loss", "training", SECOND), ("validation_loss", "validation", ACCENT)]),
        (f"{main_metric.replace('_', ' ')} on validation rows".capitalize(), [(f"validation_{main_metric}", "validation", ACCENT)]),
    ]
    found = []
    with mpl.rc_context(STYLE):
        for title, lines in panels:
            figure = _figure(4.3, 2.7)
            axes = figure.add_subplot()
            drawn = [_line(axes, curve, *line) for line in lines]
            if not any(drawn):
                continue
            axes.axvline(best_step, color=FAINT, linewidth=1, linestyle=(0, (3, 3)))
            axes.annotate("kept", (best_step, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=9, color=FAINT)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
            axes.set_title(title, pad=18)  # room for the mark below it, where no curve can touch it
            axes.set_xlabel("optimizer steps")
            if sum(drawn) > 1:
                axes.legend(fontsize=9, loc="best")
            found.append(_svg(figure, title))
    return found


def _line(axes: Any, curve: Sequence[dict[str, float]], name: str, label: str, color: str) -> bool:
    points = [(point["step"], point[name]) for point in curve if name in point and "step" in point]
    if not points:
        return False
    axes.plot(*zip(*points, strict=True), color=color, linewidth=1.8, marker="o", markersize=3.5, label=label)
    return True


def confusion(counts: np.ndarray, labels: Sequence[str]) -> str:
    """Heat map of counts [truth, answer]: shade is the share of the truth's rows, numbers are rows."""
    import matplotlib as mpl

    size = len(labels)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = _figure(min(1.9 + 0.36 * size, 8.6), min(1.6 + 0.34 * size, 8.2))
        axes = figure.add_subplot()
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        # Rectangles, not an image: an image would be embedded bytes, and the page forbids those.
        axes.pcolormesh(shares, cmap=_shades(), vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
        axes.invert_yaxis()
        for i, j in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[i, j] > 0.55 else SECOND if i != j else INK
            axes.text(j + 0.5, i + 0.5, str(int(counts[i, j])), ha="center", va="center_baseline", fontsize=8.5, color=color, weight="bold" if i != j else "normal")
        short = [_short(label) for label in labels]
        axes.set_xticks(np.arange(size) + 0.5, short, rotation=55, ha="right", rotation_mode="anchor", fontsize=8.5)
        axes.set_yticks(np.arange(size) + 0.5, short, fontsize=8.5)
        axes.tick_params(which="both", length=0)
        axes.set_xlabel("the model said")
        axes.set_ylabel("it was")
        axes.spines[:].set_visible(False)
        return _svg(figure, "Confusion")


def _shades() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("calm", ["#f4f7f8", "#a9ccce", ACCENT])


def _short(label: str, most: int = 24) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> str:
    """Share of right answers against stated confidence, in bins with at least one row; the size of a dot is its rows."""
    import matplotlib as mpl

    places = np.minimum((confidence * bins).astype(int), bins - 1)
    filled = [b for b in range(bins) if (places == b).any()]
    means = [float(confidence[places == b].mean()) for b in filled]
    shares = [float(right[places == b].mean()) for b in filled]
    sizes = np.array([(places == b).sum() for b in filled])
    with mpl.rc_context(STYLE):
        figure = _figure(4.3, 2.9)
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (3, 3)))
        axes.plot(means, shares, color=ACCENT, linewidth=1.2, alpha=0.5)
        axes.scatter(means, shares, s=18 + 180 * sizes / sizes.max(), color=ACCENT, alpha=0.85, linewidths=0, zorder=3)
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.05)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        axes.set_xticks(ticks, [f"{t:.0%}" for t in ticks])
        axes.set_yticks(ticks, [f"{t:.0%}" for t in ticks])
        axes.set_xlabel("stated confidence")
        axes.set_ylabel("right answers")
        return _svg(figure, "Reliability")
