r"""Parameters as physical variables: a system that learns although nobody knows its energy.

$$\mathcal{E}(s, \theta) = E(\theta, x, s) + \frac{1}{2\varepsilon}\lVert u - \theta\rVert^2$$

The parameters $\theta$ relax together with the state, held by springs of compliance $\varepsilon$ to the control
knobs $u$, which are what is trained. Then $\partial\mathcal{E}/\partial u = (u - \theta)/\varepsilon$: the contrast
reads positions only, and nothing of $E$. A nudge with the knobs held moves $\theta$ by
$-\varepsilon\beta\,\nabla_\theta C$: the physics itself takes the step of gradient descent. The gradient in $u$ is
exact; that at a held $\theta$ is off by a term in $\varepsilon$.

Source:
    B. Scellier et al., Agnostic physics-driven deep learning, 2022 (arXiv 2205.15021).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from eqprop.system import System

__all__ = ["Agnostic"]


class Agnostic(System):
    """`system` with its parameters as further state variables, tied to trainable knobs.

    Its state is the pair (state, parameters). `Newton` settles it; flows need steps below `compliance`.

    Args:
        system: The system whose energy is not to be known. Its arrays give the knobs their first position.
        compliance: Of the springs; small against the inverse curvature of the energy in the parameters.

    Raises:
        ValueError: if the compliance is not positive, or the system has no parameters.
    """

    knobs: PyTree
    shell: System
    compliance: float = eqx.field(static=True)

    def __init__(self, system: System, *, compliance: float):
        if not compliance > 0:
            raise ValueError(
                f"`compliance` must be positive; got {compliance}. Try 1e-3, and smaller for a smaller bias."
            )
        parameters = eqx.filter(system, eqx.is_inexact_array)
        if not jax.tree.leaves(parameters):
            raise ValueError(f"`{type(system).__name__}` holds no trainable arrays, so there is nothing to learn.")
        self.knobs = parameters
        # Shapes stand where the arrays were: the structure without the parameters.
        self.shell = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if eqx.is_inexact_array(leaf) else leaf, system
        )
        self.compliance = float(compliance)

    def energy(self, state, inputs):
        inner, parameters = state
        pairs = zip(jax.tree.leaves(self.knobs), jax.tree.leaves(parameters), strict=True)
        springs = sum(jnp.sum((u - theta) ** 2) for u, theta in pairs) / (2 * self.compliance)
        return self.inner(parameters).energy(inner, inputs) + springs

    def initial_state(self, inputs):
        return self.inner(self.knobs).initial_state(inputs), self.knobs

    def output(self, state):
        return self.inner(state[1]).output(state[0])

    def bounds(self):
        own = self.inner(self.knobs).bounds()
        if own is None:
            return None
        lower, upper = (jax.tree.map(lambda k, e=edge: jnp.full_like(k, e), self.knobs) for edge in (-jnp.inf, jnp.inf))
        return (own[0], lower), (own[1], upper)

    def inner(self, parameters: PyTree) -> System:
        """The inner system with these parameters."""
        leaves = iter(jax.tree.leaves(parameters))
        return jax.tree.map(lambda leaf: next(leaves) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, self.shell)

    def recentred(self, state: PyTree, parameters: PyTree) -> "Agnostic":
        """One step of feedback that holds the parameters: knobs moved by what the parameters at rest lack.

        Args:
            state: A free equilibrium's state, with the parameters where the springs let them go.
            parameters: Where they should be.

        Returns:
            The system with new knobs; settle it again, and repeat until the parameters stay.
        """
        knobs = jax.tree.map(lambda u, wanted, found: u + wanted - found, self.knobs, parameters, state[1])
        return eqx.tree_at(lambda s: s.knobs, self, knobs)
