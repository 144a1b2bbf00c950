r"""Coupled oscillators near one frequency, as phases $\varphi_i$ [rad] in the rotating frame.

$$E(\varphi) = -\sum_{(i,j)} J_{ij}\cos(\varphi_i - \varphi_j) - \sum_i h_i\cos(\varphi_i - x_i)
    - \tfrac{1}{2}\sum_i S_i\cos 2\varphi_i - \sum_i (\omega_i - \Omega)\,\varphi_i$$

* XY model: couplings $J$ and fields $h$ towards the input angles $x$.
* Oscillator Ising machine: with a second harmonic $S$, which draws phases to 0 and $\pi$.
* Kuramoto oscillators: with natural frequencies $\omega$; phases are at rest in the frame of $\Omega$, the mean
  frequency, when the oscillators are locked. Locally the gradient in $\omega_i$ is the displacement of $\varphi_i$
  itself.

Turning all phases together must cost energy, or the rest state is a whole circle: a field, a second harmonic or a
pinned phase is required. Many rest states may exist; see `eqprop.settle.branches`. The cost must be periodic
(`PhaseError`). Energies are in units of coupling, which are those of a frequency.

Source:
    Q. Wang, C. C. Wanjura and F. Marquardt, Training coupled phase oscillators as a neuromorphic platform using
    equilibrium propagation, 2024 (arXiv 2402.08579). A. Gower, How to train an oscillator Ising machine using
    equilibrium propagation, 2025 (arXiv 2505.02103). Y. Kuramoto, Chemical oscillations, waves, and turbulence, 1984.
"""

import math
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Inexact

from eqprop.substrates.graph import colour
from eqprop.substrates.oscillators.phase import rest_phase
from eqprop.system import System

__all__ = ["OscillatorGraph"]


class OscillatorGraph(System):
    """Oscillators on any graph: XY, oscillator Ising and Kuramoto models. The state: the phases not pinned.

    Args:
        units: Number of oscillators.
        edges: Pairs of oscillators, each pair once.
        coupling: J of each edge; positive values align. [coupling]
        driven: Oscillators with a field; the inputs are the fields' angles, one for each of them. [rad]
        field: Strength h of each field. [coupling]
        harmonic: Strength S of the second harmonic of each oscillator, or None. [coupling]
        frequency: Natural frequency of each oscillator, or None. Measured from that of fields or harmonic where there
            are any; else the mean over all oscillators is the frame's. [coupling]
        pinned: Oscillators whose phase is held, with their angles. [rad]
        outputs: Oscillators that are read; all that are not pinned by default.

    Raises:
        ValueError: if edges or numbers do not fit, or nothing breaks the rotation symmetry.
    """

    coupling: Float[Array, " edge"]
    field: Float[Array, " driven"]
    harmonic: Float[Array, " unit"] | None
    frequency: Float[Array, " unit"] | None
    units: int = eqx.field(static=True)
    edges: tuple[tuple[int, int], ...] = eqx.field(static=True)
    driven: tuple[int, ...] = eqx.field(static=True)
    pinned: tuple[tuple[int, float], ...] = eqx.field(static=True)
    outputs: tuple[int, ...] = eqx.field(static=True)

    holomorphic = True

    def __init__(
        self,
        units: int,
        edges: Sequence[tuple[int, int]],
        coupling: Float[Array, " edge"],
        *,
        driven: Sequence[int] = (),
        field: Float[Array, " driven"] | None = None,
        harmonic: Float[Array, " unit"] | None = None,
        frequency: Float[Array, " unit"] | None = None,
        pinned: Mapping[int, float] | None = None,
        outputs: Sequence[int] | None = None,
    ):
        self.units = units
        self.edges = tuple((int(min(pair)), int(max(pair))) for pair in edges)
        self.coupling = jnp.asarray(coupling)
        self.driven = tuple(int(unit) for unit in driven)
        self.field = jnp.ones(len(self.driven), self.coupling.dtype) if field is None else jnp.asarray(field)
        self.harmonic = harmonic
        self.frequency = frequency
        self.pinned = tuple(sorted((int(unit), float(angle)) for unit, angle in (pinned or {}).items()))
        free = self._free()
        self.outputs = tuple(free) if outputs is None else tuple(int(unit) for unit in outputs)
        _check_graph(self, free)
        _check_symmetry(self)

    def energy(self, state, inputs):
        phases = self.phases(state)
        tails, heads = np.asarray(self.edges, int).reshape(-1, 2).T
        total = -jnp.sum(self.coupling * jnp.cos(phases[tails] - phases[heads]))
        if self.driven:
            total = total - jnp.sum(self.field * jnp.cos(phases[np.asarray(self.driven)] - self._angles(inputs)))
        if self.harmonic is not None:
            total = total - 0.5 * jnp.sum(self.harmonic * jnp.cos(2 * phases))
        if self.frequency is not None:
            total = total - jnp.sum(self._detuning() * phases)
        return total

    def initial_state(self, inputs):
        # Not all alike: a uniform start can be the top of a ridge. The golden angle spreads without repeating.
        del inputs
        dtype = self.coupling.dtype
        return 0.2 * jnp.sin(jnp.asarray(self._free(), dtype) * math.pi * (3 - math.sqrt(5)) + 1)

    def output(self, state):
        return self.phases(state)[np.asarray(self.outputs)]

    def phases(self, state: Inexact[Array, " free"]) -> Inexact[Array, " unit"]:
        """The phases of all oscillators, pinned ones included. [rad]"""
        everything = jnp.zeros(self.units, state.dtype).at[np.asarray(self._free())].set(state)
        if self.pinned:
            units, angles = zip(*self.pinned, strict=True)
            everything = everything.at[np.asarray(units)].set(jnp.asarray(angles, state.dtype))
        return everything

    def blocks(self):
        free = self._free()
        place = {unit: k for k, unit in enumerate(free)}
        inner = [(place[i], place[j]) for i, j in self.edges if i in place and j in place]
        colours = np.asarray(colour(len(free), inner))
        return tuple(colours == k for k in range(max(colours) + 1))

    def minimise_block(self, block, state, inputs, force):
        if self.harmonic is not None or jnp.iscomplexobj(state):
            return None
        phases = self.phases(state)
        tails, heads = np.asarray(self.edges, int).reshape(-1, 2).T

        def drive(wave):
            total = jnp.zeros_like(phases).at[tails].add(self.coupling * wave(phases[heads]))
            total = total.at[heads].add(self.coupling * wave(phases[tails]))
            if self.driven:
                total = total.at[np.asarray(self.driven)].add(self.field * wave(self._angles(inputs)))
            return total[np.asarray(self._free())]

        torque = jnp.zeros_like(state) if force is None else force
        if self.frequency is not None:
            torque = torque + self._detuning()[np.asarray(self._free())]
        rested = rest_phase(drive(jnp.cos), drive(jnp.sin), torque, state)
        blocks = self.blocks()
        assert blocks is not None
        return jnp.where(blocks[block], rested, state)

    def _free(self):
        held = {unit for unit, _ in self.pinned}
        return [unit for unit in range(self.units) if unit not in held]

    def _detuning(self):
        """Natural frequencies in the frame in which a locked state rests."""
        assert self.frequency is not None
        if self.driven or self.harmonic is not None:
            return self.frequency
        return self.frequency - jnp.mean(self.frequency)

    def _angles(self, inputs):
        if jnp.shape(inputs) != (len(self.driven),):
            raise ValueError(
                f"`inputs` of shape {jnp.shape(inputs)} do not fit {len(self.driven)} driven oscillators; give the "
                "angle of each field in radians."
            )
        return inputs


