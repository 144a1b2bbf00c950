"""Convolution against a sum written out, pooling against its definition, and both against their transposes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqprop.substrates.convolution import MaxPooling, MeanPooling, convolve, extent, pair, unpool

CASES = [
    ((7, 6), (3, 2), (1, 1), (0, 1)),
    ((8, 9), (5, 3), (3, 2), (2, 3)),
    ((4, 4), (4, 4), (1, 1), (0, 0)),
]


def written_out(image, kernel, stride, padding):
    image = np.pad(image, ((padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    high, wide = ((n - k) // s + 1 for n, k, s in zip(image.shape, kernel.shape, stride, strict=False))
    out = np.zeros((high, wide, kernel.shape[3]))
    for i, j in itertools.product(range(high), range(wide)):
        patch = image[i * stride[0] :, j * stride[1] :][: kernel.shape[0], : kernel.shape[1]]
        out[i, j] = np.einsum("ijc,ijcd->d", patch, kernel)
    return out


@pytest.mark.parametrize(("image", "kernel", "stride", "padding"), CASES)
@pytest.mark.parametrize("channels", [1, 40])
def test_a_convolution_is_its_sum(image, kernel, stride, padding, channels, getkey):
    x = jax.random.normal(getkey(), (*image, channels))
    w = jax.random.normal(getkey(), (*kernel, channels, 4))
    out = jax.jit(lambda x, w: convolve(x, w, stride=stride, padding=padding))(x, w)
    np.testing.assert_allclose(out, written_out(x, w, stride, padding), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("image", "kernel", "stride", "padding"), CASES)
@pytest.mark.parametrize("channels", [1, 40])
def test_derivatives_are_those_of_the_sum(image, kernel, stride, padding, channels, getkey):
    x = jax.random.normal(getkey(), (3, *image, channels))
    w = jax.random.normal(getkey(), (*kernel, channels, 4))

    def ours(x, w):
        return jnp.sum(jnp.sin(jax.vmap(lambda image: convolve(image, w, stride=stride, padding=padding))(x)))

    def theirs(x, w):
        margins = [(p, p) for p in padding]
        layout = ("NHWC", "HWIO", "NHWC")
        return jnp.sum(jnp.sin(jax.lax.conv_general_dilated(x, w, stride, margins, dimension_numbers=layout)))

    @functools.partial(jax.jit, static_argnums=0)
    def first_and_second(fn, x, w):
        return jax.jvp(jax.grad(fn, (0, 1)), (x, w), (jnp.ones_like(x), jnp.ones_like(w)))

    pairs = zip(*(jax.tree.leaves(first_and_second(fn, x, w)) for fn in (ours, theirs)), strict=True)
    for mine, reference in pairs:
        np.testing.assert_allclose(mine, reference, rtol=1e-9, atol=1e-9)


def test_complex_images_are_convolved(getkey):
    x = jax.lax.complex(jax.random.normal(getkey(), (5, 5, 2)), jax.random.normal(getkey(), (5, 5, 2)))
    w = jax.random.normal(getkey(), (3, 3, 2, 2))
    expected = jax.lax.complex(convolve(x.real, w), convolve(x.imag, w))
    np.testing.assert_allclose(convolve(x, w), expected, rtol=1e-12)


@pytest.mark.parametrize(("size", "stride"), [(2, None), ((2, 3), None), (3, 2), (3, 1), (2, 3)])
def test_pooling_takes_the_maximum_and_the_mean(size, stride, getkey):
    x = np.asarray(jax.random.normal(getkey(), (8, 7, 3)))
    most, mean = MaxPooling(size, stride), MeanPooling(size, stride)
    (k, m), (s, t) = most.size, most.stride
    windows = [[x[i : i + k, j : j + m].reshape(-1, 3) for j in range(0, 7 - m + 1, t)] for i in range(0, 8 - k + 1, s)]
    np.testing.assert_array_equal(most(jnp.asarray(x)), [[w.max(0) for w in row] for row in windows])
    np.testing.assert_allclose(mean(jnp.asarray(x)), [[w.mean(0) for w in row] for row in windows], rtol=1e-12)


@pytest.mark.parametrize("pooling", [MaxPooling(2), MaxPooling(3, 2), MeanPooling(2), MeanPooling(3, 2)])
def test_un_pooling_is_the_transpose_of_pooling(pooling, getkey):
    x = jax.random.normal(getkey(), (7, 6, 2))
    moved = jax.jvp(pooling, (x,), (v := jax.random.normal(getkey(), x.shape),))[1]
    g = jax.random.normal(getkey(), moved.shape)
    assert abs(jnp.sum(moved * g) - jnp.sum(v * unpool(pooling, g, x))) < 1e-12
    # Pooling is positively homogeneous: its derivative at x along x is itself.
    np.testing.assert_allclose(jax.jvp(pooling, (x,), (x,))[1], pooling(x), rtol=1e-12)


@pytest.mark.parametrize("pooling", [MaxPooling(2), MaxPooling(2, 1)])
def test_of_equal_maxima_the_first_is_taken_both_ways(pooling):
    x = jnp.zeros((2, 2, 1))
    returned = unpool(pooling, jnp.ones((1, 1, 1)), x)[..., 0]
    np.testing.assert_array_equal(returned, [[1, 0], [0, 0]])


def test_nan_passes_through_pooling():
    x = jnp.zeros((4, 4, 1)).at[0, 1].set(jnp.nan)
    for pooling in (MaxPooling(2), MaxPooling(2, 1), MeanPooling(2)):
        assert jnp.isnan(pooling(x)[0, 0, 0])
        assert jnp.isfinite(pooling(x)[-1, -1, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convolve(jnp.ones((5, 5, 3)), jnp.ones((3, 3, 2, 4))), r"has 3 channels, but the kernel .* reads 2"),
        (lambda: convolve(jnp.ones((2, 5, 1)), jnp.ones((3, 3, 1, 4))), "A kernel of 3 does not fit an image of 2"),
        (lambda: MaxPooling(3)(jnp.ones((2, 2, 1))), "A kernel of 3 does not fit an image of 2"),
        (lambda: MeanPooling(3)(jnp.ones((2, 2, 1))), "A kernel of 3 does not fit an image of 2"),
        (lambda: MaxPooling(0), "`MaxPooling.size` must be a whole number of at least 1"),
        (lambda: MeanPooling(2, (1, 2, 3)), r"`MeanPooling.stride` must be .* got \(1, 2, 3\)"),
        (lambda: pair("stride", (1, -1)), "`stride` must be a whole number"),
        (lambda: extent(3, 5, 1, 0), "padding 0; take a smaller kernel"),
    ],
)
def test_what_does_not_fit_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
