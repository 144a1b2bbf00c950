r"""Convolution and pooling of one image, as sums of matrix products that transpose into matrix products.

A convolution $(w \star s)_{hwd} = \sum_{ijc} w_{ijcd}\, s_{h+i,\,w+j,\,c}$ and its transpose, which carries states back
down, are both needed at every step of a network that settles. On CPUs XLA runs its own convolution well in the
forward direction only: inside loops its derivatives are up to a hundred times slower. There the derivative is declared
to be that of an image unfolded along its width and contracted with the kernel's rows, and every further derivative
is a matrix product with shifted slices. Elsewhere XLA's derivatives are used.

Images are (height, width, channel), kernels (row, column, channel, feature).
"""

import abc
import functools
import itertools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

_NARROW = 64
"""Below this many numbers in a row of the kernel (first layers) products of single rows are too thin to be fast."""

__all__ = ["MaxPooling", "MeanPooling", "Pooling", "convolve", "extent", "pair", "unpool"]

Image = Inexact[Array, "height width channel"]


def convolve(
    image: Image,
    kernel: Inexact[Array, "row column read feature"],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
) -> Inexact[Array, "high wide feature"]:
    """Convolution (without flipping the kernel) of one image, with zeros around it.

    Args:
        image: One image.
        kernel: Weights.
        stride: Steps along height and width.
        padding: Zeros added on both sides of height and of width.

    Returns:
        The feature maps; batches by `jax.vmap`.

    Raises:
        ValueError: if the channels differ, or the kernel is larger than the padded image.
    """
    if image.shape[-1] != kernel.shape[2]:
        raise ValueError(
            f"The image of shape {image.shape} has {image.shape[-1]} channels, but the kernel of shape {kernel.shape} "
            f"reads {kernel.shape[2]}; images are (height, width, channel), kernels (row, column, channel, feature)."
        )
    sizes = [extent(n, k, s, p) for n, k, s, p in zip(image.shape, kernel.shape, stride, padding, strict=False)]
    if jnp.iscomplexobj(image):
        return _by_products(image, kernel.astype(image.dtype), stride, padding, tuple(sizes))
    if jax.default_backend() == "cpu":
        return _fast_both_ways(image, kernel, stride, padding, tuple(sizes))
    return _native(image, kernel, stride, padding)


