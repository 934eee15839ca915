"""One interface to a node, two ways to it: the Unix socket in its home, or HTTP. Both answer with the same documents."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from node.cli.errors import CommandError

if TYPE_CHECKING:
    from node.cli.command import Session

Json = Any


class NodeClient(Protocol):
    """A connection to a node. Methods and documents are those of docs/spec/api.md."""

    def call(self, method: str, **params: Json) -> Json:
        """Return the method's document; raises what the node raised."""
        ...

    def stream(self, method: str, **params: Json) -> Iterator[Json]:
        """Yield a subscription's events."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class SocketClient:
    """The Unix socket of a node home."""

    def __init__(self, session: Session, timeout_s: float) -> None:
        from node.config import Home
        from node.local.client import LocalClient

        self._client = LocalClient(Home(session.node_home()).socket, timeout_s=timeout_s)

    @property
    def patience(self) -> Callable[[], bool] | None:
        """Asked whether to go on waiting when an answer takes longer than the connection's time; None never waits longer."""
        return self._client.patience

    @patience.setter
    def patience(self, patience: Callable[[], bool] | None) -> None:
        self._client.patience = patience

    def call(self, method: str, **params: Json) -> Json:
        """Return the method's document; raises what the node raised."""
        return self._client.call(method, **params)

    def stream(self, method: str, **params: Json) -> Iterator[Json]:
        """Yield a subscription's events."""
        yield from self._client.stream(method, **params)

    def close(self) -> None:
        """End the connection."""
        self._client.__exit__()


def open_client(session: Session, *, timeout_s: float | None = None) -> NodeClient:
    """Return the connection that the command line asks for.

    With both `--rpc` and `--home`, HTTP carries the requests and the home's token authorises them.

    Args:
        session: The command line.
        timeout_s: How long one answer may take; None for a minute more than a submission may.

    Raises:
        UnavailableError: No node answers.
    """
    timeout_s = session.timeout_s + 60.0 if timeout_s is None else timeout_s
    if session.rpc is None:
        return SocketClient(session, timeout_s)
    from node.cli.rpc import RpcClient

    token = None
    if session.home is not None:
        from node.config import Home
        from node.keystore import read_secret

        token = read_secret(Home(session.node_home()).token, 1024).decode("ascii", "replace").strip()
    return RpcClient(session.rpc, token=token, timeout_s=timeout_s)


def running_rpc_url(session: Session) -> str | None:
    """Return the HTTP address that the node at the session's home says it has, or None when it does not run."""
    from node.config import Home

    try:
        document = json.loads(Home(session.node_home()).run.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CommandError("cli.run_file", "the node's run.json cannot be read") from error
    url = document.get("rpc")
    return url if isinstance(url, str) else None
