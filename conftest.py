"""Code in README.md and docs/, and the doctests of docstrings, run as tests, set up as a user's session is."""

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

_OURS = {"jax_enable_x64": False, "jax_numpy_rank_promotion": "allow", "jax_numpy_dtype_promotion": "standard"}


def _as_a_user(namespace):
    import jax  # late: tests/conftest.py pins the workers' cores before JAX starts

    namespace["_settings"] = {name: getattr(jax.config, name) for name in _OURS}
    for name, value in _OURS.items():
        jax.config.update(name, value)


def _as_the_tests(namespace):
    import jax

    for name, value in namespace["_settings"].items():
        jax.config.update(name, value)


_pages = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    setup=_as_a_user,
    teardown=_as_the_tests,
)
_docstrings = Sybil(parsers=[DocTestParser()], patterns=["src/**/*.py"], setup=_as_a_user, teardown=_as_the_tests)
pytest_collect_file = (_pages + _docstrings).pytest()
