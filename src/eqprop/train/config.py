"""Configurations: TOML files, checked strictly, with overrides from the command line."""

import difflib
import importlib.metadata
import math
import platform
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Union

import jax
from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError

from eqprop.train.experiment import Experiment
from eqprop.train.optimise import OptimiserSettings
from eqprop.train.recipes import Recipe, all_recipes
from eqprop.train.settings import DataSettings, Settings

__all__ = ["Config", "ConfigError", "load_config", "presets", "to_toml", "versions"]

_RECIPES = all_recipes()
if typing.TYPE_CHECKING:

    class AnyRecipe(Recipe):
        """What all recipes have in common."""

        kind: str

else:
    AnyRecipe = Annotated[Union[_RECIPES], Field(discriminator="kind")] if len(_RECIPES) > 1 else _RECIPES[0]  # noqa: UP007

PRESETS = Path(__file__).parent / "presets"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key and the remedy."""


class Config(Settings):
    """A whole training run."""

    name: str = "run"
    """What the run folder is called after."""
    seed: NonNegativeInt = 0
    """Decides initial parameters, shuffling, and all that is random in the physics."""
    epochs: PositiveInt = 10
    """Passes through the training data."""
    batch_size: PositiveInt = 20
    """Examples per update."""
    precision: Literal["float32", "float64"] = "float32"
    max_unsettled: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Training stops when a larger fraction of examples does not settle."""
    checkpoint_seconds: NonNegativeFloat = 5.0
    """Shortest time between two checkpoints; there is one at the end and at each stop. [s]"""
    data: DataSettings | None = None
    recipe: AnyRecipe
    optimiser: OptimiserSettings = OptimiserSettings()
    versions: dict[str, str] = Field(default_factory=dict)
    """Written with a run; not read."""

    def build(self, seed: int | None = None) -> Experiment:
        """The experiment, with the system's parameters drawn from the seed (the configured one by default)."""
        key = jax.random.key(self.seed if seed is None else seed)
        return self.recipe.build(self, jax.random.fold_in(key, 0))

    def training_key(self) -> jax.Array:
        """The key for shuffling and random physics."""
        return jax.random.fold_in(jax.random.key(self.seed), 1)


def presets() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A configuration from a preset's name or a TOML file.

    Args:
        source: Name of a preset, or path of a file.
        overrides: Such as `optimiser.learning_rate=0.1`; values are TOML, or else plain text.

    Raises:
        ConfigError: for a file that is missing or no TOML, an unknown key, a value that does not fit.
    """
    path = Path(source)
    if path.suffix != ".toml" and not path.exists():
        path = PRESETS / f"{source}.toml"
        if not path.exists():
            near = difflib.get_close_matches(str(source), presets(), 1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise ConfigError(
                f"There is no preset `{source}`.{hint} There are: {', '.join(presets())}; or give the path of a "
                f".toml file."
            )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not a readable TOML file: {error}.") from error
    content.setdefault("name", path.stem)
    for override in overrides:
        _apply(content, override)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explained(error, str(source))) from error


def _apply(content, override):
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"`--set {override}` must read KEY=VALUE, such as `--set optimiser.learning_rate=0.1`.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    place = content
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise ConfigError(f"`--set {override}`: `{key}` is a value, it has no keys of its own.")
    place[keys[-1]] = value


def _explained(error, source):
    """Pydantic's complaints in words, with the nearest known key for an unknown one."""
    lines = []
    for item in error.errors():
        location = [part for part in item["loc"] if isinstance(part, str)]
        known = _known_keys(Config, location[:-1])
        shown = ".".join(part for part in map(str, item["loc"]) if part not in _tags())
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(location[-1], known, 1, cutoff=0.4)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            lines.append(f"unknown key `{shown}`.{hint} Known here: {', '.join(known)}.")
        elif item["type"] in ("union_tag_not_found", "union_tag_invalid"):
            lines.append(
                f"`{shown}.kind` must be one of "
                f"{item['ctx'].get('expected_tags') or ', '.join(_known_kinds(location))}."
            )
        elif item["type"] == "missing":
            lines.append(f"`{shown}` is missing.")
        else:
            lines.append(f"`{shown}` = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}.")
    return f"Configuration `{source}`: " + " ".join(lines)


def _tags():
    models, tags = [Config], set()
    while models:
        for field in models.pop().model_fields.values():
            for model in _models_in(field.annotation):
                models.append(model)
                tags |= _kinds(model)
    return tags


def _known_kinds(location):
    fields = [m.model_fields[location[-1]] for m in [Config] if location[-1] in m.model_fields]
    return sorted({kind for field in fields for model in _models_in(field.annotation) for kind in _kinds(model)})


def _known_keys(model, location):
    """The fields at a place of the configuration; the place may name members of a union by their kind."""
    candidates = [model]
    for part in location:
        chosen = [m for m in candidates if part in _kinds(m)]
        if chosen:
            candidates = chosen
            continue
        candidates = [
            inner for m in candidates if part in m.model_fields for inner in _models_in(m.model_fields[part].annotation)
        ]
    return sorted({name for m in candidates for name in m.model_fields})


def _kinds(model):
    field = model.model_fields.get("kind")
    return set(typing.get_args(field.annotation)) if field is not None else set()


def _models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]


def versions() -> dict[str, str]:
    """Versions of what decides a run's numbers."""
    found = {"python": platform.python_version()}
    for package in ("eqprop", "jax", "jaxlib", "numpy", "equinox", "optax"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def to_toml(config: Config) -> str:
    """The configuration as TOML, defaults included; what is unset is left out."""
    return "\n".join(_table(config.model_dump(exclude_none=True), ())) + "\n"


def _table(content: Mapping, path: tuple[str, ...]) -> list[str]:
    plain = {key: value for key, value in content.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in content.items() if isinstance(value, dict) and value}
    lines = [f"[{'.'.join(map(_key, path))}]"] if path and (plain or not tables) else []
    lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in tables.items():
        lines += ["", *_table(value, (*path, key))]
    return lines


def _key(key):
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isalnum() and bare.isascii() else _value(key)


def _value(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)
