r"""What samplers share: chains, burn-in with annealing, thinning, and the error of what is kept.

A sampler runs `chains` independent chains of one example. Each makes `burn_in` updates, then `samples` times `thin`
updates of which the last is kept: memory grows with `chains * samples`, never with the number of updates.

One key per example is split into one per chain. All phases of a stencil that are given the same key draw the same
noise, so that most of it cancels in their difference; the free phase draws its own.
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from eqprop.equilibrium import RESULT, Ensemble
from eqprop.settle.base import Solver, real_dtype, rms
from eqprop.system import System, project

__all__ = ["Kernel", "Sampler", "check_positive"]


_NUDGED = 2**31 - 1  # never the number of a chain, which is folded into the same key


Kernel = Callable[[PRNGKeyArray, Float[Array, ""], PyTree], tuple[PyTree, Float[Array, ""]]]
"""`(key, temperature, state)` to the next state of one chain, and one number whose mean is reported."""


class Sampler(Solver):
    """A solver that samples the Boltzmann distribution of a system at a stated temperature."""

    temperature: eqx.AbstractVar[Float[Array, ""]]
    chains: eqx.AbstractVar[int]
    burn_in: eqx.AbstractVar[int]
    samples: eqx.AbstractVar[int]
    thin: eqx.AbstractVar[int]
    hottest: eqx.AbstractVar[Float[Array, ""] | None]
    standard_error: eqx.AbstractVar[float | None]

    stochastic: ClassVar[bool] = True

    @abc.abstractmethod
    def kernel(self, system: System, inputs: PyTree, template: PyTree) -> Kernel:
        """The Markov kernel of one chain; `template` is a state."""

    @abc.abstractmethod
    def report(self, mean: Float[Array, ""], template: PyTree, temperature: Float[Array, ""]) -> dict[str, Array]:
        """Fields of the `Ensemble` that follow from the mean of the kernel's number."""

    def solve(self, system, inputs, start, *, free, key):
        if key is None:
            raise ValueError(
                f"`{type(self).__name__}` draws random numbers: give `key=jax.random.key(...)` to `settle` or the "
                "estimator."
            )
        self._check()
        template = system.initial_state(inputs)
        if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(start)):
            raise ValueError(
                f"`{type(self).__name__}` cannot sample at a complex nudging strength; use `symmetric` or "
                "`richardson`, or `Enumeration` for a small system."
            )
        if free is not None:
            # Other noise than the free phase's, the same in every nudged phase.
            key = jax.random.fold_in(key, _NUDGED)
        dtype = real_dtype(template)
        temperature = check_positive(self.temperature, type(self).__name__).astype(dtype)
        schedule = self._schedule(temperature, free is not None)
        update = self.kernel(system, inputs, template)

        # One loop for burn-in and sampling, so that the kernel is compiled once: burn-in is a first, long stretch
        # whose end is not kept.
        lengths = jnp.asarray([self.burn_in] + [self.thin] * self.samples, jnp.int32)

        def run(key, state):
            def advance(index, loop):
                state, total = loop
                now = temperature if schedule is None else jnp.where(index < self.burn_in, schedule[index], temperature)
                state, number = update(jax.random.fold_in(key, index), now, state)
                return state, total + jnp.where(index < self.burn_in, 0, number)

            def stretch(loop, length):
                state, total, done = loop
                state, total = jax.lax.fori_loop(done, done + length, advance, (state, total))
                return (state, total, done + length), state

            begin = (project(system, state), jnp.zeros((), dtype), jnp.zeros((), jnp.int32))
            (state, total, _), kept = jax.lax.scan(stretch, begin, lengths)
            return jax.tree.map(lambda leaf: leaf[1:], kept), state, total / (self.samples * self.thin)

        start = _chains(start, template, self.chains, type(self).__name__)
        kept, last, numbers = jax.vmap(run)(jax.random.split(key, self.chains), start)
        samples = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kept)
        return self._ensemble(samples, last, self.report(jnp.mean(numbers), template, temperature))

    def _ensemble(self, samples, last, report):
        groups = self.chains if self.chains > 1 else _parts(self.samples)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(samples)]))
        steps = jnp.asarray(self.burn_in + self.samples * self.thin, jnp.int32)
        residual = jnp.zeros((), real_dtype(last))
        result = RESULT.where(finite, RESULT.settled, RESULT.diverged)
        ensemble = Ensemble(samples, last, result, residual, steps, groups=groups, **report)
        if groups < 2:
            return ensemble
        residual = rms(ensemble.standard_error(lambda state: state))
        if self.standard_error is not None:
            enough = ~finite | (residual <= self.standard_error)
            result = RESULT.where(enough, result, RESULT.too_few_samples)
        return Ensemble(samples, last, result, residual, steps, groups=groups, **report)

    def _schedule(self, temperature, nudged):
        """Temperatures of the burn-in: a geometric fall from `hottest`; in a nudged phase up to it and down again."""
        if self.hottest is None or self.burn_in == 0:
            return None
        ratio = self.hottest.astype(temperature.dtype) / temperature
        place = np.arange(self.burn_in) / max(self.burn_in, 1)
        height = 1 - np.abs(2 * place - 1) if nudged else 1 - place
        return temperature * ratio ** jnp.asarray(height, temperature.dtype)

    def _check(self):
        name = type(self).__name__
        for field in ("chains", "samples", "thin"):
            if getattr(self, field) < 1:
                raise ValueError(f"`{name}.{field}` must be at least 1; got {getattr(self, field)}.")
        if self.burn_in < 0:
            raise ValueError(f"`{name}.burn_in` must not be negative; got {self.burn_in}.")
        if self.standard_error is not None and self.chains * self.samples < 2:
            raise ValueError(
                f"A standard error of {self.standard_error} was asked of `{name}` with a single sample, which tells no "
                "error. Raise `chains` or `samples`."
            )


def check_positive(temperature: Float[Array, ""], name: str) -> Float[Array, ""]:
    """The temperature, refused unless positive and finite.

    Raises:
        ValueError: if it is known before tracing.
        EquinoxRuntimeError: if it is known on the device only.
    """
    message = (
        f"`{name}.temperature` must be positive and finite; at zero the Boltzmann distribution is not defined where "
        "ground states are degenerate. Take a small temperature (and a schedule, `hottest`), or a deterministic solver."
    )
    if isinstance(temperature, Tracer):
        return eqx.error_if(temperature, ~((temperature > 0) & jnp.isfinite(temperature)), message)
    if not (float(temperature) > 0 and np.isfinite(float(temperature))):
        raise ValueError(f"{message} Got {float(temperature)}.")
    return temperature


def _chains(start, template, chains, name):
    """One starting state per chain: as given, or the one state repeated."""

    def spread(leaf, one):
        one = jnp.asarray(one)
        if jnp.shape(leaf) == one.shape:
            return jnp.broadcast_to(leaf, (chains, *one.shape))
        if jnp.shape(leaf) == (chains, *one.shape):
            return leaf
        raise ValueError(
            f"`start` of shape {jnp.shape(leaf)} fits neither one state, {one.shape}, nor the {chains} chains of "
            f"`{name}`. Free and nudged samplers must have equal `chains`."
        )

    return jax.tree.map(spread, start, template)


def _parts(count):
    """The largest number of equal runs, at most 10, into which the samples of one chain divide."""
    return max(parts for parts in range(1, 11) if count % parts == 0)
