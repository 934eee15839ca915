"""`patchwarden rollout`: bring a patch to groups of hosts in waves, watch it, halt it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.block import when
from node.cli.command import Command, Session, group
from node.cli.lazy import Place
from node.cli.output import fields, short, table
from node.cli.params import DIGEST, FILE, IDENTITY

if TYPE_CHECKING:
    from ledger.rollout_waves import Wave

rollout = group(
    "Bring a patch to groups of hosts in waves, watch it, halt it.\n\nWhose turn it is follows from the ledger alone: each host takes its "
    "own, and the ledger refuses an application out of turn.",
    {
        "assign": Place("node.cli.rollout:assign", "Put hosts into a group."),
        "unassign": Place("node.cli.rollout:unassign", "Take hosts out of their group."),
        "groups": Place("node.cli.rollout:groups", "List groups, or the hosts of one."),
        "create": Place("node.cli.rollout:create", "Begin a rollout."),
        "status": Place("node.cli.rollout:status", "Show how far rollouts have come."),
        "turn": Place("node.cli.rollout:turn", "Show when a host's turn comes."),
        "halt": Place("node.cli.rollout:halt", "Stop a rollout for the time being."),
        "resume": Place("node.cli.rollout:resume", "Let a halted rollout go on."),
        "withdraw": Place("node.cli.rollout:withdraw", "End a rollout for ever."),
    },
)

BAR_WIDTH: Final = 40
_PLOT: Final = (
    ("applied", "#"),
    ("under_way", "~"),
    ("failed", "x"),
    ("rolled_back", "<"),
    ("refused", "!"),
    ("offline", "-"),
    ("waiting", "."),
)
"""What a bar is made of, from the left."""
_SHARE: Final = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?%", re.ASCII)
_TIME: Final = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

_ROLLOUT: Final = click.argument("rollout_id", type=IDENTITY, metavar="ROLLOUT")
_REASON: Final = click.option("--reason", default="", metavar="TEXT", help="Why, for those who read the ledger.")
_HOSTS: Final = click.argument("hosts", type=IDENTITY, nargs=-1, metavar="HOST…")
_HOSTS_FROM: Final = click.option("--hosts-from", type=FILE, metavar="FILE", help="More hosts, one a line.")


class WaveType(click.ParamType["Wave"]):
    """A wave, such as ``canary:5:soak=10m`` or ``tenth:10%:success=95%:blocks=20`` or ``all:all``."""

    name = "wave"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Wave:
        """Return the wave."""
        from ledger.rollout_waves import Wave
        from wire.errors import RejectedError

        name, *parts = str(value).split(":")
        if not parts:
            self.fail("a wave is NAME:REACH, such as canary:5 or tenth:10% or all:all", param, ctx)
        hosts: int | None = None
        share: int | None = None
        if parts[0].isdecimal():
            hosts = int(parts[0])
        else:
            share = 10_000 if parts[0] == "all" else self._share(parts[0], param, ctx)
        settings = {"success": 10_000, "blocks": 0, "soak": 0}
        in_group: str | None = None
        for part in parts[1:]:
            key, _, text = part.partition("=")
            if key == "success":
                settings[key] = self._share(text, param, ctx)
            elif key == "soak":
                settings[key] = time_ms_of(text, self, param, ctx)
            elif key == "blocks" and text.isdecimal():
                settings[key] = int(text)
            elif key == "group":
                in_group = text
            else:
                self.fail(f"{part} is none of success=95%, soak=10m, blocks=20, group=web@acme", param, ctx)
        wave = Wave(name, in_group, hosts, share, settings["success"], settings["blocks"], settings["soak"])
        try:
            return Wave.from_value_untrusted(wave.to_value())
        except RejectedError as error:
            self.fail(error.message, param, ctx)

    def _share(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _SHARE.fullmatch(text)
        if match is None:
            self.fail(f"{text} is no share, such as 10% or 12.5%", param, ctx)
        return int(match[1]) * 100 + int((match[2] or "0").ljust(2, "0"))


class TimeType(click.ParamType[int]):
    """A time such as ``30s``, ``10m``, ``2h`` or ``1d``, as milliseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the milliseconds."""
        return value if isinstance(value, int) else time_ms_of(str(value), self, param, ctx)


def time_ms_of(text: str, kind: click.ParamType[Any], param: click.Parameter | None, ctx: click.Context | None) -> int:
    """Return a time such as ``10m`` in milliseconds."""
    match = _TIME.fullmatch(text)
    if match is None:
        kind.fail(f"{text} is no time, such as 30s, 10m, 2h or 1d", param, ctx)
    return int(match[1]) * _UNITS[match[2]] * 1000


@click.command(
    "assign",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden rollout assign web@acme web1@acme web2@acme --key admin.key",),
)
@click.argument("group_id", type=IDENTITY, metavar="GROUP")
@_HOSTS
@_HOSTS_FROM
@click.pass_obj
def assign(session: Session, group_id: str, hosts: tuple[str, ...], hosts_from: Path | None) -> None:
    """Put HOSTs into GROUP, each out of the group that it is in. Signed by an administrator of their organisation."""
    _assign(session, group_id, hosts, hosts_from)


@click.command(
    "unassign",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden rollout unassign web2@acme --key admin.key",),
)
@_HOSTS
@_HOSTS_FROM
@click.pass_obj
def unassign(session: Session, hosts: tuple[str, ...], hosts_from: Path | None) -> None:
    """Take HOSTs out of their groups. Signed by an administrator of their organisation."""
    _assign(session, None, hosts, hosts_from)


@click.command(
    "groups",
    cls=Command,
    node=True,
    examples=("patchwarden rollout groups", "patchwarden rollout groups web@acme --from 500"),
)
@click.argument("group_id", type=IDENTITY, metavar="[GROUP]", required=False)
@click.option("--from", "start", type=click.IntRange(0), default=0, help="The first place to show.")
@click.option("--limit", type=click.IntRange(1, 500), default=500, show_default=True, help="How many.")
@click.pass_obj
def groups(session: Session, group_id: str | None, start: int, limit: int) -> None:
    """List the groups of hosts, or the hosts of GROUP."""
    if group_id is None:
        found = session.client().call("groups.list", limit=limit)
        rows = [(each["group_id"], each["hosts"], ", ".join(each["rollouts"]) or "-") for each in found]
        session.output.emit(found, table(rows, ("group", "hosts", "rollouts")))
        return
    document = session.client().call("groups.get", **{"group_id": group_id, "from": start, "limit": limit})
    rows = [(start + place, host, "") for place, host in enumerate(document["members"])]
    lines = [f"{document['group_id']}: {document['hosts']} hosts", *table(rows, ("place", "host", ""))]
    if document["next"] is not None:
        lines.append(f"more: --from {document['next']}")
    session.output.emit(document, lines)


@click.command(
    "create",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=(
        "patchwarden rollout create spring@acme --patch 3f2a… --group web@acme --wave canary:5:soak=30m \\\n"
        "      --wave tenth:10%:success=98%:soak=2h --wave all:all --budget 20 --key rita.key",
    ),
)
@_ROLLOUT
@click.option("--patch", "patch_id", type=DIGEST, required=True, metavar="PATCH", help="The published patch.")
@click.option("--group", "group_ids", type=IDENTITY, multiple=True, required=True, help="A group; may be repeated.")
@click.option(
    "--wave",
    "waves",
    type=WaveType(),
    multiple=True,
    required=True,
    metavar="NAME:REACH[:…]",
    help="A wave, in order. REACH: up to so many hosts of each group (5), a share (10%), or all. Then, as wanted, success=95%, soak=10m, "
    "blocks=20, group=web@acme. The last one reaches all.",
)
@click.option(
    "--budget", type=click.IntRange(0), required=True, help="On how many hosts it may fail; one more halts it."
)
@click.option("--description", default="", metavar="TEXT", help="For people.")
@click.pass_obj
def create(  # noqa: PLR0917 - the options of the command line
    session: Session,
    rollout_id: str,
    patch_id: str,
    group_ids: tuple[str, ...],
    waves: tuple[Wave, ...],
    budget: int,
    description: str,
) -> None:
    """Bring the published PATCH to the hosts of some groups, by the name ROLLOUT. Signed by a release manager of the part after @."""
    from ledger.rollout_bodies import RolloutCreate
    from node.cli.submit import submit_body

    body = RolloutCreate(rollout_id, bytes.fromhex(patch_id), tuple(sorted(set(group_ids))), waves, budget, description)
    summary = (
        ("rollout", rollout_id),
        ("patch", patch_id),
        ("groups", ", ".join(body.groups)),
        ("waves", ", ".join(wave.name for wave in waves)),
        ("budget", budget),
    )
    submit_body(session, body, summary)


@click.command(
    "status",
    cls=Command,
    node=True,
    examples=(
        "patchwarden rollout status",
        "patchwarden rollout status spring@acme",
        "patchwarden rollout status -o json",
    ),
)
@click.argument("rollout_id", type=IDENTITY, metavar="[ROLLOUT]", required=False)
@click.option(
    "--offline-after",
    type=TimeType(),
    default="5m",
    show_default=True,
    metavar="TIME",
    help="A host that has said nothing for so long since its wave opened is called offline.",
)
@click.pass_obj
def status(session: Session, rollout_id: str | None, offline_after: int) -> None:
    """Show how far ROLLOUT has come, wave by wave, or list all rollouts."""
    if rollout_id is None:
        found = session.client().call("rollouts.list")
        rows = [
            (
                each["rollout_id"],
                _state(each),
                short(each["patch_id"]),
                f"{sum(wave['applied'] for wave in each['waves'])}/{sum(wave['hosts'] for wave in each['waves'])}",
                f"{each['failures'] - each['failures_forgiven']}/{each['budget']}",
                each["created_height"],
            )
            for each in found
        ]
        session.output.emit(found, table(rows, ("rollout", "state", "patch", "applied", "failures", "height")))
        return
    document = session.client().call("rollouts.get", rollout_id=rollout_id, offline_after_ms=offline_after)
    session.output.emit(document, status_lines(document))


@click.command(
    "turn",
    cls=Command,
    node=True,
    examples=("patchwarden rollout turn spring@acme --host web1@acme",),
)
@_ROLLOUT
@click.option("--host", type=IDENTITY, required=True, help="The host.")
@click.pass_obj
def turn(session: Session, rollout_id: str, host: str) -> None:
    """Show with which wave of ROLLOUT a host goes, and when."""
    document = session.client().call("rollouts.turn", rollout_id=rollout_id, host=host)
    targets = ", ".join(f"{each['target']} {each['state']}" for each in document["targets"])
    lines = fields(
        (
            ("host", host),
            ("wave", document["wave"] + (" (came later)" if document["later"] else "")),
            ("opens", _moment(document["opens"])),
            ("may go", "yes" if document["may_go"] else "no"),
            ("targets", targets or None),
        )
    )
    session.output.emit(document, lines)


def _decides(decision: str, sentence: str) -> click.Command:
    def run(session: Session, rollout_id: str, reason: str) -> None:
        from ledger.rollout_bodies import RolloutDecide
        from node.cli.submit import submit_body

        submit_body(
            session, RolloutDecide(rollout_id, decision, reason), (("rollout", rollout_id), ("decision", decision))
        )

    run.__doc__ = sentence
    example = f"patchwarden rollout {decision} spring@acme --reason 'see ticket 812' --key rita.key"
    command = click.command(decision, cls=Command, node=True, signs=True, submits=True, examples=(example,))
    return command(_ROLLOUT(_REASON(click.pass_obj(run))))


halt: Final = _decides("halt", "Stop ROLLOUT for the time being: nobody begins any more. Signed by its organisation.")
resume: Final = _decides("resume", "Let ROLLOUT go on; failures so far no longer count against its budget.")
withdraw: Final = _decides("withdraw", "End ROLLOUT for ever. Hosts that have the patch keep it.")


def status_lines(document: dict[str, Any]) -> Iterator[str]:
    """Yield a rollout for a person: what it is, a table of its waves, and a plot of them."""
    groups_text = ", ".join(f"{each['group_id']} ({each['hosts']})" for each in document["groups"])
    why = f" by {document['status_by']}" + (f": {document['status_reason']}" if document["status_reason"] else "")
    is_plain = document["status"] == "running" and document["status_height"] == document["created_height"]
    left = document["failures"] - document["failures_forgiven"]
    forgiven = f", and {document['failures_forgiven']} before it was resumed" if document["failures_forgiven"] else ""
    yield from fields(
        (
            ("rollout", document["rollout_id"]),
            ("state", _state(document) + ("" if is_plain else f" since height {document['status_height']}{why}")),
            ("patch", document["patch_id"]),
            ("components", ", ".join(document["components"])),
            ("groups", groups_text),
            ("failures", f"{left} of {document['budget']} that it may have{forgiven}"),
            ("at height", f"{document['height']}, {when(document['time_ms'])}"),
        )
    )
    yield ""
    waves = list(document["waves"])
    if document["later"]["hosts"]:
        waves.append({**document["later"], "name": "(came later)", "needed": 0})
    names = [name for name, _ in _PLOT]
    rows = [
        (wave["name"], wave["hosts"], wave["needed"], *(wave[name] for name in names), _opening(wave)) for wave in waves
    ]
    titles = ("wave", "hosts", "needed", *(name.replace("_", " ") for name in names), "opens")
    yield from table(rows, titles)
    yield ""
    width = max(len(wave["name"]) for wave in waves)
    for wave in waves:
        yield f"{wave['name']:<{width}}  |{bar(wave)}|"
    yield f"{'':<{width}}   " + "  ".join(f"{mark} {name.replace('_', ' ')}" for name, mark in _PLOT)


def bar(wave: dict[str, Any], width: int = BAR_WIDTH) -> str:
    """Return a wave as a bar of `width` characters; whatever is not nothing has at least one of them."""
    total = sum(wave[name] for name, _ in _PLOT)
    if not total:
        return " " * width
    cells = {mark: max(1, wave[name] * width // total) for name, mark in _PLOT if wave[name]}
    while (over := sum(cells.values()) - width) != 0:
        largest = max(cells, key=lambda mark: cells[mark])
        cells[largest] -= over
    return "".join(mark * count for mark, count in cells.items())


def _opening(wave: dict[str, Any]) -> str:
    return "open" if wave["open"] else _moment(wave["opens"])


def _moment(at: dict[str, Any] | None) -> str:
    return "when enough have gone before" if at is None else f"height {at['height']}, {when(at['time_ms'])}"


def _state(document: dict[str, Any]) -> str:
    return "complete" if document["complete"] and document["status"] == "running" else str(document["status"])


def _assign(session: Session, group_id: str | None, hosts: tuple[str, ...], hosts_from: Path | None) -> None:
    from ledger.limits import GROUP_CHANGES_MAX
    from ledger.rollout_bodies import GroupAssign
    from node.cli.files import read_file
    from node.cli.submit import sign, submit, submit_body
    from wire.limits import MEBIBYTE

    names = set(hosts)
    if hosts_from is not None:
        names |= {IDENTITY.convert(line, None, None) for line in read_file(hosts_from, MEBIBYTE).decode().split()}
    if not names:
        raise click.UsageError("name at least one host")
    ordered = sorted(names)
    summary = (("group", group_id or "none"), ("hosts", len(ordered)))
    if len(ordered) <= GROUP_CHANGES_MAX:
        submit_body(session, GroupAssign(group_id, tuple(ordered)), summary)
        return
    if session.transaction_out is not None:
        raise click.UsageError(f"--write-transaction writes one transaction, of at most {GROUP_CHANGES_MAX} hosts")
    client, key = session.client(), session.key()
    parts = [tuple(ordered[at : at + GROUP_CHANGES_MAX]) for at in range(0, len(ordered), GROUP_CHANGES_MAX)]
    signed = [sign(client, GroupAssign(group_id, part), key) for part in parts]
    committed = submit(client, signed, session.timeout_s)
    session.output.emit(
        [each.document() for each in committed],
        fields((*summary, ("transactions", len(committed)), ("height", committed[-1].height))),
    )
