"""What a report is made of: sections, with pictures that carry no colour and load nothing of their own."""

import dataclasses

__all__ = ["Headline", "LeftOut", "Picture", "Section"]


class LeftOut(Exception):
    """Raised by the maker of a section that does not apply to a run; the message says why, in a sentence."""


@dataclasses.dataclass(frozen=True)
class Headline:
    """A figure for the head of the report."""

    value: str
    """Such as `97.8 %`."""
    label: str
    """What it is: `test accuracy`."""
    good: bool | None = None
    """True and False are coloured; None is neutral."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """One panel: well-formed XML, an `<svg>` (`eqprop.train.report.figure.panel` makes them) or an `<img>`."""

    markup: str
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """One section of a report. All text is plain text; blank lines part paragraphs."""

    title: str
    text: str = ""
    pictures: tuple[Picture, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    """Rows of cells, the first row the heads of the columns."""
    code: str = ""
    """Shown as typed."""
    headlines: tuple[Headline, ...] = ()
    """What of it goes into the head of the report."""
    folded: bool = False
    """Whether table and code are shown on request only."""
