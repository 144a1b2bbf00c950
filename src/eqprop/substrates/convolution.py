r"""Convolution and pooling of one image, as sums of matrix products that transpose into matrix products.

A convolution $(w \star s)_{hwd} = \sum_{ijc} w_{ijcd}\, s_{h+i,\,w+j,\,c}$ and its transpose, which carries states back
down, are both needed at every step of a convolutional network at rest. On CPUs XLA runs its own convolution well
in the forward direction only, so there an image is unfolded along its width and contracted with the kernel's
rows: every derivative of that is again a matrix product with shifted slices. Elsewhere XLA's convolution is
used. Images are (height, width, channel), kernels (row, column, channel, feature).
"""

import abc
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

__all__ = ["MaxPooling", "MeanPooling", "Pooling", "convolve", "extent", "pair", "unpool"]

Image = Inexact[Array, "height width channel"]


def convolve(
    image: Image,
    kernel: Inexact[Array, "row column channel feature"],
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
    if jax.default_backend() == "cpu":
        return _by_products(image, kernel, stride, padding, sizes)
    return jax.lax.conv_general_dilated(
        image[None],
        kernel.astype(image.dtype) if not jnp.iscomplexobj(kernel) else kernel,
        stride,
        [(p, p) for p in padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]


def _by_products(image, kernel, stride, padding, sizes):
    """The convolution as one product for each row of the kernel, on the image unfolded along its width."""
    rows, columns = kernel.shape[:2]
    (down, right), (high, wide) = stride, sizes
    padded = jnp.pad(image, ((padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    unfolded = jnp.stack([padded[:, j : j + right * (wide - 1) + 1 : right] for j in range(columns)], axis=2)
    total = jnp.zeros((), image.dtype)
    for i in range(rows):
        band = unfolded[i : i + down * (high - 1) + 1 : down]
        product = jax.lax.dot_general(band, kernel[i], (((2, 3), (0, 1)), ((), ())))
        total = product if i == 0 else total + product
    return total


class Pooling(eqx.Module):
    """One number from each window of a feature map; rows and columns that fill no window are left out."""

    size: eqx.AbstractVar[tuple[int, int]]
    stride: eqx.AbstractVar[tuple[int, int]]

    @abc.abstractmethod
    def __call__(self, image: Image) -> Inexact[Array, "high wide channel"]:
        """The pooled image."""


class MaxPooling(Pooling):
    r"""The largest number of each window, the first of several that are equal.

    The derivative passes through that one number, in both directions: what pooling takes from a place,
    un-pooling puts back there ($\mathcal P^{-1}$ of the literature).

    Args:
        size: Side of the window, or its height and width.
        stride: Step between windows; the size by default.
    """

    size: tuple[int, int] = eqx.field(static=True)
    stride: tuple[int, int] = eqx.field(static=True)

    def __init__(self, size: int | tuple[int, int] = 2, stride: int | tuple[int, int] | None = None):
        self.size = pair("MaxPooling.size", size)
        self.stride = self.size if stride is None else pair("MaxPooling.stride", stride)

    def __call__(self, image):
        return _largest(_windows(image, self.size, self.stride))


class MeanPooling(Pooling):
    """The mean of each window.

    Args:
        size: Side of the window, or its height and width.
        stride: Step between windows; the size by default.
    """

    size: tuple[int, int] = eqx.field(static=True)
    stride: tuple[int, int] = eqx.field(static=True)

    def __init__(self, size: int | tuple[int, int] = 2, stride: int | tuple[int, int] | None = None):
        self.size = pair("MeanPooling.size", size)
        self.stride = self.size if stride is None else pair("MeanPooling.stride", stride)

    def __call__(self, image):
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


@jax.custom_jvp
def _largest(windows):
    # A maximum, not a masked sum, so that NaN is passed on.
    largest = windows[0]
    for window in windows[1:]:
        largest = jnp.maximum(largest, window)
    return largest


@_largest.defjvp
def _largest_jvp(primals, tangents):
    (windows,), (moves,) = primals, tangents
    largest = _largest(windows)
    move, found = jnp.zeros_like(largest), jnp.zeros(largest.shape, bool)
    for window, tangent in zip(windows, moves, strict=True):
        here = (window == largest) & ~found
        move = move + jnp.where(here, tangent, jnp.zeros_like(tangent))
        found = found | here
    return largest, move


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


def pair(name: str, value: int | tuple[int, int], *, least: int = 1) -> tuple[int, int]:
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
