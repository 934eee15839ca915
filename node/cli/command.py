"""What every command has: examples in its help, `-o`, `--debug`, and as it needs them a node, a signing key, a submission.

A command's function takes a `Session` first: what the common options said, opened when the command asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from node.cli.lazy import LazyGroup, Place
from node.cli.output import Output

if TYPE_CHECKING:
    from node.cli.client import NodeClient
    from wire.keys import Signer

HELP_WIDTH: Final = 100
TIMEOUT_S: Final = 15.0
"""How long a submission waits for its block unless it says otherwise."""

CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH}


@dataclass(slots=True)
class Session:
    """One command's run: its voice, its node, its key."""

    output: Output
    """Where it speaks."""
    debug: bool = False
    """Whether a refusal shows where it came from."""
    home: Path | None = None
    """The node home given by `--home`; None for the default one."""
    rpc: str | None = None
    """Base URL of a node's HTTP interface, or None for the Unix socket in the home."""
    key_path: Path | None = None
    """The signing key's file."""
    signer: str | None = None
    """Command line of a program that signs; `key_path` is then the public key's file, or a did:key."""
    signer_timeout_s: float | None = None
    """How long that program may take for one signature; None for its default."""
    passphrase_fd: int | None = None
    passphrase_file: Path | None = None
    transaction_out: Path | None = None
    """Where a signed transaction is written instead of being submitted."""
    timeout_s: float = TIMEOUT_S
    """How long a submission waits for its block."""
    _client: NodeClient | None = field(default=None, repr=False)

    def node_home(self) -> Path:
        """Return the node home in force: `--home`, `$PATCHWARDEN_HOME` or `~/.patchwarden`."""
        from node.config import default_home

        return (self.home or default_home()).absolute()

    def client(self) -> NodeClient:
        """Return the connection to the node that this command talks to; it is closed when the command ends.

        Raises:
            UnavailableError: No node answers (``node.local.unreachable``, ``cli.rpc.unreachable``).
        """
        if self._client is None:
            from node.cli.client import open_client

            self._client = open_client(self)
        return self._client

    @property
    def has_node(self) -> bool:
        """Whether the command line names a node; commands that can work offline ask nobody otherwise."""
        return self.rpc is not None or self.home is not None

    def key(self) -> Signer:
        """Return the signing key, after asking for its passphrase where it has one, or the program that signs with it.

        Raises:
            KeyFileError: ``node.key.*``.
            RejectedError: ``wire.key.*``, ``cli.key.*``; ``node.signer.*`` for `--signer`.
            click.UsageError: No key was named, or options exclude each other.
        """
        if self.key_path is None:
            raise click.UsageError("this needs a signing key: --key FILE")
        if self.signer is not None:
            return self._external_signer(str(self.key_path), self.signer)
        if self.signer_timeout_s is not None:
            raise click.UsageError("--signer-timeout needs a --signer")
        from node.cli.passphrase import load_private_key

        return load_private_key(self.key_path, self.passphrase_fd, self.passphrase_file)

    def _external_signer(self, key: str, command: str) -> Signer:
        from node.cli.public_keys import read_public_key_only
        from node.signer import SIGNER_SECONDS, CommandSigner, signer_command

        if self.passphrase_fd is not None or self.passphrase_file is not None:
            raise click.UsageError("--signer and a passphrase exclude each other: the program asks for its own")
        return CommandSigner(
            signer_command(command), read_public_key_only(key), self.signer_timeout_s or SIGNER_SECONDS
        )

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            self._client.close()
            self._client = None


_PREFIX: Final = "session_"
"""Begins the parameter names of the common options, so that no command's own parameter can be taken for one."""


