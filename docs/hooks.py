"""Formulas as MathML when the site is built: no script, no network, when it is read."""

import html
import re

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\([(\[])(.*?)\\[)\]]\s*</\1>', re.DOTALL)


def on_page_content(content, page, **_):
    """Called by mkdocs with the HTML of each page."""

    def formula(match):
        source = html.unescape(match[3]).strip()
        found = convert(source, display="block" if match[2] == "[" else "inline")
        if unknown := re.search(r">(\\\w+)", found):
            raise PluginError(f"{page.file.src_uri}: {unknown[1]} is not known to latex2mathml, in ${source}$")
        return found

    return _FORMULA.sub(formula, content)
