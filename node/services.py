"""What a node answers: one async function for each method of the local socket, each from JSON parameters to a JSON document.

Reads use one snapshot each, so a document never mixes two heights. Parameters are checked here and nowhere before; a wrong one is refused
with `node.param.<rule>` and its name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from itertools import dropwhile, islice
from typing import TYPE_CHECKING, Any, Final

import trio

from ledger import keyspace
from ledger.block import Block
from ledger.identity_past import identity_then
from ledger.records import PatchRecord
from ledger.state import StateView
from ledger.transaction import decode_transaction_untrusted
from node import documents
from node.attestation_documents import judged_attestations
from node.backup import BackupServices
from node.bundle_services import BundleServices
from node.errors import not_found as _not_found
from node.governance_services import GovernanceServices
from node.host_services import HostServices
from node.identity_services import IdentityServices
from node.limits import PAGE_DEFAULT, PAGE_MAX, SUBMIT_TRANSACTIONS_MAX, WAIT_TIMEOUT_MS_MAX
from node.local.protocol import (
    BLOB_BYTES_MAX,
    PART_BYTES_MAX,
    Json,
    decode_blob_untrusted,
    encode_blob,
    error_to_json,
)
from node.params import (
    as_count,
    as_hex_digest,
    as_integer,
    as_list,
    as_name,
    as_optional_integer,
    as_optional_name,
    as_optional_text,
)
from node.patch_store import upload_name
from node.policy_services import PolicyServices
from node.proof_services import ProofServices
from node.rollout_services import RolloutServices
from node.submission import Submitted
from provenance.patchfile import split_patch_file_untrusted
from wire.certificate import decode_commit_certificate_untrusted
from wire.errors import RejectedError, UnavailableError
from wire.hashing import Digest, sha256
from wire.limits import TX_BYTES_MAX

if TYPE_CHECKING:
    from node.app import Node

Params = Mapping[str, Json]
Document = dict[str, Any]

RAW_BLOCKS_MAX: Final = 256
"""Blocks in one answer to an auditor."""
RAW_BYTES_MAX: Final = 8 * 1024 * 1024
SUBMIT_TIMEOUT_MS: Final = 10_000
"""How long a submission waits unless it says otherwise."""


def _stored(patch: PatchRecord) -> Document:
    return {
        "patch_id": patch.patch_id.hex(),
        "file_digest": patch.file_digest.hex(),
        "file_bytes": patch.file_bytes,
    }


def _file_unavailable() -> UnavailableError:
    return UnavailableError(
        "node.patch.file_unavailable",
        "no reachable node keeps this patch file",
        hint="store it with `patch publish`",
    )


class Services:
    """The methods of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def methods(self) -> dict[str, Callable[[Params], Any]]:
        """Return every method by its name on the socket."""
        return {
            "status": self.status,
            "validators": self.validators,
            "peers": self.peers,
            "genesis.get": self.genesis,
            "blocks.list": self.blocks_list,
            "blocks.get": self.blocks_get,
            "blocks.raw": self.blocks_raw,
            "tx.get": self.tx_get,
            "tx.submit": self.tx_submit,
            "identities.list": self.identities_list,
            "identities.get": self.identities_get,
            "identities.history": self.identities_history,
            "patches.list": self.patches_list,
            "patches.get": self.patches_get,
            "patches.attestations": self.patches_attestations,
            "patches.put": self.patches_put,
            "patches.expect": self.patches_expect,
            "patches.take": self.patches_take,
            "patches.locate": self.patches_locate,
            "patches.file": self.patches_file,
            "deployments.list": self.deployments_list,
            "targets.get": self.targets_get,
            "policy.get": self.policy_get,
            "history": self.history,
            "events.subscribe": self.events_subscribe,
            "metrics": self.metrics,
            "health.live": self.health_live,
            "health.ready": self.health_ready,
            "node.stop": self.node_stop,
            "node.transfer-leadership": self.transfer_leadership,
            **GovernanceServices(self._node).methods(),
            **IdentityServices(self._node).methods(),
            **PolicyServices(self._node).methods(),
            **RolloutServices(self._node).methods(),
            **HostServices(self._node).methods(),
            **ProofServices(self._node).methods(),
            **BackupServices(self._node).methods(),
            **BundleServices(self._node).methods(),
            **self._node.agent_methods(),
        }

    # -- the node --------------------------------------------------------------------------------------------------

    async def status(self, params: Params) -> Document:
        """Return what this node is and where it stands."""
        del params
        return self._node.status_document()

    async def validators(self, params: Params) -> list[Document]:
        """Return the validators and learners, and on the leader how far each is."""
        del params
        return self._node.member_documents()

    async def peers(self, params: Params) -> list[Document]:
        """Return the peers this node knows, connected or not."""
        del params
        return self._node.peer_documents()

    async def genesis(self, params: Params) -> Document:
        """Return the founding document."""
        del params
        return {"genesis": encode_blob(self._node.genesis_raw)}

    async def metrics(self, params: Params) -> str:
        """Return the metrics in Prometheus' text form."""
        del params
        return self._node.metrics_text()

    async def health_live(self, params: Params) -> Document:
        """Return that the core answers."""
        del params
        return {"live": True}

    async def health_ready(self, params: Params) -> Document:
        """Return whether this node can serve: it knows a leader, or its replica is fresh."""
        del params
        return self._node.readiness_document()

    async def node_stop(self, params: Params) -> Document:
        """Begin a graceful stop."""
        del params
        self._node.request_stop()
        return {"stopping": True}

    # -- blocks and transactions -----------------------------------------------------------------------------------

    async def blocks_list(self, params: Params) -> list[Document]:
        """Return headers downwards from a height, the newest first."""
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        with self._node.replica.view() as view:
            start = as_optional_integer(params, "from")
            top = view.height if start is None else min(start, view.height)
            if top:
                view.check_kept(top)
            return [
                {**documents.header_document(block.header), "transactions": len(block.transactions)}
                for height in range(top, max(-1, top - limit), -1)
                if (block := view.block(height)) is not None
            ]

    async def blocks_get(self, params: Params) -> Document:
        """Return one block by height or hash."""
        with self._node.replica.view() as view:
            block = _block(view, _block_height(view, params))
            tx_ids = [decode_transaction_untrusted(raw).tx_id.hex() for raw in block.transactions]
            raw_certificate = view.certificate(block.header.height)
            certificate = None if raw_certificate is None else decode_commit_certificate_untrusted(raw_certificate)
            return documents.block_document(block, tx_ids, certificate)

    async def blocks_raw(self, params: Params) -> list[Document]:
        """Return encoded blocks upwards from a height, each with its own certificate where one is stored."""
        start = as_integer(params, "from", 0)
        limit = as_count(params, "limit", RAW_BLOCKS_MAX, RAW_BLOCKS_MAX)
        answer: list[Document] = []
        size = 0
        with self._node.replica.view() as view:
            for height in range(start, min(view.height + 1, start + limit)):
                raw = _block(view, height).raw
                certificate = view.certificate(height)
                size += len(raw)
                if answer and size > RAW_BYTES_MAX:
                    break
                answer.append(
                    {
                        "height": height,
                        "block": encode_blob(raw),
                        "certificate": None if certificate is None else encode_blob(certificate),
                    }
                )
        return answer

    async def tx_get(self, params: Params) -> Document:
        """Return one committed transaction, or a pending one that this node holds."""
        tx_id = as_hex_digest(params, "tx_id")
        with self._node.replica.view() as view:
            location = view.location(tx_id)
            if location is None:
                if (pending := self._node.mempool.find(tx_id)) is not None:
                    signer = view.identity_of_key(pending.signer_key_id)
                    return documents.transaction_document(
                        pending, signer=signer.identity_id if signer else None, height=None, index=None
                    )
                raise _not_found("transaction", tx_id.hex(), view.height)
            block = _block(view, location.height)
            transaction = decode_transaction_untrusted(block.transactions[location.index])
            signer = view.identity_of_key(transaction.signer_key_id)
            return documents.transaction_document(
                transaction,
                signer=signer.identity_id if signer else None,
                height=location.height,
                index=location.index,
            )

    async def tx_submit(self, params: Params) -> list[Document]:
        """Take signed transactions; return what became of each."""
        encoded = as_list(params, "transactions", SUBMIT_TRANSACTIONS_MAX)
        raws = [decode_blob_untrusted(item, "transactions", bytes_max=TX_BYTES_MAX) for item in encoded]
        wait = as_name(params, "wait", "committed")
        if wait not in ("none", "admitted", "committed"):
            raise RejectedError(
                "node.param.wait", "wait is not known", expected="none, admitted or committed", actual=wait
            )
        timeout_ms = as_count(params, "timeout_ms", SUBMIT_TIMEOUT_MS, WAIT_TIMEOUT_MS_MAX)
        results = await self._node.submitter.submit(raws, wait=wait, timeout_ms=timeout_ms)  # type: ignore[arg-type]
        return [submitted_document(result) for result in results]

    async def events_subscribe(self, params: Params) -> AsyncIterator[Document]:
        """Yield every block from a height on, in order, without gap or repeat, for as long as the caller listens."""
        height = as_integer(params, "from_height", self._node.replica.height + 1)
        while True:
            await self._node.replica.wait_above(height - 1)
            # One block a snapshot: the caller may be slow, and a snapshot held for long keeps old rows alive.
            with self._node.replica.view() as view:
                block = _block(view, height)
                tx = [decode_transaction_untrusted(raw) for raw in block.transactions]
                document = {
                    **documents.header_document(block.header),
                    "transactions": [{"tx_id": t.tx_id.hex(), "kind": t.kind} for t in tx],
                }
            yield document
            height += 1
            await trio.lowlevel.checkpoint()

    # -- identities, patches, deployments --------------------------------------------------------------------------

    async def identities_list(self, params: Params) -> list[Document]:
        """Return identities by id, filtered by organisation and role."""
        organisation = as_optional_name(params, "organisation")
        role = as_optional_name(params, "role")
        after = as_optional_name(params, "after")
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        found: list[Document] = []
        with self._node.replica.view() as view:
            for identity in view.identities(after or ""):
                if len(found) == limit:
                    break
                if organisation is not None and identity.organisation != organisation:
                    continue
                if role is not None and role not in identity.roles:
                    continue
                found.append(_identity_document(view, identity.identity_id))
        return found

    async def identities_get(self, params: Params) -> Document:
        """Return one identity, now or as it was at a past height."""
        name = as_name(params, "identity")
        height = as_optional_integer(params, "height")
        consistency = await self._reach_consistency(params)
        with self._node.replica.view() as view:
            return {**_identity_document(view, name, height), "as_of": self._as_of(view, consistency)}

    async def identities_history(self, params: Params) -> list[Document]:
        """Return the transactions that touched an identity, oldest first."""
        return self._history("identity", as_name(params, "identity"), params)

    async def history(self, params: Params) -> list[Document]:
        """Return the transactions that touched a patch, host, identity or organisation, oldest first."""
        return self._history(as_name(params, "subject"), as_name(params, "id"), params)

    def _history(self, subject: str, name: str, params: Params) -> list[Document]:
        limit = as_count(params, "limit", PAGE_MAX, PAGE_MAX)
        start = (as_optional_integer(params, "from") or 0, as_optional_integer(params, "from_index") or 0)
        with self._node.replica.view() as view:
            answer: list[Document] = []
            found = view.history(_subject_key(subject, name), start[0])
            further = dropwhile(lambda location: (location.height, location.index) < start, found)
            for location in islice(further, limit):
                block = _block(view, location.height)
                transaction = decode_transaction_untrusted(block.transactions[location.index])
                signer = view.identity_of_key(transaction.signer_key_id)
                document = documents.transaction_document(
                    transaction,
                    signer=signer.identity_id if signer else None,
                    height=location.height,
                    index=location.index,
                )
                answer.append({**document, "time_ms": block.header.time_ms})
            return answer

    async def patches_list(self, params: Params) -> list[Document]:
        """Return published patches, the newest first."""
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        with self._node.replica.view() as view:
            newest = sorted(view.patches(), key=lambda patch: (-patch.published_height, patch.patch_id))[:limit]
            return [documents.patch_document(patch, list(view.attestations(patch.patch_id))) for patch in newest]

    async def patches_get(self, params: Params) -> Document:
        """Return one published patch with its attestations."""
        patch_id = as_hex_digest(params, "patch_id")
        with self._node.replica.view() as view:
            patch = view.patch(patch_id)
            if patch is None:
                raise _not_found("patch", patch_id.hex(), view.height)
            document = documents.patch_document(patch, list(view.attestations(patch_id)))
            return {**document, "file_here": self._node.patch_store.has(Digest(patch.file_digest))}

    async def patches_attestations(self, params: Params) -> list[Document]:
        """Return the recorded attestations of one patch, each with whether it counts now, as a host judges it."""
        patch_id = as_hex_digest(params, "patch_id")
        with self._node.replica.view() as view:
            patch = view.patch(patch_id)
            if patch is None:
                raise _not_found("patch", patch_id.hex(), view.height)
            return judged_attestations(view, patch)

    async def patches_put(self, params: Params) -> Document:
        """Keep a published patch file, or a part of one; the ledger must name its digest already."""
        if params.get("upload") is not None:
            return await self._put_part(params)
        data = decode_blob_untrusted(params.get("file"), "file", bytes_max=BLOB_BYTES_MAX)
        patch_id = sha256(split_patch_file_untrusted(data).body)
        wanted = as_optional_text(params, "patch_id")
        if wanted is not None and wanted != patch_id.hex():
            raise RejectedError(
                "node.patch.wrong_id", "the file is another patch", expected=wanted, actual=patch_id.hex()
            )
        patch = self._published(patch_id)
        if not self._node.patch_store.has(Digest(patch.file_digest)):
            await self._node.patches.make_room(len(data))
        await trio.to_thread.run_sync(self._node.patch_store.put, data, Digest(patch.file_digest))
        return _stored(patch)

    async def _put_part(self, params: Params) -> Document:
        """Keep one part of a file that arrives in order; the last one makes it whole, and whole it must be the published one."""
        patch = self._published(as_hex_digest(params, "patch_id"))
        part = decode_blob_untrusted(params.get("file"), "file", bytes_max=PART_BYTES_MAX)
        store, digest = self._node.patch_store, Digest(patch.file_digest)
        if store.has(digest):
            return _stored(patch)
        name, offset = upload_name(digest.hex(), as_name(params, "upload")), as_integer(params, "offset")
        if not offset:
            await self._node.patches.make_room(patch.file_bytes)
        received = await trio.to_thread.run_sync(store.append, name, offset, part, patch.file_bytes)
        if received == patch.file_bytes:
            try:
                await trio.to_thread.run_sync(store.take, name, digest)
            finally:
                store.forget_upload(name)
        return {**_stored(patch), "received": received}

    async def patches_expect(self, params: Params) -> Document:
        """Return what the file of a published patch has to be, before anybody sends it."""
        patch = self._published(as_hex_digest(params, "patch_id"))
        is_here = self._node.patch_store.has(Digest(patch.file_digest))
        if not is_here:
            await self._node.patches.make_room(patch.file_bytes)
        return {**_stored(patch), "file_here": is_here}

    async def patches_take(self, params: Params) -> Document:
        """Keep the file of a published patch that the gateway has received."""
        patch = self._published(as_hex_digest(params, "patch_id"))
        upload = as_name(params, "upload")
        await trio.to_thread.run_sync(self._node.patch_store.take, upload, Digest(patch.file_digest))
        return _stored(patch)

    async def patches_locate(self, params: Params) -> Document:
        """Return what a published patch file is, once it is here; peers are asked for it if need be."""
        patch = self._find_patch(params)
        if not await self._node.patches.bring(Digest(patch.file_digest), patch.file_bytes):
            raise _file_unavailable()
        return _stored(patch)

    async def patches_file(self, params: Params) -> Document:
        """Return a published patch file, or a part of it, from here or from a peer."""
        if params.get("length") is not None:
            located = await self.patches_locate(params)
            offset, length = as_integer(params, "offset"), min(as_integer(params, "length"), PART_BYTES_MAX)
            digest = Digest(bytes.fromhex(located["file_digest"]))
            part = await trio.to_thread.run_sync(self._node.patch_store.read, digest, offset, length)
            return {**located, "file": encode_blob(part or b"")}
        patch = self._find_patch(params)
        data = await self._node.patches.get(Digest(patch.file_digest), patch.file_bytes)
        if data is None:
            raise _file_unavailable()
        return {"patch_id": patch.patch_id.hex(), "file": encode_blob(data)}

    def _find_patch(self, params: Params) -> PatchRecord:
        patch_id = as_hex_digest(params, "patch_id")
        with self._node.replica.view() as view:
            patch = view.patch(patch_id)
            if patch is None:
                raise _not_found("patch", patch_id.hex(), view.height)
            return patch

    def _published(self, patch_id: bytes) -> PatchRecord:
        with self._node.replica.view() as view:
            patch = view.patch(patch_id)
            if patch is None:
                raise RejectedError(
                    "node.patch.not_published",
                    "the ledger does not name this patch",
                    actual=patch_id.hex(),
                    hint="publish it first: `patchwarden patch publish`",
                )
            return patch

    async def deployments_list(self, params: Params) -> list[Document]:
        """Return deployment records, the newest first, filtered by host and patch."""
        host = as_optional_name(params, "host")
        patch = as_optional_text(params, "patch")
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        with self._node.replica.view() as view:
            found = [
                deployment
                for deployment in view.deployments()
                if (host is None or deployment.host == host) and (patch is None or deployment.patch_id.hex() == patch)
            ]
        found.sort(key=lambda d: -(d.outcome_height or d.intent_height or 0))
        return [documents.deployment_document(deployment) for deployment in found[:limit]]

    async def targets_get(self, params: Params) -> Document:
        """Return what the ledger knows of one target of a host."""
        host, target = as_name(params, "host"), as_name(params, "target")
        with self._node.replica.view() as view:
            record = view.target(host, target)
            if record is None:
                raise _not_found("target", f"{target} of {host}", view.height)
            return documents.target_document(record)

    async def _reach_consistency(self, params: Params) -> str:
        """Return how current an answer must be, when this replica is: `linearizable` or `local`."""
        wanted = as_optional_name(params, "consistency")
        consistency = wanted or ("local" if self._node.validator is None else "linearizable")
        if consistency == "linearizable":
            await self._node.wait_linearizable()
        elif consistency != "local":
            raise RejectedError(
                "node.param.consistency",
                "consistency is not known",
                expected="linearizable or local",
                actual=consistency,
            )
        return consistency

    def _as_of(self, view: StateView, consistency: str) -> Document:
        return {
            "consistency": consistency,
            "height": view.height,
            "replica_age_ms": self._node.replica.replica_age_ms(),
        }

    async def transfer_leadership(self, params: Params) -> Document:
        """Hand leadership to another validator, by name, or to whoever is furthest."""
        return await self._node.transfer_leadership(as_optional_name(params, "to"))

    async def policy_get(self, params: Params) -> Document:
        """Return the policy set in force, a former version of it, or one that waits."""
        version = as_optional_integer(params, "version")
        consistency = await self._reach_consistency(params)
        with self._node.replica.view() as view:
            current = view.policy()
            waiting = view.policy_pending()
            newest = current.version if waiting is None else waiting.version
            if version is not None and version > newest:
                raise _not_found("policy", str(version), view.height)
            policy = current if version is None else view.policy(version)
            return {**documents.policy_document(policy), "as_of": self._as_of(view, consistency)}


