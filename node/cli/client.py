"""One interface to a node, two ways to it: the Unix socket in its home, or HTTP. Both answer with the same documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
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

    def __init__(self, session: Session) -> None:
        from node.config import Home
        from node.local.client import LocalClient

        home = Home(session.node_home())
        self._client = LocalClient(home.socket, timeout_s=session.timeout_s + 60.0)

    def call(self, method: str, **params: Json) -> Json:
        """Return the method's document; raises what the node raised."""
        return self._client.call(method, **params)

    def stream(self, method: str, **params: Json) -> Iterator[Json]:
        """Yield a subscription's events."""
        yield from self._client.stream(method, **params)

    def close(self) -> None:
        """End the connection."""
        self._client.__exit__()


def open_client(session: Session) -> NodeClient:
    """Return the connection that the command line asks for.

    With both `--rpc` and `--home`, HTTP carries the requests and the home's token authorises them.

    Raises:
        UnavailableError: No node answers.
    """
    if session.rpc is None:
        return SocketClient(session)
    from node.cli.rpc import RpcClient

    token = None
    if session.home is not None:
        from node.config import Home
        from node.keystore import read_secret

        token = read_secret(Home(session.node_home()).token, 1024).decode("ascii", "replace").strip()
    return RpcClient(session.rpc, token=token, timeout_s=session.timeout_s + 60.0)


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
