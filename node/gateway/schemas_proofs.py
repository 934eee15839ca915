"""The forms of proofs, for the OpenAPI document. What each member means stands in docs/spec/proofs.md."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from node.gateway.schemas import Answer, Base64, Hex32, Name


class Proof(Answer):
    """What receipts and state proofs share: a certified header, and what leads to its validators."""

    version: Literal[1]
    chain_id: Name
    header: Base64
    certificate: Base64
    configuration: Base64 | None = None
    """Left out while the validators are the founding ones."""


class Receipt(Proof):
    """The proof that a transaction is part of the log."""

    transaction: Base64
    log_index: Annotated[int, Field(ge=0)]
    audit_path: list[Hex32]


class StateProof(Proof):
    """The proof of what the state holds for one thing."""

    subject: Name
    id: Name
    value: Base64 | None
    siblings: list[Hex32]
    other_leaf: list[Hex32] | None


class ConsistencyProof(Answer):
    """The proof that the log only grew."""

    version: Literal[1]
    chain_id: Name
    size_before: Annotated[int, Field(ge=0)]
    size_after: Annotated[int, Field(ge=0)]
    hashes: list[Hex32]
