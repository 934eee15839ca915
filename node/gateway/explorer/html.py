"""HTML as values: what is not an element is text, and text is escaped where it is written. So no page can forget it.

Element and attribute names are written by us; everything else may come from a stranger. There is no way to put raw markup in.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias, Union
from urllib.parse import quote, urlencode

Node: TypeAlias = Union["Element", str, int, None, Iterable["Node"]]
"""What an element can hold: elements, texts, numbers, nothing, and any series of these."""

VOID: Final = frozenset({"br", "col", "hr", "img", "input", "link", "meta", "wbr"})
"""Elements of HTML that have no content and no end tag."""
_NAME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")
_FORBIDDEN: Final = re.compile(r"on.*|style")
"""Attributes that the content security policy would ignore: whoever writes one has made a mistake."""
_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Characters that are not shown, end lines, or turn the direction of what follows."""


@dataclass(frozen=True, slots=True)
class Element:
    """An element with its attributes and what it holds."""

    name: str
    """Such as ``p``."""
    attributes: tuple[tuple[str, str], ...]
    """Name and value, in order; an empty value stands for the bare name."""
    children: tuple[Node, ...]
    """What it holds."""


def el(name: str, /, *children: Node, **attributes: str | int | bool | None) -> Element:
    """Return an element.

    Args:
        name: Its name.
        children: What it holds.
        attributes: ``class_`` and ``for_`` lose their underscore, others become hyphens (``aria_label``). True gives the bare name, None
            and False leave the attribute out.
    """
    given = []
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        assert _NAME.fullmatch(attribute), f"{attribute} is no attribute"
        assert not _FORBIDDEN.fullmatch(attribute), f"{attribute} is no attribute of ours"
        if value is None or value is False:
            continue
        given.append((attribute, "" if value is True else str(value)))
    assert _NAME.fullmatch(name), f"{name} is no element"
    assert not (name in VOID and children), f"{name} holds nothing"
    return Element(name, tuple(given), children)


def shown(text: str) -> str:
    """Return `text` with every character that would hide or turn others replaced by its number, such as ``[U+202E]``."""
    return _CONTROLS.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)


def render(page: Element) -> str:
    """Return the page as a document of HTML."""
    return "<!doctype html>\n" + "".join(_pieces(page)) + "\n"


def _pieces(node: Node) -> Iterator[str]:
    if node is None:
        return
    if isinstance(node, str):
        yield html.escape(shown(node))
    elif isinstance(node, int):
        yield str(node)
    elif isinstance(node, Element):
        attributes = "".join(
            f' {name}="{html.escape(shown(value))}"' if value else f" {name}" for name, value in node.attributes
        )
        yield f"<{node.name}{attributes}>"
        if node.name not in VOID:
            for child in node.children:
                yield from _pieces(child)
            yield f"</{node.name}>"
    else:
        for child in node:
            yield from _pieces(child)


def href(*parts: str | int, **query: str | int | None) -> str:
    """Return the address of one of the explorer's pages: `parts` below its root, each escaped, and what is set of `query`."""
    path = "/".join(quote(str(part), safe="@") for part in parts)
    asked = urlencode({name.rstrip("_"): value for name, value in query.items() if value is not None})
    return f"/explorer/{path}{'?' + asked if asked else ''}"
