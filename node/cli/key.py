"""`patchwarden key`: signing keys in files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session, group, passphrase_options
from node.cli.lazy import Place
from node.cli.output import fields

if TYPE_CHECKING:
    from wire.keys import PrivateKey, PublicKey

PUBLIC_SUFFIX: Final = ".pub"
"""Beside a private key stands its public key, for others to register."""

key = group(
    "Make, show and import signing keys.\n\nA private key is a PKCS#8 PEM file of mode 0600, encrypted with a passphrase "
    "unless you say otherwise; beside it stands FILE.pub, which may be given away.",
    {
        "generate": Place("node.cli.key:generate", "Make a new key."),
        "show": Place("node.cli.key:show", "Show a key's id, DID and public part."),
        "import": Place("node.cli.key:import_key", "Take over a key from another PKCS#8 or OpenSSH file."),
        "export": Place("node.cli.key:export", "Write a key in OpenSSH's notation, or its public part."),
    },
)

_OUT = click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="Where the private key goes; the public one goes to FILE.pub.",
)
_PLAIN = click.option("--no-passphrase", is_flag=True, help="Do not encrypt the key; the file's mode protects it.")


@click.command(
    "generate",
    cls=Command,
    params=passphrase_options(),
    examples=(
        "patchwarden key generate --out alice.key",
        "patchwarden key generate --out ci.key --algorithm p256 --no-passphrase",
    ),
)
@_OUT
@click.option(
    "--algorithm",
    type=click.Choice(["ed25519", "p256"]),
    default="ed25519",
    show_default=True,
    help="Ed25519, or ECDSA P-256 where a certificate demands it.",
)
@_PLAIN
@click.pass_obj
def generate(session: Session, out: Path, algorithm: str, no_passphrase: bool) -> None:
    """Make a new key. An existing file is never overwritten."""
    from node.clock import random_bytes
    from wire.keys import SEED_BYTES, Algorithm, private_key_from_seed

    passphrase = _new_passphrase(session, no_passphrase)
    kind = Algorithm.ED25519 if algorithm == "ed25519" else Algorithm.P256
    private = private_key_from_seed(kind, random_bytes(SEED_BYTES))
    _save(session, out, private, passphrase)


@click.command(
    "show",
    cls=Command,
    params=passphrase_options(),
    examples=("patchwarden key show alice.key", "patchwarden key show alice.key.pub -o json"),
)
@click.argument("key", metavar="KEY")
@click.pass_obj
def show(session: Session, key: str) -> None:
    """Show the id, DID and public part of KEY: a private key, a public key or certificate (PEM), or a did:key."""
    from node.cli.public_keys import read_public_key

    public = read_public_key(key, session.passphrase_fd, session.passphrase_file)
    session.output.emit(public_key_document(public), _lines(public))


@click.command(
    "import",
    cls=Command,
    params=passphrase_options(),
    examples=(
        "openssl genpkey -algorithm ed25519 | patchwarden key import - --out alice.key",
        "patchwarden key import ~/.ssh/id_ed25519 --out alice.key",
    ),
)
@click.argument("source", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False), metavar="SOURCE")
@_OUT
@_PLAIN
@click.option(
    "--source-passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Passphrase of SOURCE, when it is encrypted.",
)
@click.pass_obj
def import_key(
    session: Session, source: Path, out: Path, no_passphrase: bool, source_passphrase_file: Path | None
) -> None:
    """Take over the Ed25519 or P-256 key in SOURCE (PKCS#8 PEM or OpenSSH's file, - for standard input)."""
    from node.cli.files import read_file
    from node.cli.passphrase import ask_passphrase, given_passphrase
    from wire.errors import RejectedError
    from wire.limits import PEM_BYTES_MAX
    from wire.openssh import private_key_from_file_untrusted

    opened = given_passphrase(None, source_passphrase_file)
    data = read_file(source, PEM_BYTES_MAX)
    try:
        private = private_key_from_file_untrusted(data, opened)
    except RejectedError as error:
        if error.code != "wire.key.passphrase_missing":
            raise
        opened = ask_passphrase(str(source), None, None, "--source-passphrase-file")
        private = private_key_from_file_untrusted(data, opened)
    _save(session, out, private, _new_passphrase(session, no_passphrase))


@click.command(
    "export",
    cls=Command,
    params=passphrase_options(),
    examples=(
        "patchwarden key export alice.key.pub --format openssh-public --comment alice@acme --out alice-ssh.pub",
        "patchwarden key export alice.key --format openssh --out id_alice",
    ),
)
@click.argument("key", metavar="KEY")
@click.option(
    "--format",
    "form",
    type=click.Choice(["pem-public", "openssh-public", "openssh"]),
    required=True,
    help="The public key as PEM or as OpenSSH's line, or the private key in OpenSSH's file.",
)
@click.option("--comment", default="", metavar="TEXT", help="For people, at the end of OpenSSH's line.")
@click.option(
    "--new-passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Encrypt OpenSSH's file with the first line of this file (mode 0600). Default: asked for.",
)
@click.option("--no-passphrase", is_flag=True, help="Do not encrypt OpenSSH's file; its mode protects it.")
@click.option(
    "--out", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False), required=True, metavar="FILE",
    help="Where it goes; - for standard output, for public keys only.",
)  # fmt: skip
@click.pass_obj
def export(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    key: str,
    form: str,
    comment: str,
    new_passphrase_file: Path | None,
    no_passphrase: bool,
    out: Path,
) -> None:
    """Write KEY, or its public part, for other tools. The PKCS#8 file itself is what `openssl` reads."""
    from node.cli.files import write_file
    from node.cli.public_keys import read_public_key
    from wire.openssh import openssh_line, openssh_private_text

    if form == "openssh":
        from node.cli.passphrase import load_private_key, new_passphrase
        from node.keystore import write_secret

        if str(out) == "-":
            raise click.UsageError("a private key goes to a file, which is made with mode 0600: name one with --out")
        if no_passphrase and new_passphrase_file is not None:
            raise click.UsageError("--no-passphrase and --new-passphrase-file exclude each other")
        private = load_private_key(Path(key), session.passphrase_fd, session.passphrase_file)
        public = private.public_key
        passphrase = None
        if not no_passphrase:
            passphrase = new_passphrase(None, new_passphrase_file, "--no-passphrase or --new-passphrase-file")
        write_secret(out, openssh_private_text(private, passphrase))
    else:
        if no_passphrase or new_passphrase_file is not None:
            raise click.UsageError("only a private key is encrypted: --format openssh")
        public = read_public_key(key, session.passphrase_fd, session.passphrase_file)
        write_file(out, public.pem if form == "pem-public" else openssh_line(public, comment), replace=False)
    if str(out) == "-":
        return  # The key itself is the answer.
    document = {"file": str(out), "format": form, "key_id": public.key_id_hex, "did": public.did}
    session.output.emit(document, fields((("written to", out), ("format", form), ("key id", public.key_id_hex))))


