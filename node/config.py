"""A node's settings: flags over environment (`PATCHWARDEN_…`) over `config.toml` in its home over the defaults here.

Unknown keys are refused, so a typing error never silently leaves a default in force. Paths are not settings: everything a node keeps lies
beneath its home, at the places that `Home` names.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from node.distribution.limits import HOST_PLACES, STORE_BYTES_MAX, VALIDATOR_PLACES
from wire.errors import RejectedError
from wire.limits import PATCH_FILE_BYTES_MAX

CONFIG_BYTES_MAX = 64 * 1024
"""A settings file beyond this is not one of ours."""


class ConfigError(RejectedError):
    """A setting that no node can run with; the code is `node.config.<rule>`."""


@dataclass(frozen=True, slots=True)
class Home:
    """The places beneath one node's home directory."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings, TOML."""
        return self.path / "config.toml"

    @property
    def genesis(self) -> Path:
        """The network's founding document, JSON."""
        return self.path / "genesis.json"

    @property
    def node_key(self) -> Path:
        """The node's Ed25519 key, PKCS#8 PEM, mode 0600: its libp2p identity, and its signature as a validator or host."""
        return self.path / "node.key"

    @property
    def data(self) -> Path:
        """The LevelDB directory."""
        return self.path / "data"

    @property
    def incarnation(self) -> Path:
        """Which data directory a validator's key has voted with: outside that directory, so that a wiped one is noticed."""
        return self.path / "incarnation"

    @property
    def socket(self) -> Path:
        """The core's Unix socket, mode 0600."""
        return self.path / "core.sock"

    @property
    def token(self) -> Path:
        """The bearer token for local operations over HTTP, mode 0600."""
        return self.path / "rpc.token"

    @property
    def logs(self) -> Path:
        """The log directory."""
        return self.path / "logs"

    @property
    def patches(self) -> Path:
        """Patch files by the SHA-256 of their bytes."""
        return self.path / "patches"

    @property
    def checkpoints(self) -> Path:
        """The highest checkpoint that was seen, and evidence of histories that contradict each other."""
        return self.path / "checkpoints"

    @property
    def agent(self) -> Path:
        """The attestation agent's own state."""
        return self.path / "agent"

    @property
    def run(self) -> Path:
        """What runs now: process ids and addresses, JSON; absent while the node is stopped."""
        return self.path / "run.json"


