"""Augmentation: what the shifts and mirrors are, and that they are decided by the key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.train.augment import Augmented, shift_and_mirror


def test_images_are_shifted_with_their_edges_repeated_and_mirrored():
    image = jnp.arange(12.0).reshape(3, 4)
    padded = np.pad(image, 1, mode="edge")
    possible = [padded[i : i + 3, j : j + 4] for i in range(3) for j in range(3)]
    possible += [window[:, ::-1] for window in possible]
    images = shift_and_mirror(jax.random.key(0), jnp.tile(image, (400, 1, 1)), shift=1, mirror=True)
    counts = [int(np.all(np.asarray(images) == window, axis=(1, 2)).sum()) for window in possible]
    # All eighteen are drawn, and nothing else. The expected number of each is 22.
    assert sum(counts) == 400
    assert min(counts) >= 8


def test_without_shift_and_mirror_nothing_changes(getkey):
    images = jax.random.uniform(getkey(), (3, 5, 4, 2))
    np.testing.assert_array_equal(shift_and_mirror(getkey(), images, shift=0, mirror=False), images)


def test_an_estimator_sees_the_images_of_its_key(getkey):
    network = ep.ConvHopfield((6, 6, 1), [ep.Conv(2, 3)], 2, key=getkey())
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.1), ep.BlockDescent())
    augmented = Augmented(propagate, 2, True)
    x, y, key = jax.random.uniform(getkey(), (4, 6, 6, 1)), jnp.arange(4) % 2, getkey()
    found = augmented(network, ep.CrossEntropy(), x, y, key=key)
    changed = shift_and_mirror(jax.random.split(key)[0], x, shift=2, mirror=True)
    assert found.value == propagate(network, ep.CrossEntropy(), changed, y).value
    assert augmented.solver is propagate.solver


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: shift_and_mirror(k, jnp.ones((2, 9)), shift=1, mirror=True), r"needs images .* got shape \(2, 9\)"),
        (lambda k: shift_and_mirror(k, jnp.ones((2, 3, 3)), shift=-1, mirror=True), "`shift` = -1"),
    ],
)
def test_bad_requests_are_told(call, message, getkey):
    with pytest.raises(ValueError, match=message):
        call(getkey())


def test_without_a_key_nothing_can_be_drawn(getkey):
    network = ep.ConvHopfield((6, 6, 1), [ep.Conv(2, 3)], 2, key=getkey())
    augmented = Augmented(ep.EquilibriumPropagation(ep.symmetric(0.1), ep.BlockDescent()), 1, True)
    with pytest.raises(ValueError, match="call it with `key="):
        augmented(network, ep.CrossEntropy(), jnp.ones((1, 6, 6, 1)), jnp.zeros(1, int))
