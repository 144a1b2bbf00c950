"""Engineering notation: `"4.7k"`, `"10u"`, `"1meg"`, with or without a unit."""

import math
import re

import numpy as np
from jaxtyping import Array

__all__ = ["engineering", "number"]

_PREFIXES = {
    "f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "": 1.0,
    "k": 1e3, "K": 1e3, "M": 1e6, "meg": 1e6, "G": 1e9, "T": 1e12,
}  # fmt: skip
_PATTERN = re.compile(
    r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(meg|[fpnuµμmkKMGT]?)\s*(?:Ω|[oO]hms?|V|A|S|F|W|s|K)?\s*",
)


def number(value: float | int | str | np.ndarray | np.generic | Array) -> float | int | np.ndarray | np.generic | Array:
    """A value in SI units, from a number or from engineering notation.

    Prefixes are those of SI (`m` is milli, `M` is mega), and `meg`, mega, as in SPICE.

    Args:
        value: Such as `4700`, `"4.7k"`, `"10 uA"`; arrays are returned as they are.

    Raises:
        ValueError: for text that is no number with a prefix.

    Example:
        >>> number("4.7k"), number("1meg"), number("5 mS")
        (4700.0, 1000000.0, 0.005)
    """
    if not isinstance(value, str):
        return value
    match = _PATTERN.fullmatch(value)
    if match is None:
        raise ValueError(
            f'"{value}" is no value in engineering notation; write such as "4.7k", "10u", "1meg", "2.5e-3".'
        )
    digits, prefix = match.groups()
    exponent = round(math.log10(_PREFIXES[prefix]))
    # Through text, so that "10u" is the float nearest to 1e-5 and not 10 times the one nearest to 1e-6.
    mantissa, _, own = digits.lower().partition("e")
    return float(f"{mantissa}e{int(own or 0) + exponent}")


def engineering(value: float | int, unit: str = "", *, digits: int = 3) -> str:
    """A value with an SI prefix, for people.

    Example:
        >>> engineering(4700.0, "Ω"), engineering(2.5e-5, "A")
        ('4.7 kΩ', '25 µA')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}".rstrip()
    power = min(max(3 * math.floor(math.log10(abs(value)) / 3), -15), 12)
    scaled = float(f"{value / 10.0**power:.{digits}g}")
    if abs(scaled) >= 1000 and power < 12:
        power, scaled = power + 3, scaled / 1000
    prefix = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}[power]
    return f"{scaled:g} {prefix}{unit}".rstrip()