def _check_graph(graph, free):
    pairs, count = graph.edges, graph.units
    if graph.coupling.shape != (len(pairs),):
        raise ValueError(
            f"`coupling` of shape {graph.coupling.shape} does not fit {len(pairs)} edges; give one number per edge."
        )
    if any(i == j or i < 0 or j >= count for i, j in pairs) or len(set(pairs)) < len(pairs):
        raise ValueError(
            f"`edges` must join two different oscillators among 0 to {count - 1}, each pair once; got {list(pairs)}."
        )
    if graph.field.shape != (len(graph.driven),):
        raise ValueError(f"`field` of shape {graph.field.shape} does not fit {len(graph.driven)} driven oscillators.")
    for name, values in (("harmonic", graph.harmonic), ("frequency", graph.frequency)):
        if values is not None and values.shape != (count,):
            raise ValueError(
                f"`{name}` of shape {values.shape} does not fit {count} oscillators; give one number for each."
            )
    if any(unit not in range(count) for unit in (*graph.driven, *dict(graph.pinned), *graph.outputs)):
        raise ValueError(f"`driven`, `pinned` and `outputs` must name oscillators 0 to {count - 1}.")
    if not free or any(unit in dict(graph.pinned) for unit in graph.outputs):
        raise ValueError("`outputs` names a pinned oscillator, or all are pinned; outputs must be free to move.")


def _check_symmetry(graph):
    """Raise unless something holds the common phase of every connected part."""
    fields = {unit for k, unit in enumerate(graph.driven) if not _is_zero(graph.field, k)}
    harmonics = {
        unit for unit in range(graph.units) if graph.harmonic is not None and not _is_zero(graph.harmonic, unit)
    }
    holding = fields | harmonics | set(dict(graph.pinned))
    parts = _parts(graph.units, graph.edges)
    for part in parts:
        if not part & holding:
            raise ValueError(
                f"Nothing breaks the rotation symmetry of oscillators {sorted(part)}: their phases can turn together "
                f"at no cost, and the rest state is not isolated. Pin one of them, `pinned={{{min(part)}: 0.0}}`, or "
                "give one a field (`driven`) or a second harmonic (`harmonic`)."
            )
    if graph.frequency is not None and not graph.driven and graph.harmonic is None and len(parts) > 1:
        raise ValueError(
            f"`frequency` needs a connected graph, which locks to one frame; this one falls into {len(parts)} parts. "
            "Use one system for each."
        )


def _is_zero(values, index):
    return not isinstance(values, Tracer) and float(values[index]) == 0


def _parts(count, edges):
    """Connected components, as sets of nodes."""
    parent = list(range(count))

    def root(node):
        while parent[node] != node:
            node = parent[node]
        return node

    for i, j in edges:
        parent[root(i)] = root(j)
    return [{n for n in range(count) if root(n) == r} for r in sorted({root(n) for n in range(count)})]
