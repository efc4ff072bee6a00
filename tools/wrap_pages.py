"""Wraps the prose of Markdown pages at 100 characters; code, tables, headings and what tools wrote stay as they are.

    python tools/wrap_pages.py [PAGE ...]             without pages: README, CONTRIBUTING, labels/README and all of docs/
"""

import re
import sys
import textwrap
from pathlib import Path

WIDTH = 100
ITEM = re.compile(r"(\s*)([*+-]|\d+\.) +")
LITERAL = re.compile(r"\s*(\||#|<!--|!\[|:::|--8<--|!!!|</?\w+>?$)")
MARKER = re.compile(r"([*+#>|-]|\d+\.)(\s|$)")       # would begin a list, a heading, ... where it begins a line


def wrapped(text: str) -> str:
    """A page with its paragraphs and the items of its lists wrapped."""
    lines: list[str] = []
    paragraph: list[str] = []
    fenced = made = False

    def close() -> None:
        if paragraph:
            lines.extend(_paragraph(paragraph))
            paragraph.clear()

    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        made = made or (": made by " in line and line.startswith("<!--"))
        inside_item = bool(paragraph) or (bool(lines) and bool(ITEM.match(lines[-1])))
        if fence or fenced or made or not line.strip() or LITERAL.match(line) or (line.startswith("    ") and not inside_item):
            close()
            lines.append(line)
        else:
            if ITEM.match(line):
                close()
            paragraph.append(line)
        fenced ^= fence
        made = made and not line.startswith("<!-- end")
    close()
    return "\n".join(lines) + "\n"


def _paragraph(lines: list[str]) -> list[str]:
    """One paragraph or item."""
    item = ITEM.match(lines[0])
    first = item[0] if item else re.match(r"\s*", lines[0])[0]
    after = " " * len(first)
    words = " ".join([lines[0][len(first):], *(line.strip() for line in lines[1:])]).split()
    for k in range(1, len(words)):
        if MARKER.fullmatch(words[k] + " "):
            words[k] = "\0" + words[k]                    # stays with the word before it
    text = " ".join(words).replace(" \0", "\0")
    said = textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=after, break_long_words=False,
                         break_on_hyphens=False)
    return [line.replace("\0", " ") for line in said]


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    pages = [Path(a) for a in sys.argv[1:]] or [root / "README.md", root / "CONTRIBUTING.md", root / "labels" / "README.md",
                                                root / "tools" / "parity_head.md", *sorted((root / "docs").rglob("*.md"))]
    for page in pages:
        page.write_text(wrapped(page.read_text()))
