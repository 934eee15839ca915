"""Kinds of arguments: identifiers are checked where they are typed, so a slip is a usage error and not a node's refusal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import click

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_IDENTITY: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}@[a-z0-9][a-z0-9._-]{0,62}")


class DigestType(click.ParamType[str]):
    """64 hexadecimal digits, given in either case."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the digits in lower case."""
        text = str(value).strip().lower()
        if _DIGEST.fullmatch(text) is None:
            self.fail("this is not an id of 64 hexadecimal digits", param, ctx)
        return text


class IdentityType(click.ParamType[str]):
    """An identity id such as ``alice@acme``."""

    name = "identity"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the id."""
        text = str(value)
        if _IDENTITY.fullmatch(text) is None:
            self.fail("this is not an identity, such as alice@acme", param, ctx)
        return text


ALLOWANCES: Final = ("binary", "remove-directory", "symlink")
"""`provenance.diff_model.Allowance`, without the cost of importing it."""
TARGET_MODES: Final = ("exchange", "in-place")
"""`agent.target.Mode`, without the cost of importing it."""
DIGEST: Final = DigestType()
IDENTITY: Final = IdentityType()
FILE: Final = click.Path(path_type=Path, dir_okay=False)
FILE_OR_DASH: Final = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
DIRECTORY: Final = click.Path(path_type=Path, file_okay=False)
EXISTING_DIRECTORY: Final = click.Path(path_type=Path, file_okay=False, exists=True)
PATH: Final = click.Path(path_type=Path)
PATH_OR_DASH: Final = click.Path(path_type=Path, allow_dash=True)
DENY_EVERYTHING: Final = click.option(
    "--deny-everything", is_flag=True, help="Take a DIR without policies, too: a set that denies everything."
)
FORCE: Final = click.option("--force", is_flag=True, help="Overwrite the file that --out names, if it is there.")
