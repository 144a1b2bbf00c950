"""Ways to compute a convolution and its transpose inside a loop, measured: layout, patches, precision.

Run `python benchmarks/layouts.py`: prints a table, and writes `layouts.json` to `benchmarks/results`. Each loop
carries a map of 12 x 12 x 32 up through a 5x5 convolution to 64 features, and down again by the transpose, as every
sweep of a convolutional Hopfield network does; rates are of useful operations. On this table rests what `convolve` does
on a processor; run it on another backend before trusting the choice there.
"""

import functools

import jax
import jax.numpy as jnp
from _measure import options, product_rate, save, seconds

from eqprop.substrates.convolution import convolve

LOW, KERNEL, HIGH = (12, 12, 32), (5, 5, 32, 64), (8, 8, 64)


def channels_last(low, kernel):
    """XLA's convolution, (height, width, channel)."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(low, kernel, (1, 1), "VALID", dimension_numbers=layout)


def channels_first(low, kernel):
    """XLA's convolution, (channel, height, width)."""
    layout = ("NCHW", "HWIO", "NCHW")
    return jax.lax.conv_general_dilated(low, kernel, (1, 1), "VALID", dimension_numbers=layout)


def patches(low, kernel):
    """Every window written out, then one matrix product."""
    rows, columns = kernel.shape[:2]
    high, wide = low.shape[1] - rows + 1, low.shape[2] - columns + 1
    windows = [low[:, i : i + high, j : j + wide] for i in range(rows) for j in range(columns)]
    return jnp.dot(jnp.concatenate(windows, axis=3), kernel.reshape(-1, kernel.shape[3]))


def ours(low, kernel):
    """The library's: XLA's forwards, matrix products with shifted rows backwards."""
    return jax.vmap(lambda image: convolve(image, kernel))(low)


WAYS = {
    "NCHW, XLA's derivative": (channels_first, (0, 3, 1, 2)),
    "NHWC, XLA's derivative": (channels_last, (0, 1, 2, 3)),
    "NHWC, patches": (patches, (0, 1, 2, 3)),
    "NHWC, the library's": (ours, (0, 1, 2, 3)),
}


def rates(way, order, batch, dtype, repeats):
    """Useful GFLOP/s in a loop: convolution alone, and with its transpose."""
    keys = jax.random.split(jax.random.key(0), 2)
    low = jax.random.uniform(keys[0], (batch, *LOW)).transpose(order).astype(dtype)
    kernel = (0.02 * jax.random.normal(keys[1], KERNEL)).astype(dtype)

    @functools.partial(jax.jit, static_argnums=2)
    def loop(low, kernel, both, count):
        def body(_, low):
            high, down = jax.vjp(lambda low: way(low, kernel), low)
            # What is carried on depends on every number computed, and neither grows nor is known before.
            if both:
                return jnp.tanh(down(jnp.tanh(high))[0])
            return low + jnp.asarray(1e-6, low.dtype) * jnp.sum(jnp.tanh(high))

        return jax.lax.fori_loop(0, count, body, low)

    def each(both):
        few, many = (seconds(lambda n=n: loop(low, kernel, both, n), repeats) for n in (2, 10))
        return (many - few) / 8

    work = 2 * batch * HIGH[0] * HIGH[1] * HIGH[2] * KERNEL[0] * KERNEL[1] * KERNEL[2] / 1e9
    forward, whole = each(False), each(True)
    return {"forward": work / forward, "both": 2 * work / whole}


def main():
    """Measure, print, write."""
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        limit = product_rate(arguments.repeats, dtype)
        rows[dtype.__name__] = found = {"matrix product": {"forward": limit, "both": limit}}
        for name, (way, order) in WAYS.items():
            found[name] = rates(way, order, arguments.batch, dtype, arguments.repeats)
        for name, row in found.items():
            print(f"{dtype.__name__:9s} {name:24s} forward {row['forward']:7.1f}, both {row['both']:7.1f} GFLOP/s")
    result = {"batch": arguments.batch, "gflops": rows}
    save(result, arguments.out, "layouts")


if __name__ == "__main__":
    main()