def submitted_document(result: Submitted) -> Document:
    """Return what became of one transaction."""
    return {
        "tx_id": None if result.tx_id is None else result.tx_id.hex(),
        "status": result.status,
        "height": result.height,
        "error": None if result.error is None else error_to_json(result.error),
    }


def _block_height(view: StateView, params: Params) -> int:
    if params.get("hash") is not None:
        digest = as_hex_digest(params, "hash")
        height = view.height_of(digest)
        if height is None:
            raise _not_found("block", digest.hex(), view.height)
        return height
    height = as_integer(params, "height", 0)
    if height > view.height:
        raise _not_found("block", str(height), view.height)
    return height


def _block(view: StateView, height: int) -> Block:
    block = view.block(height)
    if block is None:
        view.check_kept(height)
        raise _not_found("block", str(height), view.height)
    return block


def _subject_key(subject: str, name: str) -> bytes:
    """Return the state key of the thing that a request names by its kind and id."""
    by_name = {
        "identity": keyspace.identity_key,
        "host": keyspace.identity_key,
        "organisation": keyspace.organisation_key,
    }
    by_digest = {"patch": keyspace.patch_key, "proposal": keyspace.proposal_key, "key": keyspace.key_key}
    if subject in by_name:
        return by_name[subject](name)
    if subject in by_digest:
        return by_digest[subject](as_hex_digest({"id": name}, "id"))
    raise RejectedError(
        "node.param.subject",
        "the subject is not known",
        expected=", ".join(sorted({*by_name, *by_digest})),
        actual=subject,
    )


def _identity_document(view: StateView, name: str, height: int | None = None) -> Document:
    if height is not None:
        then = identity_then(view, name, height)
        if then is None:
            raise _not_found("identity", name, height)
        return documents.identity_document(then[0], list(then[1]))
    identity = view.identity(name)
    if identity is None:
        raise _not_found("identity", name, view.height)
    keys = [key for key_id in identity.key_ids if (key := view.key(key_id)) is not None]
    return documents.identity_document(identity, keys)