class NodeConfig(BaseSettings):
    """One node's settings.

    Times end in their unit. Every bound on memory that an outsider can fill stands here or in a limits module.
    """

    model_config = SettingsConfigDict(env_prefix="PATCHWARDEN_", extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    """The node's name, as its peers and operators see it."""
    role: Literal["validator", "host"] = "validator"
    """Whether this node votes (and stands in the validator set) or follows certified blocks."""
    identity: str | None = None
    """The ledger identity that a host's agent signs as, such as `web1@acme`."""
    host_group: Annotated[str, Field(max_length=63)] = ""
    """The host's group, such as `canary`, for policies that ask for it."""
    rollouts: bool = True
    """Whether a host applies by itself what a rollout brings to it when its turn comes."""
    inbox: Annotated[str, Field(max_length=4_096, pattern=r"^(|/[^\x00]*)$")] = ""
    """A directory into which patch files for this host are put, an absolute path; "" for none."""
    drift_interval_s: Annotated[int, Field(ge=10, le=604_800)] = 300
    """How often a host compares its targets with their records, seconds."""
    drift_full_interval_s: Annotated[int, Field(ge=10, le=31_536_000)] = 86_400
    """How often it reads every file for that, seconds; in between it believes a status that has not changed."""
    listen: str = "/ip4/127.0.0.1/tcp/0"
    """The libp2p address to listen on; port 0 takes a free one."""
    rpc_listen: str = "127.0.0.1:0"
    """The HTTP address of the gateway; only loopback until TLS is set up."""
    gateway: bool = True
    """Whether the core runs an HTTP gateway process at all."""
    peers: tuple[str, ...] = ()
    """Multiaddresses with `/p2p/…` that a host follows; validators find each other through the ledger."""

    announce: str = ""
    """The multiaddress at which other observers may follow a host, when that is not the one it listens on."""
    observers_max: Annotated[int, Field(ge=0, le=512)] = 8
    """Observers that this node feeds with blocks; further ones are told whom else to ask. Validators and learners are no observers."""

    patch_uploads_max: Annotated[int, Field(ge=0, le=64)] | None = None
    """Peers that may take one patch file from this node: at a time on a host, 6 unless set; in an hour on a validator, 2 unless set, as
    long as it can name one of them to the next. 0 serves nobody but validators."""
    patch_store_bytes_max: Annotated[int, Field(ge=PATCH_FILE_BYTES_MAX)] = STORE_BYTES_MAX
    """Bytes of all patch files that this node keeps."""
    patch_keep_days: Annotated[int, Field(ge=0, le=36_500)] = 30
    """Days after its last use for which a host keeps a patch file that is neither installed there nor current on the ledger."""

    tick_ms: Annotated[int, Field(ge=5, le=1000)] = 50
    """One tick of the consensus clock."""
    heartbeat_ticks: Annotated[int, Field(ge=1, le=50)] = 2
    """Ticks between a leader's heartbeats."""
    election_ticks: Annotated[int, Field(ge=3, le=500)] = 10
    """Ticks without a leader before an election; the real time-out is random between one and two of these."""
    lease_reads: bool = False
    """Whether this validator promises its leader, with each heartbeat, to support nobody else for a while, and reads by such promises of
    others as leader, without asking; see docs/operations/node.md "Lease reads" for what that rests on."""
    idle_block_interval_ms: Annotated[int, Field(ge=200, le=3_600_000)] = 10_000
    """A leader certifies an empty block after this long without one, so that hosts can tell a quiet chain from a cut line."""
    block_transactions_max: Annotated[int, Field(ge=1, le=1000)] = 256
    """Transactions in a block of this leader's making."""
    blocks_in_flight_max: Annotated[int, Field(ge=1, le=64)] = 4
    """Blocks proposed and not yet committed."""
    mempool_transactions_max: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """Transactions waiting for a block."""
    mempool_bytes_max: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    """Bytes of transactions waiting for a block."""
    unacknowledged_intents_max: Annotated[int, Field(ge=0, le=1000)] = 0
    """How many changes a host may carry out before the ledger has their intents, where policy allows that too; 0 waits for each."""
    replica_age_max_ms: Annotated[int, Field(ge=1000)] = 60_000
    """The agent decides nothing on a replica whose last certified block is older than this."""
    history: Annotated[str, Field(pattern=r"^(full|pruned:[1-9][0-9]{0,8})$")] = "full"
    """`full` keeps every block; `pruned:N` keeps the last N and forgets older ones once a snapshot stands for them."""
    snapshot_interval_blocks: Annotated[int, Field(ge=1, le=1_000_000_000)] = 10_000
    """A node that prunes makes a snapshot of its state after at most so many blocks, and at least two for every N."""
    bootstrap: Literal["replay", "snapshot"] = "replay"
    """How a new node that follows comes to the present: by executing every block, or from a peer's certified snapshot."""
    scrub_rows_per_s: Annotated[int, Field(ge=0, le=1_000_000)] = 1_000
    """Rows of the store that are read in a second to find damage before it matters; 0 reads none."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe event that is logged."""

    @property
    def patch_places(self) -> int:
        """How many peers may take one patch file."""
        if self.patch_uploads_max is not None:
            return self.patch_uploads_max
        return HOST_PLACES if self.role == "host" else VALIDATOR_PLACES

    @property
    def history_blocks(self) -> int | None:
        """How many blocks are kept; None when all are."""
        return None if self.history == "full" else int(self.history.removeprefix("pruned:"))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return flags, then environment; `load_config` adds the file under both."""
        return init_settings, env_settings


def load_config(home: Home, overrides: dict[str, object] | None = None) -> NodeConfig:
    """Return the settings in force for the node at `home`.

    Raises:
        ConfigError: The file is missing, too large, not TOML, or a key or value is refused.

    Source: docs/operations/node.md "Settings".
    """
    try:
        with home.config.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            "node.config.unreadable",
            f"the settings at {home.config} cannot be read: {error.strerror}",
            hint="create a node home with `patchwarden node init`",
        ) from error
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError("node.config.too_large", "the settings file is too large", expected=CONFIG_BYTES_MAX)
    try:
        values = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("node.config.not_toml", f"{home.config} is not TOML: {error}") from error
    return build_config(values, overrides)


def build_config(values: dict[str, object], overrides: dict[str, object] | None = None) -> NodeConfig:
    """Return checked settings from a file's values and flags, with the environment between them.

    Raises:
        ConfigError: A key is unknown or a value breaks its rule.
    """
    flags = {key: value for key, value in (overrides or {}).items() if value is not None}

    class Layered(NodeConfig):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=values)

    try:
        layered = Layered(**flags)  # type: ignore[arg-type]
        return NodeConfig.model_construct(**layered.model_dump())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            "node.config.refused",
            f"setting {where or 'settings'}: {first['msg'].lower()}",
            hint="see docs/operations/node.md for every setting",
        ) from error


def default_home() -> Path:
    """Return `$PATCHWARDEN_HOME`, or `~/.patchwarden`."""
    return Path(os.environ.get("PATCHWARDEN_HOME") or Path.home() / ".patchwarden")
