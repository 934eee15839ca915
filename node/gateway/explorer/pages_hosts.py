"""Pages about hosts: the list, and one with its targets, their drift with the paths, and what it recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from node.gateway.explorer.html import Element, Node, el, href
from node.gateway.explorer.parts import (
    badge,
    block_link,
    code,
    digest_link,
    facts,
    group_link,
    host_link,
    identity_link,
    page,
    pages,
    section,
    table,
    text,
    when,
)

Document = dict[str, Any]

NO_PATCH: Final = "0" * 64
"""What a refused file without a readable body is recorded under."""


def hosts_page(found: Sequence[Document], ways: Node) -> Element:
    """Return hosts in order of id."""
    rows = [
        (
            host_link(each["host"]),
            badge(each["status"]),
            group_link(each["group"], "none"),
            each["targets_total"],
            badge(f"drifted {each['targets_drifted']}") if each["targets_drifted"] else "none",
            each["records"],
            block_link(each["recorded_height"]) if each["recorded_height"] is not None else "never",
        )
        for each in found
    ]
    titles = ("host", "identity", "group", "targets", "drift", "records", "last one in block")
    empty = "No host is registered: an identity with the role host."
    return page("Hosts", "hosts", table("Hosts in order of id", titles, rows, numbers=(3, 5, 6), empty=empty), ways)


def host_page(host: Document, records: Document, *, is_first: bool) -> Element:
    """Return one host.

    Args:
        host: What it is, with its targets.
        records: One page of its intents and outcomes, the newest first.
        is_first: Whether the page begins with the newest.
    """
    name = host["host"]
    drifted = host["targets_drifted"]
    return page(
        name,
        "hosts",
        facts(
            ("Identity", [identity_link(name), " ", badge(host["status"])]),
            ("Organisation", text(host["organisation"])),
            ("Group", group_link(host["group"], "none")),
            ("Targets", [str(host["targets_total"]), [", ", badge(f"drifted {drifted}")] if drifted else None]),
            ("Records", host["records"]),
            ("Last one", block_link(host["recorded_height"])),
            ("As of", ["block ", block_link(host["height"]), ", ", when(host["time_ms"])]),
        ),
        section(
            "Targets",
            [_target(each) for each in host["targets"]]
            or el("p", "The ledger knows of no target of this host yet.", class_="empty"),
            el("p", "It has more targets than these.", class_="notice") if host["targets_more"] else None,
        ),
        section("Decisions and outcomes", _records(name, records, is_first=is_first)),
    )


def _target(target: Document) -> Element:
    digest = target["tree_digest"]
    rows = [
        (digest_link(each["patch_id"], "patches"), block_link(each["height"])) for each in reversed(target["installed"])
    ]
    return el(
        "article",
        el("h3", text(target["target"]), " ", badge("drifted") if target["report_kind"] == "drift" else None),
        facts(
            ("Recorded tree", code(digest) if digest else "none: no patch was applied yet"),
            ("Last changed in block", block_link(target["changed_height"])),
        ),
        _report(target["report"]),
        table(
            "Installed patches, the newest first",
            ("patch", "since block"),
            rows,
            numbers=(1,),
            empty="No patch is installed.",
        ),
    )


def _report(report: Document | None) -> Node:
    if report is None:
        return el("p", "Nothing was reported about it.")
    told = el(
        "p",
        "Last report: ",
        badge(report["kind"]),
        " in block ",
        block_link(report["height"]),
        ", ",
        when(report["time_ms"]),
        ", transaction ",
        digest_link(report["tx_id"], "transactions"),
        ".",
    )
    if report["kind"] != "drift":
        return told
    detail = report["detail"]
    if detail is None:
        return [told, el("p", "What the host said is not kept here, or is not readable.", class_="notice")]
    given = detail.get("paths")
    paths = [each for each in given if isinstance(each, str)] if isinstance(given, list) else []
    count = detail.get("paths_count")
    missing = count - len(paths) if type(count) is int else 0
    problem, problem_code = detail.get("problem"), detail.get("problem_code")
    unrecorded = detail.get("unrecorded")
    recorded, found = detail.get("recorded_tree_digest"), detail.get("tree_digest")
    return [
        told,
        facts(
            ("Found tree", code(found) if isinstance(found, str) else "none that can be guarded"),
            ("Recorded tree then", code(recorded) if isinstance(recorded, str) else None),
            ("Problem", [text(problem), " ", code(str(problem_code))] if problem is not None else None),
            ("Unrecorded change", text(unrecorded) if unrecorded is not None else None),
        ),
        el("h4", "Paths that differ") if paths else None,
        el("ul", [el("li", code(each)) for each in paths], class_="paths") if paths else None,
        el("p", f"{missing} more paths differ; the report had no room for them.") if missing > 0 else None,
    ]


def _records(name: str, records: Document, *, is_first: bool) -> Node:
    rows = [
        (
            each["counter"],
            when(each["time_ms"]),
            block_link(each["height"]),
            [each["kind"], " ", digest_link(each["tx_id"], "transactions")],
            text(each["target"]),
            "none" if each["patch_id"] == NO_PATCH else digest_link(each["patch_id"], "patches"),
            _verdict(each),
        )
        for each in records["records"]
    ]
    titles = ("number", "time", "block", "record", "target", "patch", "what came of it")
    last = records["next"]
    empty = "It has recorded nothing that this node keeps."
    return [
        table("Intents and outcomes, the newest first", titles, rows, numbers=(0, 2), empty=empty),
        pages(
            ("Newest records", None if is_first else href("hosts", name)),
            ("Older records", None if last is None else href("hosts", name, before=last)),
            what="records",
        ),
    ]


def _verdict(record: Document) -> Node:
    told: list[Node] = []
    if record["result"] is not None:
        kind = {"SUCCESS": "success", "ROLLED_BACK": "rolled-back"}.get(record["result"], "error")
        told.append(el("span", el("code", text(record["result"])), class_=f"badge {kind}"))
    if record["verdict"] is not None:
        told += [" policy: ", text(record["verdict"])]
    if record["reason"]:
        told += [" ", code(record["reason"])]
    if record["message"]:
        told += [el("br"), text(record["message"])]
    return el("div", told, class_="told") if told else "announced"
