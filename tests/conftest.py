"""Every test runs in float64, with implicit rank and dtype promotion refused, and from fixed seeds."""

import os

# Each xdist worker gets one core: XLA sizes its pools by the cores it may run on, and workers that
# share all cores only take them from each other. Set before JAX starts its backend.
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if _worker.startswith("gw") and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker[2:]) % len(_cores)]})
os.environ.setdefault("MPLBACKEND", "Agg")
# A test runs a program for milliseconds and compiles it for seconds: compile quickly rather than well.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        os.environ.get("XLA_FLAGS", ""),
    ]
)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)
# A batch may be shared among devices; of three, not all divide it.
jax.config.update("jax_num_cpu_devices", 3)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The first call of a jitted function compiles, so time per example says nothing; the same examples each run.
hypothesis.settings.register_profile(
    "eqprop",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("eqprop")


@pytest.fixture
def getkey():
    """A function that returns a new JAX key each time it is called; the same sequence in every test."""
    keys = iter(range(1_000_000))
    root = jax.random.key(20170)

    def draw():
        return jax.random.fold_in(root, next(keys))

    return draw


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Compiled programs are dropped after each module: thousands of them exhaust what a process may map."""
    yield
    jax.clear_caches()
