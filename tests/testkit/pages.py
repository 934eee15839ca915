"""Pages as a strict reader sees them, and a walk over every link from one page on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

VOID = {"br", "col", "hr", "img", "input", "link", "meta", "wbr"}
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
ADDRESSES = {"href", "src", "action", "poster", "data", "formaction", "srcset", "xlink:href", "background", "cite"}
PHRASING = {"p", "h1", "h2", "h3", "h4", "summary", "caption", "dt", "time", "code", "a", "span"}
BLOCK = {
    "p",
    "div",
    "ul",
    "ol",
    "table",
    "section",
    "article",
    "figure",
    "dl",
    "h1",
    "h2",
    "h3",
    "h4",
    "nav",
    "details",
}


@dataclass
class Page(HTMLParser):
    """One document, and everything that is wrong with it."""

    source: str
    links: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self._counts: Counter[str] = Counter()
        self._ids: set[str] = set()
        self._named: list[str] = []
        self._headings: list[int] = []
        self._table: list[bool] = []
        if not self.source.startswith("<!doctype html>"):
            self.faults.append("no doctype")
        self.feed(self.source)
        self.close()
        if self._open:
            self.faults.append(f"never closed: {self._open}")
        self._check_whole()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if len(given) != len(attrs):
            self.faults.append(f"an attribute twice in {tag}")
        self._counts[tag] += 1
        if tag in {"script", "iframe", "object", "embed", "style", "base", "template"}:
            self.faults.append(f"<{tag}>")
        if tag in BLOCK and self._open and self._open[-1] in PHRASING:
            self.faults.append(f"<{tag}> in <{self._open[-1]}>")
        for name, value in given.items():
            if name.startswith("on") or name == "style":
                self.faults.append(f"{name} in {tag}")
            if name in ADDRESSES:
                self._address(tag, name, value or "")
        if (id_ := given.get("id")) is not None:
            if id_ in self._ids:
                self.faults.append(f"id {id_} twice")
            self._ids.add(id_)
        self._named += (given.get("aria-labelledby") or "").split() + (given.get("for") or "").split()
        self._accessible(tag, given)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.faults.append(f"</{tag}> closes {self._open[-1:]}")
            return
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.faults.append(f"a comment: {data[:40]}")

    def _address(self, tag: str, name: str, value: str) -> None:
        parts = urlsplit(value)
        if parts.scheme or parts.netloc:
            self.faults.append(f"{name} of {tag} leads elsewhere: {value}")
        if tag in {"a", "link", "img", "form"}:
            self.links.append(value)

    def _accessible(self, tag: str, given: dict[str, str | None]) -> None:
        if tag == "img" and "alt" not in given:
            self.faults.append("an image without alt")
        if tag == "th" and given.get("scope") not in {"col", "row"}:
            self.faults.append("a th without scope")
        if tag == "svg" and given.get("role") != "img" and given.get("aria-hidden") != "true":
            self.faults.append("an svg that is neither told nor hidden")
        if re.fullmatch("h[1-6]", tag):
            level = int(tag[1])
            if level > (self._headings[-1] if self._headings else 0) + 1:
                self.faults.append(f"{tag} leaves a level out")
            self._headings.append(level)

    def _check_whole(self) -> None:
        for tag in ("html", "head", "body", "title", "header", "main", "footer", "h1"):
            # An svg has titles too.
            if self._counts[tag] < 1 or (self._counts[tag] > 1 and tag not in {"title", "header"}):
                self.faults.append(f"{self._counts[tag]} <{tag}>")
        if self._counts["table"] != self._counts["caption"]:
            self.faults.append("a table without caption")
        self.faults += [f"nothing has the id {name}" for name in self._named if name not in self._ids]
        self.faults += [
            f"nothing has the id {link[1:]}"
            for link in self.links
            if link.startswith("#") and link[1:] not in self._ids
        ]

    @property
    def words(self) -> str:
        """What is read, in one line."""
        return " ".join(" ".join(self.text).split())


@dataclass(frozen=True)
class Answer:
    """What a server says to one address."""

    status: int
    headers: dict[str, str]
    body: str


def check_answer(address: str, answer: Answer) -> Page:
    """Return the page of an answer; fail on whatever is wrong with it or its headers."""
    assert answer.headers["content-security-policy"] == POLICY, address
    assert answer.headers["x-content-type-options"] == "nosniff", address
    assert answer.headers["cache-control"] == "no-store", address
    assert answer.headers["content-type"] == "text/html; charset=utf-8", address
    page = Page(answer.body)
    assert page.faults == [], f"{address}: {page.faults}"
    return page


def crawl(get: Callable[[str], Answer], start: str = "/explorer/", pages_max: int = 400) -> dict[str, Page]:
    """Return every page that links lead to from `start`, at most `pages_max`; each link must resolve, and lead to the explorer."""
    found: dict[str, Page] = {}
    waiting, seen = [start], {start}
    while waiting and len(found) < pages_max:
        address = waiting.pop(0)
        answer = get(address)
        assert answer.status == 200, f"{address}: {answer.status}"
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        page = found[address] = check_answer(address, answer)
        for link in page.links:
            target = urljoin(address, link).partition("#")[0]
            assert target.startswith("/explorer/"), f"{address} links to {target}"
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return found
