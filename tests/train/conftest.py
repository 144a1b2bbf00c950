import pytest

from eqprop.train.config import load_config

TINY = (
    "epochs=2",
    "batch_size=10",
    "precision=float64",
    "checkpoint_seconds=0",
    "data.train_examples=200",
    "data.test_examples=50",
    "recipe.hidden=[8]",
)


@pytest.fixture(scope="session")
def tiny():
    """A configuration that trains in well under a second."""
    return load_config("digits", TINY)


@pytest.fixture(scope="session")
def tiny_experiment(tiny):
    return tiny.build()
