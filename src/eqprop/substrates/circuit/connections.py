r"""How the branches of a circuit connect its nodes: whether each node is held, and what its branches weigh.

An amplifier of voltage gain $A$ and current gain $c$ makes what lies behind it count $c/A$ times what lies before it;
outputs count once.
"""

from collections import deque

import numpy as np

from eqprop.substrates.circuit.devices import SpiceDiode
from eqprop.substrates.circuit.elements import Branches, BranchGroup, CurrentSources
from eqprop.substrates.circuit.errors import FloatingNodeError, InconsistentAmplifierWeights, UnboundedCircuitError

__all__ = ["check_grounded", "weights"]


def _branch_list(circuit):
    """(name, element, tail, head, strong) of every group; `strong` says which branches conduct by themselves."""
    found = []
    for name, e in circuit.elements.items():
        if isinstance(e, BranchGroup):
            conductance = e.quantities().get("conductance")
            if conductance is not None:
                strong = np.ravel(np.asarray(conductance.value)) != 0
            else:
                strong = np.full(
                    len(e),
                    isinstance(e, Branches) and isinstance(e.device, SpiceDiode) and e.device.minimal_conductance > 0,
                )
            found.append((name, e, e.tail.index, e.head.index, np.broadcast_to(strong, (len(e),))))
    return found


class _Sets:
    """Disjoint sets of nodes."""

    def __init__(self, count):
        self.parent = list(range(count))

    def find(self, n):
        while self.parent[n] != n:
            self.parent[n] = self.parent[self.parent[n]]
            n = self.parent[n]
        return n

    def join(self, a, b):
        self.parent[self.find(a)] = self.find(b)


def check_grounded(circuit, roots, gain):
    """Raise for floating nodes; return the nodes that have weak paths only."""
    strongly, weakly = _Sets(len(roots)), _Sets(len(roots))
    for n, root in enumerate(roots):
        strongly.join(n, int(root))
        weakly.join(n, int(root))
    for _, _, tails, heads, strong in _branch_list(circuit):
        pairs = np.unique(np.stack([tails, heads, strong], 1), axis=0)
        for t, h, s in pairs:
            # A branch between two nodes of one amplifier pins their voltage, as one to ground would.
            t, h = (int(t), 0) if roots[t] == roots[h] and gain[t] != gain[h] else (int(t), int(h))
            weakly.join(t, h)
            if s:
                strongly.join(t, h)
    floating = [n for n in range(len(roots)) if weakly.find(n) != weakly.find(0)]
    if floating:
        raise _floating(circuit, weakly, floating)
    return {n for n in range(len(roots)) if strongly.find(n) != strongly.find(0)}


def _floating(circuit, sets, floating):
    island = [n for n in floating if sets.find(n) == sets.find(floating[0])]
    for name, e in circuit.elements.items():
        if isinstance(e, CurrentSources):
            fed = [n for n in (*e.into.index, *e.out_of.index) if n in floating]
            if fed:
                island = [n for n in floating if sets.find(n) == sets.find(fed[0])]
                return UnboundedCircuitError(
                    f"Current source `{name}` feeds {_nodes(circuit, island)}, which no conducting path joins "
                    f"to ground or "
                    "a source: the voltage would be infinite. Add a resistor to ground."
                )
    return FloatingNodeError(
        f"{_nodes(circuit, island, capital=True)} has no conducting path to ground or a source. Add a resistor "
        f"to ground, "
        "or remove the node."
    )


def _nodes(circuit, island, *, capital=False):
    others = f" (and {len(island) - 1} other{'s' if len(island) > 2 else ''})" if len(island) > 1 else ""
    return f"{'Node' if capital else 'node'} `{circuit.names[island[0]]}`{others}"


def weights(circuit, ties, roots):
    """What each node's branches count in the co-content."""
    sets = _Sets(len(roots))
    held = roots == 0
    for tie in ties:
        if tie.ratio is None and not held[tie.a]:
            sets.join(tie.a, tie.b)
    for _, _, tails, heads, _ in _branch_list(circuit):
        inner = ~held[tails] & ~held[heads]
        for t, h in np.unique(np.stack([tails[inner], heads[inner]], 1), axis=0):
            sets.join(int(t), int(h))
    ratios: dict[int, list[tuple[int, float, str]]] = {}
    for tie in ties:
        if tie.ratio is not None and not held[tie.a]:
            a, b = sets.find(tie.a), sets.find(tie.b)
            ratios.setdefault(a, []).append((b, tie.ratio, tie.label))
            ratios.setdefault(b, []).append((a, 1 / tie.ratio, tie.label))
    plus, minus = circuit.output_plus, circuit.output_minus
    outputs = [int(n) for n in (*plus.index, *(() if minus is None else minus.index))]
    weight: dict[int, float] = {}
    for start in [*(sets.find(n) for n in outputs if not held[n]), *(sets.find(n) for n in range(len(roots)))]:
        if start in weight:
            continue
        weight[start] = 1.0
        queue = deque([start])
        while queue:
            here = queue.popleft()
            for there, ratio, label in ratios.get(here, ()):
                wanted = weight[here] * ratio
                if there not in weight:
                    weight[there] = wanted
                    queue.append(there)
                elif not np.isclose(weight[there], wanted, rtol=1e-9, atol=0):
                    raise InconsistentAmplifierWeights(
                        f"Amplifier `{label}` closes a path on which the co-content counts {wanted:g} times, against "
                        f"{weight[there]:g} on another: no scalar has this circuit's equations. Give amplifiers "
                        f"of one layer the "
                        "same ratio current_gain/gain, and close no loop around an amplifier unless that ratio is 1."
                    )
    return np.array([1.0 if held[n] else weight[sets.find(n)] for n in range(len(roots))])
