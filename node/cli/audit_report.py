"""The result of a replay as a file: JSON, or one HTML page that needs nothing else, to keep, to print, to send on.

The page has no script and loads nothing, and says so to the browser. Whatever the chain says is escaped, invisible and bidirectional
characters included.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any, Final

from node.cli.audit_replay import place_of
from node.cli.output import printable_lines, time_text
from node.cli.recovery_mark import mark_lines

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8883; --soft: #8881; --good: #1a7f37; --bad: #c62828; --quiet: #777 }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem }
h1 { font-size: 1.7rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
p { margin: .5rem 0 } .quiet { color: var(--quiet) }
code { font: .875em/1.5 ui-monospace, monospace; overflow-wrap: anywhere }
.verdict { display: flex; gap: 1rem; align-items: center; margin: 1.5rem 0; padding: 1rem 1.25rem; border-radius: .6rem;
  border: 1px solid; font-size: 1.2rem; font-weight: 600 }
.verdict span { font-size: 1.6rem; line-height: 1 }
.holds { color: var(--good); border-color: var(--good) } .fails { color: var(--bad); border-color: var(--bad) }
.note { padding: .7rem 1rem; background: var(--soft); border-radius: .4rem }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; padding: 0; margin: 1rem 0 }
.figures div { background: var(--soft); border-radius: .5rem; padding: .7rem .9rem }
.figures dt { color: var(--quiet); font-size: .85rem } .figures dd { margin: 0; font-size: 1.25rem; font-weight: 600 }
table { border-collapse: collapse; width: 100%; font-size: .95rem }
th, td { text-align: left; vertical-align: top; padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line) }
td { overflow-wrap: anywhere } thead th { color: var(--quiet); font-weight: 500; font-size: .85rem }
tbody th { font-weight: 500; white-space: nowrap; width: 14rem }
.values { display: grid; grid-template-columns: max-content 1fr; gap: .15rem .8rem; margin: .3rem 0 0 }
.values dt { color: var(--quiet) } .values dd { margin: 0 }
.first { border-left: .3rem solid var(--bad); padding: .2rem 0 .2rem 1rem }
@media print { body { padding: 0; max-width: none } tr, .first { break-inside: avoid } }
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"

_FACTS: Final = (
    ("chain_id", "Chain"),
    ("source", "Read from"),
    ("genesis_hash", "Founding document"),
    ("certified_height", "Certified up to height"),
    ("block_hash", "Last block"),
    ("state_root", "State root, derived"),
)
_LEVELS: Final = {
    "headers": "Form, links, heights, times, the roots over the transactions, and what each certificate is about. No signatures.",
    "signatures": "Form, links, roots, and every signature of the validators: proposers, elections, commit certificates.",
    "full": "Everything: links, roots, elections, certificates, and every transaction with its signature, its rule and the state after it.",
}
ROWS_MAX: Final = 1_000
"""Findings in the page's table; the JSON report has all that were kept."""


def write_report(path: Path, document: dict[str, Any]) -> None:
    """Write the result of a replay to `path`, in the form that its suffix names.

    Raises:
        FileError: ``cli.file.unwritable``.
    """
    from node.cli.files import write_file

    if path.suffix == ".json":
        write_file(path, json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n")
    else:
        write_file(path, render_html(document).encode())


def render_html(document: dict[str, Any]) -> str:
    """Return the page for a replay's document."""
    chain = _text(document["chain_id"])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        f'<meta name="viewport" content="width=device-width"><title>Audit of {chain}</title><style>{_STYLE}</style></head>'
        f"<body><h1>Audit of {chain}</h1>"
        f'<p class="quiet">Patchwarden, level {_text(document["level"])}: {_text(_LEVELS[document["level"]])}</p>'
        f"{_verdict(document)}{_figures(document)}{_trust(document)}{_recoveries(document)}{_first(document)}{_facts(document)}{_codes(document)}{_findings(document)}"
        "</body></html>\n"
    )


def _verdict(document: dict[str, Any]) -> str:
    if document["valid"]:
        return '<p class="verdict holds"><span>✓</span>The chain holds.</p>'
    count = len(document["findings"]) + document["findings_omitted"]
    found = "1 finding" if count == 1 else f"{count:,} findings"
    return f'<p class="verdict fails"><span>✗</span>The chain does not hold: {found}.</p>'


def _recoveries(document: dict[str, Any]) -> str:
    return "".join(f'<div class="first"><p>{_text(line)}</p></div>' for line in mark_lines(document["recoveries"]))


def _figures(document: dict[str, Any]) -> str:
    rate = document["transactions_per_second"]
    figures = (
        ("Blocks", f"{document['blocks']:,}"),
        ("Transactions", f"{document['transactions']:,}"),
        ("Last block made", _when(document["time_ms"])),
        ("Time taken", f"{document['seconds']:,.1f} s"),
        ("Transactions a second", "" if rate is None else f"{rate:,}"),
    )
    items = "".join(f"<div><dt>{title}</dt><dd>{_text(value)}</dd></div>" for title, value in figures if value)
    return f'<dl class="figures">{items}</dl>'


def _trust(document: dict[str, Any]) -> str:
    if document["genesis_given"]:
        return '<p class="note">Nothing was believed but the founding document that the auditor named.</p>'
    return (
        '<p class="note">The founding document came from the same source as the chain. '
        "Compare its hash with one that you trust before you believe the rest.</p>"
    )


def _first(document: dict[str, Any]) -> str:
    if not document["findings"]:
        return ""
    finding = document["findings"][0]
    return (
        f'<h2>First divergence</h2><div class="first"><p><strong>{_text(place_of(finding))}</strong>: '
        f"{_text(finding['message'])}</p><p><code>{_text(finding['what'])}</code></p>{_values(finding)}</div>"
    )


def _facts(document: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{title}</th><td><code>{_text(document[name])}</code></td></tr>"
        for name, title in _FACTS
        if document[name] is not None
    )
    return f"<h2>The chain</h2><table><tbody>{rows}</tbody></table>"


def _codes(document: dict[str, Any]) -> str:
    if len(document["codes"]) < 2:
        return ""
    rows = "".join(
        f"<tr><th scope=row><code>{_text(code)}</code></th><td>{count:,}</td></tr>"
        for code, count in document["codes"].items()
    )
    return f"<h2>Findings by rule</h2><table><tbody>{rows}</tbody></table>"


def _findings(document: dict[str, Any]) -> str:
    findings = document["findings"]
    if not findings:
        return ""
    rows = "".join(
        f"<tr><td>{_text(place_of(each))}</td><td>{_text(each['message'])}{_values(each)}</td>"
        f"<td><code>{_text(each['what'])}</code></td></tr>"
        for each in findings[:ROWS_MAX]
    )
    more = len(findings) + document["findings_omitted"] - len(findings[:ROWS_MAX])
    rest = f'<p class="quiet">{more:,} more are not shown here.</p>' if more else ""
    return (
        "<h2>Findings</h2><table><thead><tr><th>Place</th><th>What</th><th>Rule</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{rest}"
    )


def _values(finding: dict[str, Any]) -> str:
    if not finding["expected"] and not finding["actual"]:
        return ""
    return (
        f'<dl class="values"><dt>derived</dt><dd><code>{_text(finding["expected"])}</code></dd>'
        f"<dt>chain says</dt><dd><code>{_text(finding['actual'])}</code></dd></dl>"
    )


def _when(time_ms: int) -> str:
    try:
        return time_text(time_ms)
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"  # A forged header can name any time.


def _text(value: object) -> str:
    return escape(printable_lines(str(value)))
