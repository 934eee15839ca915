"""`patchwarden agent doctor`: is this host well?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from node.cli.command import Command, Session
from node.cli.errors import EXIT_NO

if TYPE_CHECKING:
    from node.cli.doctor_checks import Finding


@click.command(
    "doctor", cls=Command, home=True, examples=("patchwarden agent doctor", "patchwarden agent doctor -o json")
)
@click.pass_obj
def doctor(session: Session) -> None:
    """Look at everything that an application on this host needs, and say what to do about what is missing. Nothing is changed.

    Exit code 1 when something fails; warnings do not change it. Ask as the user as whom the node runs.
    """
    found = list(examine(session))
    count = {level: sum(each.level == level for each in found) for level in ("ok", "warn", "fail")}
    document = {"healthy": not count["fail"], **count, "checks": [each.to_json() for each in found]}
    session.output.emit(document, _lines(found, count))
    if count["fail"]:
        click.get_current_context().exit(EXIT_NO)


def examine(session: Session) -> Iterator[Finding]:
    """Yield what every check finds; what a node that does not run cannot be asked is left out."""
    from node.cli import doctor_checks as checks
    from node.config import Home, load_config
    from wire.errors import PatchwardenError, RejectedError

    home, uid, now_ms = Home(session.node_home()), os.geteuid(), time.time_ns() // 1_000_000
    yield from checks.check_home(home, uid)
    if not home.path.is_dir():
        return
    try:
        config = load_config(home)
    except RejectedError as error:
        yield checks.Finding("settings", checks.Level.FAIL, f"{error.message} [{error.code}]", error.hint)
        return
    settings = list(checks.check_settings(config))
    yield from settings
    if any(each.level is checks.Level.FAIL for each in settings):
        return
    try:
        client = session.client()
        node, agent = client.call("status"), client.call("agent.status")
        policy = client.call("policy.get")
    except PatchwardenError as error:
        yield checks.Finding("node", checks.Level.FAIL, f"{error.message} [{error.code}]", error.hint)
        return
    yield checks.Finding("node", checks.Level.OK, f"{node['name']} answers, version {node['version']}")
    yield from checks.check_replica(agent, node, now_ms)
    yield from checks.check_peers(node)
    try:
        identity = client.call("identities.get", identity=config.identity)
        yield from checks.check_identity(identity, node["node_key_id"], now_ms)
    except RejectedError as error:
        hint = "an administrator registers it: `patchwarden identity register`"
        yield checks.Finding("identity", checks.Level.FAIL, f"{error.message} [{error.code}]", hint)
    yield from checks.check_certificates(node)
    yield from checks.check_policy(policy)
    yield from checks.check_outbox(agent)
    yield from checks.check_inbox(agent)
    if not agent["targets"]:
        yield checks.Finding("targets", checks.Level.WARN, "guards nothing", "`patchwarden agent target add`")
    owner = home.path.stat().st_uid
    for target in agent["targets"]:
        yield from checks.check_target(target, judge_writing=owner == uid, uid=owner)


def _lines(found: list[Finding], count: dict[str, int]) -> Iterator[str]:
    for each in found:
        subject = each.check if each.target is None else f"{each.target} {each.check}"
        hint = f"; {each.hint}" if each.hint else ""
        yield f"{each.level.upper() if each.level == 'fail' else each.level:<4}  {subject}: {each.message}{hint}"
    yield f"{count['ok']} are well, {count['warn']} warnings, {count['fail']} failures"
