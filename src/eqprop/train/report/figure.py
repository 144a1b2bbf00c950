"""Panels: matplotlib drawings as inline SVG that take their colours from the page, light or dark, and load nothing.

Drawings use the colours named here. They are placeholders: in the SVG each becomes a variable of the page's style
sheet. Panels are as wide as a phone; the page sets several side by side where there is room.
"""

import base64
import io
import re
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

__all__ = ["GRID", "INK", "MUTED", "SERIES", "SHADE", "drawing", "image", "log_axis", "mosaic", "panel", "signed"]

INK, MUTED, GRID, SHADE = "#000101", "#000102", "#000103", "#000104"
SERIES = ("#000111", "#000112", "#000113", "#000114")
"""Colours of the first, second, ... curve."""

_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SHADE: "shade"} | {
    colour: f"series-{index}" for index, colour in enumerate(SERIES, start=1)
}
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.labelcolor": MUTED,
}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def panel(
    draw: Callable[[Axes], None], *, name: str, describe: str, size: tuple[float, float] = (3.8, 2.6), decimals: int = 2
) -> str:
    """One pair of axes as an SVG element.

    Args:
        draw: Draws on the axes it is given.
        name: Begins all ids inside; no other panel of the page may have it.
        describe: What the drawing shows, for those who cannot see it.
        size: Width and height. [inch]
        decimals: Kept of coordinates; fewer make a smaller page.
    """
    return drawing(lambda f: draw(f.add_subplot()), name=name, describe=describe, size=size, decimals=decimals)


def drawing(
    draw: Callable[[Figure], None], *, name: str, describe: str, size: tuple[float, float], decimals: int = 2
) -> str:
    """A drawing as an SVG element.

    Args:
        draw: Draws on the figure it is given.
        name: Begins all ids inside; no other panel of the page may have it.
        describe: What the drawing shows, for those who cannot see it.
        size: Width and height. [inch]
        decimals: Kept of coordinates; fewer make a smaller page.
    """
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(stream.getvalue(), name, describe, decimals)


def _inline(svg, name, describe, decimals):
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    # Namespaces are implied inside HTML.
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]*)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    # The page's own letters, in the size of the drawing.
    svg = re.sub(r"font: ((?:\d+ )?[\d.]+px) [^;\"]*", r"font: \1 var(--letters)", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--letters)", svg)
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.{decimals}f}", svg)
    svg = re.sub(r'<svg\s[^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg role="img" aria-label="{_escaped(describe)}" \1>', svg)
    return re.sub(r"<!--.*?-->|(?<=>)\s+(?=<(?!tspan))", "", svg, flags=re.DOTALL).strip()


def _escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def log_axis(axes: Axes, which: str) -> None:
    """A logarithmic axis labelled by powers of ten; a few where it spans many.

    Args:
        axes: The axes.
        which: "x" or "y".
    """
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    locator = axis.get_major_locator()
    assert isinstance(locator, LogLocator)
    locator.set_params(numticks=6)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))


def _power(value):
    exponent = np.log10(value) if value > 0 else 0.0
    whole = round(exponent)
    if abs(exponent - whole) > 1e-6:
        return f"{value:.2g}"
    return f"{value:g}" if -2 <= whole <= 2 else "10" + str(whole).translate(_SUPERSCRIPT)


def image(pixels: UInt8[np.ndarray, "row column *channel"], *, describe: str, kind: str = "") -> str:
    """Pixels as an `<img>` that carries its data; enlarged without blurring.

    Args:
        pixels: Grey, RGB or RGBA.
        describe: What it shows, for those who cannot see it.
        kind: Class of the style sheet; "ink" is inverted on a dark page.
    """
    stream = io.BytesIO()
    pixels = np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels
    imsave(stream, pixels, format="png", metadata={"Software": None})
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img class="pixels {kind}" alt="{_escaped(describe)}" src="data:image/png;base64,{data}"/>'


def signed(values: Float[np.ndarray, "..."], limit: float) -> UInt8[np.ndarray, "... 4"]:
    """Signed numbers as colours: zero transparent, positive red, negative blue, full at `limit`."""
    strength = np.clip(np.abs(values) / max(limit, 1e-300), 0, 1)
    colour = np.where(values[..., None] > 0, np.array([214, 69, 65]), np.array([52, 120, 214]))
    return np.concatenate([colour, 255 * strength[..., None]], axis=-1).round().astype(np.uint8)


def mosaic(
    tiles: UInt8[np.ndarray, "tile row column channel"], columns: int
) -> UInt8[np.ndarray, "height width channel"]:
    """Tiles in rows, one empty pixel between them; needs a channel of opacity."""
    count, height, width, channels = tiles.shape
    rows = -(-count // columns)
    whole = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * (height + 1), (index % columns) * (width + 1)
        whole[top : top + height, left : left + width] = tile
    return whole
