"""The result of a replay as one HTML page that needs nothing else: to file, to print, to send on."""

from __future__ import annotations

from html import escape
from typing import Any, Final

_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884 }
td { overflow-wrap: anywhere }
code { font-size: .9em }
.verdict { font-size: 1.3rem; font-weight: 600; padding: .6rem 1rem; border-left: .4rem solid; margin: 1rem 0 }
.holds { border-color: #2a7d3f } .fails { border-color: #b3261e }
"""

_FACTS: Final = (
    ("chain_id", "Chain"),
    ("source", "Read from"),
    ("genesis_hash", "Founding document"),
    ("level", "Level"),
    ("blocks", "Blocks"),
    ("transactions", "Transactions"),
    ("certified_height", "Certified up to height"),
    ("block_hash", "Last block"),
    ("state_root", "State root, derived"),
    ("seconds", "Seconds"),
)


def render_html(document: dict[str, Any]) -> str:
    """Return the page for a replay's document."""
    valid = document["valid"]
    findings = document["findings"]
    verdict = "The chain holds." if valid else f"The chain does not hold: {len(findings)} findings."
    facts = "".join(
        f"<tr><th scope=row>{escape(title)}</th><td><code>{escape(str(document[name]))}</code></td></tr>"
        for name, title in _FACTS
        if document[name] is not None
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{cell}</td>"
            for cell in (
                escape(str(each["height"])),
                escape("" if each["index"] is None else str(each["index"])),
                f"<code>{escape(each['what'])}</code>",
                escape(each["message"]),
                f"<code>{escape(each['expected'])}</code>",
                f"<code>{escape(each['actual'])}</code>",
            )
        )
        + "</tr>"
        for each in findings
    )
    table = (
        "<h2>Findings</h2><table><thead><tr><th>Block</th><th>Transaction</th><th>Rule</th><th>What</th>"
        f"<th>Derived</th><th>Chain says</th></tr></thead><tbody>{rows}</tbody></table>"
        if findings
        else ""
    )
    trust = (
        ""
        if document["genesis_given"]
        else "<p>The founding document came from the same source as the chain. Compare its hash with one that you trust.</p>"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Audit of {escape(document['chain_id'])}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Audit of {escape(document['chain_id'])}</h1>"
        f'<p class="verdict {"holds" if valid else "fails"}">{escape(verdict)}</p>{trust}'
        f"<table><tbody>{facts}</tbody></table>{table}</body></html>\n"
    )
