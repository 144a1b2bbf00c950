"""Networks trained by equilibrium propagation and by backpropagation through time, alike in all else.

    python examples/papers/both_rules.py mnist-conv fashion-mnist-conv [--out errors.json]
    python examples/papers/both_rules.py p-1h [--epochs 3]

Both start from the same weights and see the data in the same order; the test errors are printed, and how far apart they
are. `mnist-conv` and `fashion-mnist-conv` are those presets on the first 20,000 pictures; `p-1h`, `p-2h` and `p-3h` the
literature's networks of one, two and three hidden layers, with its nudges, learning rates and epochs on all of MNIST.
Backpropagation through time makes so many sweeps of the same solver from the initial state as bring it to rest, and
differentiates all of them.

Source:
    M. Ernoult et al., Updates of equilibrium prop match gradients of backprop through time in an RNN with static input,
    2019: about 2 % for one, two and three hidden layers, by either rule.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import eqprop as ep
from eqprop.train.config import Config, load_config


class Case(NamedTuple):
    """A network and how it is trained."""

    preset: str
    overrides: Sequence[str]
    epochs: int
    steps: int
    """Sweeps that backpropagation goes through."""


def _deep(hidden: int, rates: Sequence[float]) -> list[str]:
    """The literature's settings for more hidden layers: stronger nudges, slower layers towards the outputs."""
    named = ", ".join(f'"*.{layer}" = {rate}' for layer, rate in enumerate(rates))
    return [f"recipe.hidden={[512] * hidden}", "recipe.estimator.beta=0.5", f"optimiser.rates={{{named}}}"]


CASES = {
    "mnist-conv": Case("mnist-conv", ["data.train_examples=20000"], 1, 12),
    "fashion-mnist-conv": Case("fashion-mnist-conv", ["data.train_examples=20000"], 1, 12),
    "p-1h": Case("mnist-p1h", [], 30, 15),
    "p-2h": Case("mnist-p1h", _deep(2, (0.2, 0.05, 0.005)), 50, 30),
    "p-3h": Case("mnist-p1h", _deep(3, (0.2, 0.05, 0.01, 0.002)), 100, 50),
}


RULES = ("eqprop", "through time")


def configured(case: Case, *, through_time: bool, epochs: int | None = None, overrides: Sequence[str] = ()) -> Config:
    """How a case is trained by one rule."""
    # Examples that the sweeps have not quite brought to rest count all the same.
    rule = [f"recipe.through_time.steps={case.steps}", "max_unsettled=1"] if through_time else []
    length = f"epochs={case.epochs if epochs is None else epochs}"
    return load_config(case.preset, [*case.overrides, *rule, *overrides, length])


def trained(config: Config) -> list[dict]:
    """The measures of each epoch of training."""
    rule = RULES[config.recipe.through_time is not None]

    def tell(moment):
        if moment.metrics is not None:
            error = 100 * moment.metrics["test_error"]
            now = time.strftime("%H:%M:%S")
            print(f"{now}  {rule}  epoch {moment.epoch + 1}: test error {error:.2f} %", flush=True)

    fitted = ep.fit(
        config.build(),
        epochs=config.epochs,
        batch_size=config.batch_size,
        key=config.training_key(),
        max_unsettled=config.max_unsettled,
        watch=tell,
    )
    return fitted.metrics


def main() -> None:
    """Train, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=CASES, default=["mnist-conv", "fashion-mnist-conv"])
    parser.add_argument("--epochs", type=int, help="in place of the case's own number")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change a setting of both rules"
    )
    parser.add_argument("--out", type=Path, help="write all measures as JSON")
    options = parser.parse_args()
    found = {}
    for name in options.cases:
        print(name, flush=True)
        for rule in RULES:
            config = configured(
                CASES[name], through_time=rule == RULES[1], epochs=options.epochs, overrides=options.set
            )
            found.setdefault(name, {})[rule] = trained(config)
        ours, theirs = (100 * found[name][rule][-1]["test_error"] for rule in RULES)
        seconds = [sum(m["seconds"] for m in found[name][rule]) for rule in RULES]
        print(f"  equilibrium propagation {ours:.2f} % in {seconds[0]:.0f} s")
        print(f"  backpropagation through time {theirs:.2f} % in {seconds[1]:.0f} s")
        print(f"  apart by {abs(ours - theirs):.2f} points")
        if options.out:
            options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
