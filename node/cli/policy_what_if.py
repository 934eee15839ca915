"""`patchwarden policy what-if`: which of the decisions on the ledger would another policy set have taken otherwise?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session
from node.cli.errors import EXIT_NO
from node.cli.output import Progress, short, table, time_text
from node.cli.params import IDENTITY
from node.cli.policy_replay import ARCHIVE, GENESIS, REPLAY, open_policy_ledger

if TYPE_CHECKING:
    from agent.policy import PolicyEngine
    from node.cli.policy_replay import PolicyLedger

PAGE: Final = 200
_DAY_MS: Final = 86_400_000
ALLOWED_THEN: Final = "would be refused"
DENIED_THEN: Final = "would be let in"
SAME: Final = "same"
UNKNOWN: Final = "cannot be judged"


@click.command(
    "what-if",
    cls=Command,
    node=True,
    examples=(
        "patchwarden policy what-if policies/ --days 30",
        "patchwarden policy what-if policies/ --host web1@acme --all",
        "patchwarden policy what-if 9f86… --from 800 --to 1200 -o json",
        "patchwarden policy what-if policies/ --archive chain.archive --genesis genesis.json",
    ),
)
@click.argument("source", metavar="SET")
@click.option("--days", type=click.IntRange(1, 36_500), metavar="N", help="Only decisions of the last N days.")
@click.option(
    "--from", "from_", type=click.IntRange(min=0), metavar="HEIGHT", help="Only decisions from this height on."
)
@click.option("--to", type=click.IntRange(min=0), metavar="HEIGHT", help="Only decisions up to this height.")
@click.option("--host", type=IDENTITY, metavar="HOST", help="Only decisions of this host.")
@click.option("--all", "show_all", is_flag=True, help="List those that stay the same too.")
@ARCHIVE
@GENESIS
@REPLAY
@click.pass_obj
def what_if(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    source: str,
    days: int | None,
    from_: int | None,
    to: int | None,
    host: str | None,
    show_all: bool,
    archive: Path | None,
    genesis: Path | None,
    replay: bool,
) -> None:
    """Judge the decisions that hosts recorded anew under SET, over the facts that they recorded, and list which come out otherwise.

    SET is a directory, `current`, a version number, `default` or the id of a proposal. Nothing is changed.

    A running node is asked. An archive, and the home of a stopped node, are replayed from the founding document with every signature, which
    gives the same. Exit code 1 when that chain does not hold.
    """
    with open_policy_ledger(session, source, archive, genesis, replay=replay) as ledger:
        answer = _answer(session, ledger, source, days, {"from": from_, "to": to, "host": host}, show_all=show_all)
    session.output.emit(answer, [*_lines(answer), *ledger.lines()])
    if ledger.findings:
        click.get_current_context().exit(EXIT_NO)


def _answer(
    session: Session, ledger: PolicyLedger, source: str, days: int | None, chosen: dict[str, Any], *, show_all: bool
) -> dict[str, Any]:
    from agent.policy import PolicyEngine
    from agent.policy_text import check_policy_set
    from node.cli.policy_source import load_set

    policy_set = load_set(session, source, ledger)
    engine = PolicyEngine(check_policy_set(policy_set.schema, policy_set.policies))
    rows: list[dict[str, Any]] = []
    history_start = 0
    since_ms = 0 if days is None else _newest_ms(ledger) - days * _DAY_MS
    with Progress("decisions judged", 0, shown=not session.output.as_json) as progress:
        for page in _pages(ledger, chosen):
            history_start = page["history_start"]
            rows += [judge(engine, each) for each in page["decisions"] if each["time_ms"] >= since_ms]
            progress.update(len(rows))
    counts = {what: sum(row["change"] == what for row in rows) for what in (ALLOWED_THEN, DENIED_THEN, SAME, UNKNOWN)}
    return {
        "set": policy_set.label,
        "decisions": len(rows),
        "would_be_refused": counts[ALLOWED_THEN],
        "would_be_let_in": counts[DENIED_THEN],
        "same": counts[SAME],
        "cannot_be_judged": counts[UNKNOWN],
        "history_start": history_start,
        **ledger.described(),
        "rows": [row for row in rows if show_all or row["change"] != SAME],
    }


def _newest_ms(ledger: PolicyLedger) -> int:
    # The chain's own time: what counts as the last month does not depend on who asks.
    (newest,) = ledger.call("blocks.list", limit=1)
    return int(newest["time_ms"])


def _pages(ledger: PolicyLedger, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the answers: decisions, and below which height none are kept. The last one is empty."""
    begin: dict[str, Any] = {"from": chosen["from"], "after": None}
    while True:
        page: dict[str, Any] = ledger.call("policy.decisions", **{**chosen, **begin, "limit": PAGE})
        yield page
        if not page["decisions"]:
            return
        last = page["decisions"][-1]
        begin = {"from": last["height"], "after": last["deployment_id"]}


def judge(engine: PolicyEngine, document: dict[str, Any]) -> dict[str, Any]:
    """Return the row of one recorded decision: what another policy set says about its facts, or why it cannot be judged."""
    from agent.decision import decision_from_json_untrusted
    from agent.errors import PolicyRefusedError

    row = {
        name: document[name] for name in ("deployment_id", "host", "target", "patch_id", "height", "time_ms", "result")
    }
    try:
        decision = decision_from_json_untrusted(document["decision"])
    except PolicyRefusedError as error:
        return {
            **row,
            "change": UNKNOWN,
            "recorded": None,
            "verdict": None,
            "forbidden_by": [],
            "message": error.message,
        }
    if not engine.can_judge(decision.facts):
        message = "its paths stand in the patch file: policy explain --patch"
        return {
            **row,
            "change": UNKNOWN,
            "recorded": decision.verdict.value,
            "verdict": None,
            "forbidden_by": [],
            "message": message,
        }
    verdict = engine.evaluate(decision.facts)
    change = SAME if verdict.allowed == decision.is_allowed else DENIED_THEN if verdict.allowed else ALLOWED_THEN
    return {
        **row,
        "change": change,
        "recorded": decision.verdict.value,
        "policy_version": decision.policy_version,
        "verdict": "allow" if verdict.allowed else "deny",
        "forbidden_by": [list(each) for each in (verdict.forbidden_by or decision.forbidden_by)],
        "message": "; ".join(verdict.missing),
    }


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            row["height"],
            time_text(row["time_ms"]),
            f"{row['host']}/{row['target']}",
            short(row["patch_id"]),
            row["change"],
            ", ".join(rule for rule, _ in row["forbidden_by"]) or row["message"],
        )
        for row in answer["rows"]
    ]
    if rows:
        yield from table(rows, ("height", "time", "target", "patch", "under the new set", "rules"))
        yield ""
    yield (
        f"{answer['decisions']} decisions under {answer['set']}: {answer['would_be_refused']} would be refused, "
        f"{answer['would_be_let_in']} would be let in, {answer['same']} stay the same"
        + (f", {answer['cannot_be_judged']} cannot be judged" if answer["cannot_be_judged"] else "")
    )
    if answer["history_start"]:
        yield f"this node keeps no decisions below height {answer['history_start']}"
