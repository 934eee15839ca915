"""`patchwarden policy explain`: rule by rule, why a verdict is what it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.command import Command, Session
from node.cli.errors import EXIT_NO, CommandError
from node.cli.output import table
from node.cli.params import DIGEST, FILE
from node.cli.policy_replay import ARCHIVE, GENESIS, REPLAY, open_policy_ledger

if TYPE_CHECKING:
    from agent.decision import Decision
    from agent.facts import Facts
    from agent.policy import Verdict
    from agent.policy_text import CheckedPolicySet
    from node.cli.policy_replay import PolicyLedger


@click.command(
    "explain",
    cls=Command,
    node=True,
    examples=(
        "patchwarden policy explain --deployment 7c1e… --rpc http://127.0.0.1:7080",
        "patchwarden policy explain policies/ --facts facts.json",
        "patchwarden policy explain policies/ --deployment 7c1e…",
        "patchwarden policy explain --deployment 7c1e… --archive chain.archive --genesis genesis.json",
    ),
)
@click.argument("source", required=False, metavar="[SET]")
@click.option(
    "--facts", type=FILE, metavar="FILE", help="Facts as `policy facts` prints them; they may name only what differs."
)
@click.option(
    "--deployment", type=DIGEST, metavar="ID", help="A decision on the ledger: its intent, or the refusal's outcome."
)
@click.option(
    "--patch",
    type=FILE,
    metavar="FILE",
    help="With --deployment: the patch's file; that of a wide patch has the paths, of which the decision holds the digest.",
)
@ARCHIVE
@GENESIS
@REPLAY
@click.pass_obj
def explain(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    source: str | None,
    facts: Path | None,
    deployment: str | None,
    patch: Path | None,
    archive: Path | None,
    genesis: Path | None,
    replay: bool,
) -> None:
    """Tell what each rule of SET says about facts, or about a decision on the ledger.

    SET is a directory, `current`, a version number, `default` or the id of a proposal. Without it: the built-in set for --facts, and for
    --deployment the set under which it was decided; the verdict must then be the recorded one, and exit code 1 says that it is not.

    A running node is asked about the ledger. An archive, and the home of a stopped node, are replayed from the founding document with every
    signature, which gives the same. Exit code 1 when that chain does not hold.
    """
    if (facts is None) == (deployment is None):
        raise click.UsageError("say either --facts or --deployment")
    if deployment is None and (archive is not None or genesis is not None or replay):
        raise click.UsageError("--archive, --genesis and --replay go with --deployment")
    if deployment is None:
        _emit(session, source, _read_facts(facts), patch, None, None)
        return
    with open_policy_ledger(session, source, archive, genesis, replay=replay) as ledger:
        decision = _recorded(ledger, deployment)
        _emit(session, source, decision.facts, patch, decision, ledger)


def _emit(  # noqa: PLR0917 - what is judged, and by what
    session: Session,
    source: str | None,
    judged: Facts,
    patch: Path | None,
    decision: Decision | None,
    ledger: PolicyLedger | None,
) -> None:
    """Tell what the rules say; end with exit code 1 when a decision is not what was recorded, or the chain does not hold."""
    from agent.policy import PolicyEngine
    from agent.policy_text import check_policy_set
    from node.cli.policy_source import load_set

    name = source or ("default" if decision is None else str(decision.policy_version))
    policy_set = load_set(session, name, ledger)
    checked = check_policy_set(policy_set.schema, policy_set.policies)
    engine = PolicyEngine(checked)
    if not engine.can_judge(judged):
        judged = complete(judged, patch)
    verdict = engine.evaluate(judged)
    document = _document(policy_set.label, checked, verdict, judged)
    lines = list(_lines(document))
    differs = False
    if decision is not None and ledger is not None:
        said = (decision.is_allowed, decision.forbidden_by)
        agrees = said == (verdict.allowed, verdict.forbidden_by)
        differs = (source is None and not agrees) or bool(ledger.findings)
        document["recorded"] = _recorded_document(decision, agrees)
        document.update(ledger.described())
        lines += [*_recorded_lines(decision, agrees), *ledger.lines()]
    session.output.emit(document, lines)
    if differs:
        click.get_current_context().exit(EXIT_NO)


def _recorded(ledger: PolicyLedger, deployment: str) -> Decision:
    from agent.decision import decision_from_json_untrusted

    document = ledger.call("policy.decision", deployment_id=deployment)["decision"]
    if document is None:
        raise CommandError("cli.policy.no_decision", "the decision did not fit into its record", actual=deployment)
    return decision_from_json_untrusted(document)


def complete(facts: Facts, patch: Path | None) -> Facts:
    """Return recorded facts with the paths of a wide patch, which stand in its file."""
    from node.cli.patch_files import read_patch
    from provenance.component_listing import component_paths

    hint = f"patchwarden patch fetch {facts.patch.id} --out FILE, then --patch FILE"
    if patch is None:
        raise CommandError("cli.policy.paths_elsewhere", "the paths of this wide patch stand in its file", hint=hint)
    _, verified = read_patch(patch)
    if verified.patch_id != facts.patch.id:
        raise CommandError(
            "cli.policy.other_patch",
            "the decision is about another patch",
            expected=facts.patch.id,
            actual=verified.patch_id,
        )
    return facts.with_paths(component_paths(verified.metadata.affected_components))


def _read_facts(path: Path | None) -> Facts:
    from agent.facts import facts_from_json_untrusted
    from agent.policy_cases import laid_over
    from agent.sample_facts import SAMPLE_FACTS
    from node.cli.files import read_file
    from wire import canonical_json
    from wire.limits import MEBIBYTE

    assert path is not None, "the caller has looked"
    return facts_from_json_untrusted(
        laid_over(SAMPLE_FACTS.to_json(), canonical_json.decode_untrusted(read_file(path, MEBIBYTE), canonical=False))
    )


def _document(label: str, checked: CheckedPolicySet, verdict: Verdict, facts: Facts) -> dict[str, Any]:
    from agent.decision import ENGINE

    forbidden = dict(verdict.forbidden_by)
    rules = [
        {
            "rule": rule.name,
            "effect": rule.effect,
            "said": "forbade" if rule.name in forbidden else "permitted" if rule.name in verdict.allowed_by else "-",
            "reason": forbidden.get(rule.name, rule.reason),
        }
        for rule in sorted(checked.rules.values(), key=lambda rule: rule.name)
    ]
    others = [
        {"rule": name, "effect": "forbid", "said": "forbade", "reason": reason}
        for name, reason in verdict.forbidden_by
        if name not in checked.rules
    ]
    return {
        "set": label,
        "engine": ENGINE,
        "verdict": "allow" if verdict.allowed else "deny",
        "rules": [*others, *rules],
        "missing": list(verdict.missing),
        "approvals": [
            {"identity": each.identity, "organisation": each.organisation, "role": each.role, "height": each.recorded_height}
            for each in facts.approvals
        ],
        "rejections": [
            {"identity": each.identity, "organisation": each.organisation, "role": each.role, "height": each.recorded_height}
            for each in facts.rejections
        ],
    }  # fmt: skip


def _lines(document: dict[str, Any]) -> Iterator[str]:
    yield f"{document['verdict'].upper()} under {document['set']}"
    yield ""
    order = {"forbade": 0, "permitted": 1, "-": 2}
    rules = sorted(document["rules"], key=lambda each: (order[each["said"]], each["rule"]))
    # What a silent rule would say stands in brackets: it is no finding.
    rows = [
        (each["said"], each["rule"], f"({each['reason']})" if each["said"] == "-" else each["reason"]) for each in rules
    ]
    yield from table(rows, ("said", "rule", "reason"))
    people = len({each["identity"] for each in document["approvals"]})
    organisations = len({each["organisation"] for each in document["approvals"]})
    yield ""
    yield f"approvals that count: {people} people of {organisations} organisations"
    for each in document["approvals"]:
        yield f"  {each['identity']} as {each['role']}, recorded at height {each['height']}"
    for each in document["rejections"]:
        yield f"rejected by {each['identity']} as {each['role']}, recorded at height {each['height']}"
    for sentence in document["missing"]:
        yield f"missing: {sentence}"


def _recorded_document(decision: Decision, agrees: bool) -> dict[str, Any]:
    return {
        "verdict": decision.verdict.value,
        "forbidden_by": [[rule, reason] for rule, reason in decision.forbidden_by],
        "set_aside": list(decision.set_aside),
        "height": decision.height,
        "policy_version": decision.policy_version,
        "policy_hash": decision.policy_hash.hex(),
        "engine": decision.engine,
        "agrees": agrees,
    }


def _recorded_lines(decision: Decision, agrees: bool) -> Iterator[str]:
    for sentence in decision.set_aside:
        yield f"set aside: {sentence}"
    yield ""
    yield (
        f"recorded: {decision.verdict} at height {decision.height} under version {decision.policy_version}, "
        f"by {decision.engine}; {'the same' if agrees else 'NOT THE SAME'}"
    )
