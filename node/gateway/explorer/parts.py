"""What every page is built from: the frame around it, tables, lists of facts, links to other pages, ways to the next one.

Whatever comes from the ledger stands in a `bdi` or a `code`, which keep its direction to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from node.gateway.explorer.html import Element, Node, el, href

DIGEST_SHOWN: Final = 16
"""Digits of a digest where the whole one would not fit; the link and the title have it whole."""
TEXT_SHOWN_MAX: Final = 4_000
"""Characters of a text from the ledger; what is cut is told."""
SECTIONS: Final = (
    ("Overview", ""),
    ("Rollouts", "rollouts"),
    ("Hosts", "hosts"),
    ("Patches", "patches"),
    ("Identities", "identities"),
    ("Governance", "governance"),
    ("Policy", "policy"),
    ("Blocks", "blocks"),
)


def page(title: str, section: str, *content: Node, asked: str = "") -> Element:
    """Return a whole page.

    Args:
        title: Its heading.
        section: The path of the part of the explorer that it belongs to.
        content: What stands below the heading.
        asked: What the search box holds.
    """
    links = [
        el("li", el("a", name, href=href(path), aria_current="page" if path == section else None))
        for name, path in SECTIONS
    ]
    search = el(
        "form",
        el("label", "Search by any id", for_="q"),
        el(
            "input",
            type="search",
            id="q",
            name="q",
            value=asked or None,
            maxlength=256,
            placeholder="id, name or height",
        ),
        el("button", "Search", type="submit"),
        action=href("search"),
        method="get",
        role="search",
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{title} · Patchwarden"),
        el("link", rel="icon", type="image/svg+xml", href=href("icon.svg")),
        el("link", rel="stylesheet", href=href("style.css")),
    )
    body = el(
        "body",
        el("a", "Skip to the content", href="#content", class_="skip"),
        el(
            "header",
            el(
                "p",
                el("a", el("img", src=href("icon.svg"), alt="", width=24, height=24), " Patchwarden", href=href("")),
                class_="name",
            ),
            el("nav", el("ul", links), aria_label="Main"),
            search,
        ),
        el("main", el("h1", title), content, id="content"),
        el(
            "footer",
            el("p", "Read from this node’s own replica. Nothing can be changed here. Times are the ledger’s, in UTC."),
        ),
    )
    return el("html", head, body, lang="en")


def table(
    caption: str,
    titles: Sequence[str],
    rows: Sequence[Sequence[Node]],
    *,
    numbers: Sequence[int] = (),
    empty: str = "None.",
) -> Element:
    """Return a table whose first column names each row, in a box that scrolls when it is too wide; a sentence where there are no rows.

    Args:
        caption: What it lists.
        titles: The columns.
        rows: Their cells.
        numbers: The columns that hold numbers, by place.
        empty: The sentence.
    """
    if not rows:
        return el("p", empty, class_="empty")
    head = [
        el("th", title, scope="col", class_="number" if place in numbers else None)
        for place, title in enumerate(titles)
    ]
    body = []
    for row in rows:
        cells = []
        for place, value in enumerate(row):
            shown = number(value) if isinstance(value, int) else value
            kind = "number" if place in numbers else None
            cells.append(el("td", shown, class_=kind) if place else el("th", shown, scope="row", class_=kind))
        body.append(el("tr", cells))
    inner = el("table", el("caption", caption), el("thead", el("tr", head)), el("tbody", body))
    return el("div", inner, class_="scroll", tabindex=0, role="region", aria_label=f"{caption}, table")


def facts(*rows: tuple[str, Node]) -> Element:
    """Return names with what they are; None is left out."""
    return el(
        "dl",
        [el("div", el("dt", name), el("dd", _plain(value))) for name, value in rows if value is not None],
        class_="facts",
    )


def section(heading: str, *content: Node, id_: str | None = None) -> Element:
    """Return a part of a page below a heading of the second level."""
    return el("section", el("h2", heading, id=id_), content)


def text(value: object) -> Element:
    """Return a text from the ledger, which keeps its own direction; a long one is cut, and says so."""
    whole = str(value)
    if len(whole) <= TEXT_SHOWN_MAX:
        return el("bdi", whole)
    return el("bdi", whole[:TEXT_SHOWN_MAX], el("em", f" … {len(whole) - TEXT_SHOWN_MAX} more characters"))


def code(value: str) -> Element:
    """Return a code, a path or a digest as it is."""
    return el("code", el("bdi", value))


def number(value: int) -> str:
    """Return a number with a narrow space between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def when(time_ms: int | None) -> Node:
    """Return a moment for people and machines."""
    if time_ms is None:
        return None
    try:
        moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"
    return el("time", moment.strftime("%Y-%m-%d %H:%M:%S"), datetime=moment.strftime("%Y-%m-%dT%H:%M:%SZ"))


def badge(state: str) -> Element:
    """Return a state as a word with a mark of its colour."""
    kind = state.partition(" ")[0].lower().replace("_", "-")
    return el("span", state.replace("_", " ").replace("-", " "), class_=f"badge {kind if kind.isascii() else 'other'}")


def link(label: Node, *path: str | int) -> Element:
    """Return a link to another page."""
    return el("a", label, href=href(*path))


def digest_link(digest: str, *path: str) -> Element:
    """Return a link that shows the beginning of a digest."""
    return el("a", el("code", f"{digest[:DIGEST_SHOWN]}…"), href=href(*path, digest), title=digest)


def identity_link(name: str | None) -> Node:
    """Return a link to an identity; nothing for none."""
    return None if name is None else link(text(name), "identities", name)


def host_link(name: str) -> Element:
    """Return a link to a host."""
    return link(text(name), "hosts", name)


def group_link(name: str | None, otherwise: str) -> Node:
    """Return a link to a group of hosts, or a word for none."""
    return link(text(name), "groups", name) if name else otherwise


def block_link(height: int | None) -> Node:
    """Return a link to a block; nothing for none."""
    return None if height is None else link(number(height), "blocks", height)


def pages(*ways: tuple[str, str | None], what: str) -> Node:
    """Return the links to other pages of a list, each a label and an address; nothing when there are none."""
    items = [el("li", el("a", label, href=address)) for label, address in ways if address is not None]
    return el("nav", el("ul", items), aria_label=f"Pages of {what}", class_="pages") if items else None


def _plain(value: Node) -> Node:
    return number(value) if isinstance(value, int) else value
