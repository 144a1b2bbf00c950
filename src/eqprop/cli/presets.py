"""Names of the shipped configurations, without importing what they configure."""

from pathlib import Path

import eqprop

__all__ = ["preset_names"]


def preset_names() -> list[str]:
    """All names that `eqprop train` knows."""
    return sorted(path.stem for path in (Path(eqprop.__file__).parent / "train" / "presets").glob("*.toml"))
