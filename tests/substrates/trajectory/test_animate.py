"""The moving picture: well-formed, self-contained, with what it is asked to show."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from eqprop.substrates.trajectory import animate


def test_a_picture_of_a_free_and_a_nudged_path():
    free = np.stack([np.sin(np.linspace(0, 6, 50)), np.cos(np.linspace(0, 6, 50))], axis=1)
    text = animate(free, free + 1e-3, magnify=100.0, names=["left <1>", "right"], title="A & B")
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}path")) == 4
    assert len(root.findall(f"{space}circle/{space}animate")) == 8
    assert {"left <1>", "right", "A & B"} <= {label.text for label in root.findall(f"{space}text")}
    assert "href" not in text
    # The displacement is magnified: the dashed curve lies 0.1 above, on a picture 2.1 high.
    solid, dashed = (path.get("d").split()[0].lstrip("M") for path in root.findall(f"{space}path")[:2])
    shift = float(solid.split(",")[1]) - float(dashed.split(",")[1])
    assert shift == pytest.approx(192 * 0.1 / np.ptp(np.concatenate([free, free + 0.1])), abs=0.1)


@pytest.mark.parametrize(
    ("free", "nudged", "message"),
    [
        (np.full((5, 1), np.nan), None, "`free` must be finite"),
        (np.zeros(5), None, "got shape"),
        (np.zeros((5, 1)), np.zeros((4, 1)), "of the free path's shape"),
    ],
)
def test_what_cannot_be_drawn_is_refused(free, nudged, message):
    with pytest.raises(ValueError, match=message):
        animate(free, nudged)
