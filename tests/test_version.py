import re

from eqprop.version import __version__


def test_version_is_one_that_semantic_versioning_can_order():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", __version__)
