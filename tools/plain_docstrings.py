"""For mkdocs.yml: docstrings stand in the API reference as they are written, and nothing in them is taken for Markdown."""

import html
from typing import Any

import griffe


class PlainDocstrings(griffe.Extension):
    """Every docstring becomes preformatted text."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for each module, class, function and attribute that it has read."""
        if obj.docstring and not obj.docstring.value.startswith("<pre"):
            obj.docstring.value = f'<pre class="docstring">{html.escape(obj.docstring.value)}</pre>'