def _native(image, kernel, stride, padding):
    margins = [(p, p) for p in padding]
    return jax.lax.conv_general_dilated(
        image[None], kernel, stride, margins, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _fast_both_ways(image, kernel, stride, padding, sizes):
    del sizes
    return _native(image, kernel, stride, padding)


@_fast_both_ways.defjvp
def _fast_both_ways_jvp(stride, padding, sizes, primals, tangents):
    (image, kernel), (image_move, kernel_move) = primals, tangents
    move = _by_products(image_move, kernel, stride, padding, sizes)
    move = move + _by_products(image, kernel_move, stride, padding, sizes)
    return _fast_both_ways(image, kernel, stride, padding, sizes), move


def _by_products(image, kernel, stride, padding, sizes):
    """The convolution as one product for each row of the kernel, on the image unfolded along its width."""
    rows, columns, _, features = kernel.shape
    (down, right), (high, wide) = stride, sizes
    padded = jnp.pad(image, ((padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    spread = [padded[:, j : j + right * (wide - 1) + 1 : right] for j in range(columns)]
    unfolded = jnp.concatenate(spread, axis=2)
    bands = [unfolded[i : i + down * (high - 1) + 1 : down] for i in range(rows)]
    if bands[0].shape[-1] < _NARROW:
        return jnp.dot(jnp.concatenate(bands, axis=2), kernel.reshape(-1, features))
    products = [jnp.dot(band, weights.reshape(-1, features)) for band, weights in zip(bands, kernel, strict=True)]
    return sum(products[1:], products[0])


class Pooling(eqx.Module):
    """One number from each window of a feature map; rows and columns that fill no window are left out.

    Args:
        size: Side of the window, or its height and width.
        stride: Step between windows; the size by default.
    """

    size: tuple[int, int] = eqx.field(static=True)
    stride: tuple[int, int] = eqx.field(static=True)

    def __init__(self, size: int | Sequence[int] = 2, stride: int | Sequence[int] | None = None):
        name = type(self).__name__
        self.size = pair(f"{name}.size", size)
        self.stride = self.size if stride is None else pair(f"{name}.stride", stride)

    @abc.abstractmethod
    def __call__(self, image: Image) -> Inexact[Array, "high wide channel"]:
        """The pooled image."""


class MaxPooling(Pooling):
    r"""The largest number of each window, the first of several that are equal.

    The derivative passes through that one number, in both directions: what pooling takes from a place,
    un-pooling puts back there ($\mathcal P^{-1}$ of the literature).
    """

    def __call__(self, image):
        return _largest(image, self.size, self.stride)


class MeanPooling(Pooling):
    """The mean of each window."""

    def __call__(self, image):
        for n, k in zip(image.shape, self.size, strict=False):
            extent(n, k, 1, 0)
        if self.size == self.stride:
            return jnp.mean(_tiles(image, self.size), (1, 3))
        windows = _windows(image, self.size, self.stride)
        return sum(windows[1:], windows[0]) / len(windows)


def unpool(pooling: Pooling, pooled: Inexact[Array, "high wide channel"], image: Image) -> Image:
    """The transpose of `pooling` at `image`: each pooled number goes back to where it was taken from."""
    return jax.vjp(pooling, image)[1](pooled)[0]


def _windows(image, size, stride):
    """The places of all windows: one array for each place within the window."""
    high, wide = (extent(n, k, s, 0) for n, k, s in zip(image.shape, size, stride, strict=False))
    return [
        image[i : i + stride[0] * (high - 1) + 1 : stride[0], j : j + stride[1] * (wide - 1) + 1 : stride[1]]
        for i, j in itertools.product(range(size[0]), range(size[1]))
    ]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _largest(image, size, stride):
    # Maxima, not masked sums, so that NaN is passed on.
    windows = _windows(image, size, stride)
    return functools.reduce(jnp.maximum, windows)


@_largest.defjvp
def _largest_jvp(size, stride, primals, tangents):
    (image,), (move,) = primals, tangents
    largest = _largest(image, size, stride)
    found, masks = jnp.zeros(largest.shape, bool), []
    for window in _windows(image, size, stride):
        masks.append((window == largest) & ~found)
        found = found | masks[-1]
    if size != stride:
        moves = zip(masks, _windows(move, size, stride), strict=True)
        return largest, sum(jnp.where(mask, m, jnp.zeros_like(m)) for mask, m in moves)
    # Windows that tile the image: its transpose is then one elementwise product, much faster than a sum of pads.
    tiles = _tiles(move, size)
    columns = [jnp.stack(masks[i : i + size[1]], axis=2) for i in range(0, len(masks), size[1])]
    return largest, jnp.sum(jnp.where(jnp.stack(columns, axis=1), tiles, jnp.zeros_like(tiles)), (1, 3))


def _tiles(image, size):
    """(high, row, wide, column, channel): the image cut into windows, what fills no window left out."""
    high, wide = (n // k for n, k in zip(image.shape, size, strict=False))
    whole = image[: high * size[0], : wide * size[1]]
    return whole.reshape(high, size[0], wide, size[1], image.shape[2])


def extent(image: int, kernel: int, stride: int, padding: int) -> int:
    """How many times a kernel fits along one side of an image.

    Raises:
        ValueError: if it does not fit once.
    """
    if kernel > image + 2 * padding:
        raise ValueError(
            f"A kernel of {kernel} does not fit an image of {image} with padding {padding}; "
            "take a smaller kernel or pooling, more padding, or fewer layers."
        )
    return (image + 2 * padding - kernel) // stride + 1


def pair(name: str, value: int | Sequence[int], *, least: int = 1) -> tuple[int, int]:
    """A whole number, or one for height and one for width, as two.

    Raises:
        ValueError: for anything else, and for numbers below `least`.
    """
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or not all(isinstance(n, int) and n >= least for n in both):
        raise ValueError(
            f"`{name}` must be a whole number of at least {least}, or two of them for height and width; got {value}."
        )
    return both