class Command(click.Command):
    """A command with examples and the common options.

    Args:
        examples: Command lines, shown in the help; at least one.
        home: Whether it works on a node's home directory: adds `--home`.
        node: Whether it talks to a node: adds `--home` and `--rpc`.
        signs: Whether it signs with a person's key: adds `--key`, `--signer` and the ways to give a passphrase.
        submits: Whether it submits transactions: adds `--timeout` and `--write-transaction`.
    """

    def __init__(
        self,
        name: str | None,
        *,
        examples: Sequence[str],
        home: bool = False,
        node: bool = False,
        signs: bool = False,
        submits: bool = False,
        params: Sequence[click.Parameter] | None = None,
        **kwargs: Any,
    ) -> None:
        assert examples, "every command's help shows an example"
        every = [
            *(params or ()),
            *(_signing_options(required=submits) if signs else ()),
            *(_submit_options() if submits else ()),
            *(_home_options() if home or node else ()),
            *(_rpc_options() if node else ()),
            *_common_options(),
        ]
        super().__init__(name, params=every, **kwargs)
        self._examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Examples" if len(self._examples) > 1 else "Example"):
            for example in self._examples:
                # Not wrapped: a command line is copied as a whole.
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")

    def invoke(self, ctx: click.Context) -> Any:
        """Run the function with a session, and close it."""
        names = [name for name in ctx.params if name.startswith(_PREFIX)]
        given: dict[str, Any] = {name.removeprefix(_PREFIX): ctx.params.pop(name) for name in names}
        if ctx.get_parameter_source(f"{_PREFIX}rpc") is ParameterSource.ENVIRONMENT and given["home"] is not None:
            given["rpc"] = None  # What stands on the command line wins over the environment.
        given["output"] = Output(as_json=given["output"] == "json")
        session = ctx.obj = Session(**given)
        try:
            return super().invoke(ctx)
        finally:
            session.close()


def group(summary: str, places: Mapping[str, Place], *, epilog: str | None = None) -> LazyGroup:
    """Return a group of commands whose help is `summary`."""
    return LazyGroup(help=summary, places=places, epilog=epilog, context_settings=dict(CONTEXT))


def wants_json(arguments: Iterable[str]) -> bool:
    """Return whether a command line that may be wrong asks for JSON: its refusal should have that form too."""
    previous = ""
    for argument in arguments:
        if argument in ("-ojson", "--output=json") or (argument == "json" and previous in ("-o", "--output")):
            return True
        previous = argument
    return False


def _common_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["-o", "--output", "session_output"],
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            envvar="PATCHWARDEN_OUTPUT",
            help="Form of the answer.",
        ),
        click.Option(["--debug", "session_debug"], is_flag=True, help="Show where an error came from."),
    ]


def _home_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--home", "session_home"],
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIR",
            help="Node home; a running node is asked through its Unix socket. Default: $PATCHWARDEN_HOME or ~/.patchwarden.",
        ),
    ]


def _rpc_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--rpc", "session_rpc"],
            metavar="URL",
            envvar="PATCHWARDEN_RPC",
            help="Talk to this node over HTTP instead, such as http://127.0.0.1:7080.",
        ),
    ]


def _signing_options(*, required: bool) -> list[click.Parameter]:
    return [
        click.Option(
            ["--key", "session_key_path"],
            type=click.Path(path_type=Path, dir_okay=False),
            required=required,
            metavar="FILE",
            help="Private key to sign with (PKCS#8 PEM or OpenSSH); with --signer its public key (file or did:key).",
        ),
        click.Option(
            ["--signer", "session_signer"],
            metavar="COMMAND",
            envvar="PATCHWARDEN_SIGNER",
            help="Have this program sign: message on its standard input, signature on its standard output; no shell.",
        ),
        click.Option(
            ["--signer-timeout", "session_signer_timeout_s"],
            type=click.FloatRange(min=0.1, max=600),
            metavar="SECONDS",
            help="How long it may take for one signature. Default: 60.",
        ),
        *passphrase_options(),
    ]


def passphrase_options() -> list[click.Parameter]:
    """Return the two ways of giving a passphrase without a prompt; never as an argument, where others could see it."""
    return [
        click.Option(
            ["--passphrase-fd", "session_passphrase_fd"],
            type=click.IntRange(min=0),
            metavar="N",
            help="Read the key's passphrase from this file descriptor.",
        ),
        click.Option(
            ["--passphrase-file", "session_passphrase_file"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Read the key's passphrase from the first line of this file (mode 0600).",
        ),
    ]


def _submit_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--timeout", "session_timeout_s"],
            type=click.FloatRange(min=0.1, max=120),
            default=TIMEOUT_S,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait for the block.",
        ),
        click.Option(
            ["--write-transaction", "session_transaction_out"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Write the signed transaction to FILE for `tx submit` instead of submitting it.",
        ),
    ]
