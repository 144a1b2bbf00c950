"""Where a run comes from: settings, versions, seed, and the command that makes it again."""

import json
import shlex
from collections.abc import Mapping

from eqprop.train.config import Config, ConfigError, load_config, presets, to_toml, versions
from eqprop.train.report.section import Section
from eqprop.train.report.study import Study

__all__ = ["command", "provenance"]


def provenance(study: Study) -> Section:
    """Command, versions and the whole resolved configuration."""
    config, now = study.config, versions()
    table = [("", "trained with", "reported with")]
    table += [(name, config.versions.get(name, "unknown"), now[name]) for name in now]
    text = (
        f"To train this again: `{command(config, str(study.run.folder / 'config.toml'))}`. With the same versions, "
        f"seed {config.seed} and the same machine the weights come out the same to the last bit; {config.precision}, "
        f"batches of {config.batch_size}."
    )
    return Section("Settings, versions, seed", text, table=tuple(table), code=to_toml(config), folded=True)


def command(config: Config, path: str) -> str:
    """What to type to train with a configuration: its preset with what differs, or else its file.

    Args:
        config: The configuration.
        path: Where it is kept.
    """
    if config.name not in presets():
        return f"eqprop train {shlex.quote(path)}"
    ours, shipped = (_flat(c.model_dump(exclude_none=True)) for c in (config, load_config(config.name)))
    if set(shipped) - set(ours):
        return f"eqprop train {shlex.quote(path)}"
    changed = {key: value for key, value in ours.items() if shipped.get(key) != value}
    options = [f"{key}={json.dumps(value)}" for key, value in changed.items() if not key.startswith("versions.")]
    words = ["eqprop", "train", config.name, *(word for option in options for word in ("--set", option))]
    try:
        again = load_config(config.name, options)
    except ConfigError:
        again = None
    same = again is not None and again.model_copy(update={"versions": {}}) == config.model_copy(update={"versions": {}})
    return shlex.join(words if same else ["eqprop", "train", path])


def _flat(tree: Mapping, before: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat
