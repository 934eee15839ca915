"""The command `patchwarden`: the groups by name, and the one place where errors become sentences and exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

from node.cli.command import CONTEXT, wants_json
from node.cli.errors import (
    EXIT_BUG,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_NO,
    EXIT_USAGE,
    exit_code,
    from_os_error,
    worst,
)
from node.cli.lazy import LazyGroup, Place
from node.cli.output import printable, printable_lines
from wire.errors import PatchwardenError

PLACES: Final = {
    "demo": Place("node.cli.demo:demo", "The whole story on this machine in one command."),
    "key": Place("node.cli.key:key", "Make, show and import signing keys."),
    "network": Place("node.cli.network:network", "Found a network."),
    "node": Place("node.cli.node:node", "Set up, run and ask a node."),
    "identity": Place("node.cli.identity:identity", "Register people, services and hosts; rotate and revoke keys."),
    "governance": Place("node.cli.governance:governance", "Propose and vote on what all organisations decide."),
    "tx": Place("node.cli.tx:tx", "Show, submit and wait for transactions."),
    "block": Place("node.cli.block:block", "Show, list and follow blocks."),
    "receipt": Place("node.cli.receipt:receipt", "Get a transaction's portable receipt; verify one offline."),
    "proof": Place("node.cli.proof:proof", "Prove what the ledger says, or does not say; verify it offline."),
    "checkpoint": Place("node.cli.checkpoint:checkpoint", "Carry a certified header by hand; verify from it."),
    "light": Place("node.cli.light:light", "Follow a chain by certified headers alone; believe no node."),
    "recovery": Place("node.cli.recovery:recovery", "Go on when a majority of the validators is lost for good."),
    "patch": Place("node.cli.patch:patch", "Create, attest, seal, publish and verify patch files."),
    "agent": Place("node.cli.agent:agent", "Decide on, apply and list patches on a target host."),
    "rollout": Place("node.cli.rollout:rollout", "Bring a patch to groups of hosts in waves."),
    "policy": Place("node.cli.policy:policy", "Check, test and show policies."),
    "audit": Place("node.cli.audit:audit", "Replay the chain, trace one thing, export history."),
    "devnet": Place("node.cli.devnet:devnet", "A network of real processes on this machine, for development."),
    "completion": Place("node.cli.completion:completion", "Print a shell's completion script."),
}


class Root(LazyGroup):
    """The command itself. Whatever a command raises ends here, as one sentence on standard error and an exit code."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run the command line and exit."""
        arguments = list(sys.argv[1:] if args is None else args)
        extra.pop("standalone_mode", None)
        sys.exit(self.run(arguments, prog_name or "patchwarden", **extra))

    def run(self, arguments: Sequence[str], prog_name: str = "patchwarden", **extra: Any) -> int:
        """Run the command line and return its exit code; nothing is raised."""
        as_json, debug = wants_json(arguments), "--debug" in arguments
        try:
            result = super().main(list(arguments), prog_name, standalone_mode=False, **extra)
            sys.stdout.flush()
        except BaseException as error:  # noqa: BLE001 - the outermost border: every error gets its sentence and its exit code
            return report(error, as_json=as_json, debug=debug)
        return result if isinstance(result, int) else EXIT_DONE


def report(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Tell the caller what ended the command, and return the exit code."""
    if isinstance(error, BaseExceptionGroup):
        error = worst(error)
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case SystemExit():
            return error.code if isinstance(error.code, int) else EXIT_DONE
        case KeyboardInterrupt() | click.Abort():
            click.echo("interrupted", err=True)
            return EXIT_INTERRUPTED
        case BrokenPipeError():
            # Whoever read our output has gone; Python would complain once more when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_NO
        case click.ClickException():
            _show_usage(error, as_json=as_json)
            return EXIT_USAGE
        case OSError():
            if debug:
                _show_trace(error)
            return report(from_os_error(error), as_json=as_json, debug=False)
        case PatchwardenError():
            if debug:
                _show_trace(error)
            _show(error.as_dict(), as_json=as_json)
            return exit_code(error)
        case _:
            if debug:
                _show_trace(error)
            return _show_bug(error, as_json)


def _show(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        shown = {name: value for name, value in document.items() if value != {}}
        click.echo(json.dumps({"error": shown}, ensure_ascii=False), err=True)
        return
    click.echo(printable_lines(f"error: {document['message']} [{document['code']}]", " " * 7), err=True)
    if document["hint"]:
        click.echo(printable_lines(f"  try: {document['hint']}", " " * 7), err=True)


def _show_usage(error: click.ClickException, *, as_json: bool) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and not as_json:
        click.echo(error.format_message(), err=True)
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "patchwarden"
    message = error.format_message().strip().rstrip(".").replace("\n", " ")
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        message = "a command is missing"
    _show(
        {"code": "cli.usage", "message": message, "hint": f"`{path} --help` shows how"},
        as_json=as_json,
    )


def _show_trace(error: BaseException) -> None:
    import traceback

    click.echo("".join(traceback.format_exception(error)), err=True, nl=False)


def _show_bug(error: BaseException, as_json: bool) -> int:
    sentence = printable(f"{type(error).__name__}: {error}")[:500]
    _show(
        {
            "code": "cli.bug",
            "message": f"this is a fault of patchwarden itself: {sentence}",
            "hint": "run it again with --debug and report what it prints",
        },
        as_json=as_json,
    )
    return EXIT_BUG


cli = Root(
    name="patchwarden",
    places=PLACES,
    help="Who made a patch, why, how it was built, who vouched for it, and whether policy lets it in: recorded on a "
    "permissioned ledger, enforced on every host.\n\nOptions stand after the command: `patchwarden COMMAND --help`.",
    context_settings=dict(CONTEXT),
)


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"patchwarden {version('patchwarden')}")
        context.exit()


cli.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_version,
        help="Show the version.",
    )
)


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    cli.main()
