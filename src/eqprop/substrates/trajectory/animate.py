"""Moving pictures of trajectories: one self-contained SVG, animated by itself, without scripts.

Each coordinate is a curve over time, the free path drawn through and the nudged one dashed, with a point that runs
along them. It goes into a report or a web page as it is.
"""

from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np
from jaxtyping import Float

__all__ = ["animate"]

_COLOURS = ("#1b6ca8", "#c8553d", "#4b8f5c", "#8a5aa8", "#b8892b", "#3f9b9b")
_WIDTH, _HEIGHT, _MARGIN = 560.0, 260.0, 34.0


def animate(
    free: Float[np.ndarray, "..."],
    nudged: Float[np.ndarray, "..."] | None = None,
    *,
    times: Float[np.ndarray, " time"] | None = None,
    names: Sequence[str] | None = None,
    magnify: float = 1.0,
    seconds: float = 6.0,
    title: str = "",
) -> str:
    """Draw a free path, and a nudged one on top of it.

    Args:
        free: Positions of the free path, [time, coordinate].
        nudged: Positions of the nudged path.
        times: Time of each point [s]; counted by default.
        names: Of the coordinates.
        magnify: The displacement of the nudged path is drawn so many times larger; nudges are small.
        seconds: Duration of the animation. [s]
        title: Above the picture, and its description for readers who do not see it.

    Returns:
        The SVG, as text.

    Raises:
        ValueError: for paths that are not finite, too short, or of different shapes.
    """
    free = np.asarray(free, float)
    if free.ndim != 2 or len(free) < 2 or not np.isfinite(free).all():
        raise ValueError(f"`free` must be finite, [time, coordinate], at least two times; got shape {free.shape}.")
    if nudged is not None:
        nudged = np.asarray(nudged, float)
        if nudged.shape != free.shape or not np.isfinite(nudged).all():
            raise ValueError(f"`nudged` must be finite and of the free path's shape {free.shape}; got {nudged.shape}.")
        nudged = free + magnify * (nudged - free)
    times = np.arange(len(free), dtype=float) if times is None else np.asarray(times, float)
    names = [f"q{k}" for k in range(free.shape[1])] if names is None else list(names)
    place = _scale(times, free if nudged is None else np.concatenate([free, nudged]))
    parts = [_frame(times, title)]
    for k in range(free.shape[1]):
        colour = _COLOURS[k % len(_COLOURS)]
        parts.append(_curve(place(times, free[:, k]), colour, seconds, dashed=False))
        if nudged is not None:
            parts.append(_curve(place(times, nudged[:, k]), colour, seconds, dashed=True))
        parts.append(
            f'<text x="{_WIDTH - _MARGIN + 4:.0f}" y="{_MARGIN + 14 * k:.0f}" fill="{colour}" font-size="11">'
            f"{escape(str(names[k]))}</text>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" '
        f'font-family="sans-serif"><title>{escape(title or "A trajectory")}</title>{"".join(parts)}</svg>'
    )


def _scale(times, values):
    low, high = float(values.min()), float(values.max())
    span, duration = (high - low) or 1.0, float(times[-1] - times[0]) or 1.0

    def place(t, q):
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * (t - times[0]) / duration
        y = _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (q - low) / span
        return np.stack([x, y], axis=1)

    return place


def _frame(times, title):
    bottom = _HEIGHT - _MARGIN
    return (
        f'<line x1="{_MARGIN}" y1="{bottom}" x2="{_WIDTH - _MARGIN}" y2="{bottom}" stroke="#999"/>'
        f'<text x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 8:.0f}" text-anchor="middle" font-size="11" fill="#555">'
        f"time {times[0]:.3g} to {times[-1]:.3g}</text>"
        f'<text x="{_MARGIN}" y="18" font-size="13" fill="#222">{escape(title)}</text>'
    )


def _curve(points, colour, seconds, *, dashed):
    # At most 400 points: no screen shows more, and a report holds many pictures.
    points = points[np.unique(np.linspace(0, len(points) - 1, 400).astype(int))]
    way = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    # The points are even in time, so the dot moves along them with key points of its own, not along the curve's length.
    xs, ys = (";".join(f"{value:.1f}" for value in column) for column in points.T)
    timing = f'dur="{seconds:g}s" repeatCount="indefinite" calcMode="linear"'
    fill = "none" if dashed else colour
    return (
        f'<path d="{way}" fill="none" stroke="{colour}" stroke-width="1.4" opacity="{0.7 if dashed else 1}"{dash}/>'
        f'<circle r="4" fill="{fill}" stroke="{colour}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}">'
        f'<animate attributeName="cx" values="{xs}" {timing}/>'
        f'<animate attributeName="cy" values="{ys}" {timing}/></circle>'
    )
