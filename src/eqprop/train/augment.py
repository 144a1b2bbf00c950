"""Augmentation: images shifted and mirrored at random, anew in each step, inside the compiled loop."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from eqprop.gradient.estimate import Estimator
from eqprop.settle.base import Solver

__all__ = ["Augmented", "shift_and_mirror"]


class Augmented(Estimator):
    """An estimator that sees each batch of images cropped and mirrored at random.

    The draw is decided by the key of the step, so a resumed run sees the same images.

    Args:
        propagate: The estimator.
        shift: Largest shift in either direction; what comes in repeats the edge. [pixels]
        mirror: Whether half of the images are mirrored left to right.
    """

    propagate: Estimator
    shift: int
    mirror: bool

    def __init__(self, propagate: Estimator, shift: int, mirror: bool):
        self.propagate, self.shift, self.mirror = propagate, shift, mirror

    @property
    def solver(self) -> Solver:
        """What settles free phases."""
        return self.propagate.solver

    def free_phase(self, system, inputs, start, keys):
        return self.propagate.free_phase(system, inputs, start, keys)

    def estimate(self, system, cost, inputs, targets, start, key):
        if key is None:
            raise ValueError("`Augmented` draws at random: call it with `key=jax.random.key(...)`.")
        own_key, key = jax.random.split(key)
        changed = shift_and_mirror(own_key, jnp.asarray(inputs), shift=self.shift, mirror=self.mirror)
        return self.propagate(system, cost, changed, targets, start=start, key=key)


def shift_and_mirror(
    key: PRNGKeyArray,
    images: Float[Array, "batch *image"],
    *,
    shift: int,
    mirror: bool,
) -> Float[Array, "batch *image"]:
    """Each image shifted by up to `shift` pixels along both sides, and mirrored with probability 1/2.

    Raises:
        ValueError: if the inputs are no batch of images, or `shift` is negative.
    """
    if images.ndim not in (3, 4) or shift < 0:
        raise ValueError(
            "Augmentation needs images of (batch, height, width[, channel]) and `shift` >= 0; got shape "
            f"{images.shape} and `shift` = {shift}."
        )
    offset_key, mirror_key = jax.random.split(key)
    offsets = jax.random.randint(offset_key, (images.shape[0], 2), 0, 2 * shift + 1)
    flips = jax.random.bernoulli(mirror_key, 0.5, (images.shape[0],)) & mirror

    def change(image, offset, flip):
        margins = ((shift, shift), (shift, shift)) + ((0, 0),) * (image.ndim - 2)
        padded = jnp.pad(image, margins, mode="edge")
        begin = (offset[0], offset[1], *(jnp.zeros_like(offset[0]),) * (image.ndim - 2))
        moved = jax.lax.dynamic_slice(padded, begin, image.shape)
        return jnp.where(flip, moved[:, ::-1], moved)

    return jax.vmap(change)(images, offsets, flips)
