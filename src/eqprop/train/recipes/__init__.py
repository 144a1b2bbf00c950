"""Recipes: one file per family of physics, from settings to an experiment.

A module here defines one final subclass of `Recipe`, with a literal `kind` and its `build`; that is all it takes to
train a new family from a configuration file.
"""

import importlib
import pkgutil

from eqprop.train.recipes.base import Recipe

__all__ = ["Recipe", "all_recipes"]


def all_recipes() -> tuple[type[Recipe], ...]:
    """The recipes of this folder, by name of their modules."""
    found = []
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        contents = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        found += [c for c in contents if isinstance(c, type) and issubclass(c, Recipe) and "kind" in c.model_fields]
    return tuple(dict.fromkeys(found))
