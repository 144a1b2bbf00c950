"""Reports: what was trained, how well, and the proof that it learned from the true gradient, in one HTML file."""

from eqprop.train.report.page import write_report
from eqprop.train.report.section import Headline, LeftOut, Picture, Section

__all__ = ["Headline", "LeftOut", "Picture", "Section", "write_report"]
