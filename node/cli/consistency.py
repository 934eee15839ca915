"""`--consistency`: how current an answer must be, and how current it is."""

from __future__ import annotations

from typing import Any, Final

import click

MS_PER_S: Final = 1000

CONSISTENCY: Final = click.option(
    "--consistency",
    type=click.Choice(["linearizable", "local"]),
    help="linearizable: with everything committed anywhere before; only validators can. local: what this replica has, "
    "without asking others. Default: linearizable from a validator, local from another node.",
)


def as_of_text(document: dict[str, Any]) -> str | None:
    """Return how current an answer is, in words; None when the node does not say."""
    as_of = document.get("as_of")
    if as_of is None:
        return None
    if as_of["consistency"] == "linearizable":
        return f"height {as_of['height']}, confirmed by the leader (linearizable)"
    age_s = as_of["replica_age_ms"] / MS_PER_S
    return f"height {as_of['height']}, a replica {age_s:.1f} s old (local)"