def public_key_document(public: PublicKey) -> dict[str, Any]:
    """Return what programs want to know about a public key."""
    return {
        "key_id": public.key_id_hex,
        "algorithm": str(public.algorithm),
        "did": public.did,
        "public_key_pem": public.pem.decode("ascii"),
    }


def _lines(public: PublicKey) -> list[str]:
    shown = fields((("key id", public.key_id_hex), ("algorithm", public.algorithm), ("did", public.did)))
    return [*shown, *public.pem.decode("ascii").splitlines()]


def _new_passphrase(session: Session, no_passphrase: bool) -> bytes | None:
    from node.cli.passphrase import new_passphrase

    if no_passphrase:
        if session.passphrase_fd is not None or session.passphrase_file is not None:
            raise click.UsageError("--no-passphrase and a passphrase exclude each other")
        return None
    return new_passphrase(session.passphrase_fd, session.passphrase_file)


def _save(session: Session, out: Path, private: PrivateKey, passphrase: bytes | None) -> None:
    from node.cli.files import write_file
    from node.keystore import save_key

    public_path = out.with_name(out.name + PUBLIC_SUFFIX)
    save_key(out, private, passphrase)
    write_file(public_path, private.public_key.pem)
    document = {"file": str(out), "public_file": str(public_path), "encrypted": passphrase is not None}
    public = private.public_key
    session.output.emit(
        {**document, **public_key_document(public)},
        fields(
            (
                ("private key", f"{out} ({'encrypted' if passphrase else 'not encrypted'}, mode 0600)"),
                ("public key", public_path),
                ("key id", public.key_id_hex),
                ("did", public.did),
            )
        ),
    )
