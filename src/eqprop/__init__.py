"""Equilibrium propagation: train any physical system that minimises a scalar.

The names are those of `eqprop.public`. They are loaded at the first use of one, so that the command line can
answer `--help` without waiting for JAX.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eqprop.public import *  # noqa: F403


class _Package(ModuleType):
    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        public = importlib.import_module("eqprop.public")
        if name not in public.__all__:
            raise AttributeError(f"module `eqprop` has no `{name}`; it has: {', '.join(public.__all__)}.")
        for public_name in public.__all__:
            self.__dict__[public_name] = getattr(public, public_name)
        return self.__dict__[name]

    def __setattr__(self, name: str, value: object) -> None:
        # Importing the subpackage `settle` would bind it here, over the function of that name.
        if not (name == "settle" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *importlib.import_module("eqprop.public").__all__})


sys.modules[__name__].__class__ = _Package
