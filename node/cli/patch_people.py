"""Who says what about a patch: one row a voice, for the table and the JSON of `patch verify`.

=========  ============================================================================================================
asked      what "valid" means
=========  ============================================================================================================
file       the signature holds under the key that the line names, and the line is about exactly this patch
receipts   and the ledger recorded it at this height
ledger     and it counts now, as a host would judge it: whose key it is, whether it counted then, whether they may speak
=========  ============================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from node.cli.output import table, time_text

if TYPE_CHECKING:
    from provenance.verify import VerifiedPatch
    from wire.errors import RejectedError

COUNTS: Final = "yes"
HOLDS: Final = "signature"
NOT_COUNTED: Final = "no"

_REVIEW_KIND: Final = "review"
_KINDS: Final[Mapping[str, str]] = {
    "https://in-toto.io/attestation/test-result/v0.1": "test result",
    "https://in-toto.io/attestation/vulns/v0.2": "vulnerability scan",
    "https://in-toto.io/attestation/svr/v0.1": "verification (SVR)",
    "https://slsa.dev/verification_summary/v1": "verification (VSA)",
}
_FINDINGS_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Voice:
    """One who speaks about a patch: its author, an attestor, whoever sealed it, or a line that proves nothing."""

    line: int | None
    """Trailer line from 1, or None when it stands on the ledger alone."""
    what: str
    """`author`, `attestation`, `seal` or `refused`."""
    identity: str
    """Who speaks: by the ledger where it knows, by their own word otherwise."""
    organisation: str
    role: str
    verdict: str | None
    """`approve`, `reject`, or None where the kind of statement says neither."""
    kind: str
    """What kind of statement, for a person."""
    predicate_type: str | None
    signed_time: str | None
    """By the speaker's own clock."""
    payload_digest: str | None
    valid: str = HOLDS
    """`yes`: it counts now; `signature`: it holds, and no ledger was asked whether it counts; `no`."""
    why_not: str | None = None
    """Why it does not count, for a person."""
    recorded_height: int | None = None
    """When, by the ledger; None where it is not recorded or nobody was asked."""
    recorded_time_ms: int | None = None
    comment: str = ""
    findings: list[dict[str, str]] = field(default_factory=list)
    """Of a vulnerability scan."""
    properties: list[str] = field(default_factory=list)
    """What a verifier vouches for."""
    is_forged: bool = False
    """Whether the key is not of whom the line names."""


def voices_of_file(patch: VerifiedPatch, forged: Mapping[int, RejectedError] | None = None) -> list[Voice]:
    """Return everybody who speaks in the file, in its order; nothing is known of the ledger yet but whose names are forged.

    Args:
        patch: The file.
        forged: Why a line does not speak for whom it names, by its index in the trailer.
    """
    from provenance.intoto import decode_statement_untrusted
    from provenance.predicates import read_predicate_untrusted
    from provenance.statement import ATTESTATION_SUBJECTS

    creator = patch.metadata.creator_identity
    found = [
        Voice(1, "author", creator.name, "", "author", None, "patch", None, patch.metadata.creation_timestamp,
              patch.author_payload_digest.hex())
    ]  # fmt: skip
    for each in patch.attestations:
        statement = decode_statement_untrusted(each.statement_json, ATTESTATION_SUBJECTS)
        reading = read_predicate_untrusted(each.predicate_type, statement.predicate)
        found.append(
            Voice(
                line=each.index + 1,
                what="attestation",
                identity=each.identity,
                organisation=_organisation(each.identity),
                role=each.role,
                verdict=each.verdict.value if each.verdict else None,
                kind=_kind(each.predicate_type),
                predicate_type=each.predicate_type,
                signed_time=each.time,
                payload_digest=each.payload_digest.hex(),
                comment=each.comment,
                findings=[{"id": one.finding_id, "severity": one.severity} for one in reading.findings],
                properties=list(reading.properties),
            )
        )
    found += [
        Voice(each.index + 1, "refused", "-", "-", "-", None, "-", None, None, None, NOT_COUNTED, each.message)
        for each in patch.attestations_refused
    ]
    if patch.seal is not None:
        seal = patch.seal
        found.append(
            Voice(seal.index + 1, "seal", seal.identity, _organisation(seal.identity), "seal", None,
                  f"seal over {len(seal.attestations)}", None, seal.time, seal.payload_digest.hex())
        )  # fmt: skip
    refused = {index + 1: error.message for index, error in (forged or {}).items()}
    told = [
        replace(each, valid=NOT_COUNTED, why_not=refused[each.line], is_forged=True) if each.line in refused else each
        for each in found
    ]
    return sorted(told, key=lambda each: each.line or 0)


def with_ledger(
    voices: list[Voice],
    record: dict[str, Any] | None,
    attestations: list[dict[str, Any]],
    *,
    author_refusal: str | None,
    seal_refusal: str | None,
    published_ms: int | None,
) -> list[Voice]:
    """Return the voices with what the ledger says about each, and those that only the ledger has.

    Args:
        voices: Of the file.
        record: The published patch, or None.
        attestations: Everything recorded about it, judged by the node.
        author_refusal: Why the author's key or identity does not hold, or None.
        seal_refusal: Why the seal does not count, or None.
        published_ms: Time of the block that published it.
    """
    recorded = {each["payload_digest"]: each for each in attestations}
    told = []
    for voice in voices:
        if voice.what == "author":
            height = None if record is None else record["published_height"]
            name = voice.identity if record is None else record["author"]
            refusal = author_refusal or ("not published" if record is None else None)
            valid = COUNTS if refusal is None else NOT_COUNTED
            told.append(
                replace(voice, identity=name, organisation=_organisation(name), valid=valid, why_not=refusal,
                        recorded_height=height, recorded_time_ms=published_ms)
            )  # fmt: skip
        elif voice.is_forged:
            told.append(voice)
        elif voice.what == "seal":
            valid = COUNTS if seal_refusal is None else NOT_COUNTED
            told.append(replace(voice, valid=valid, why_not=seal_refusal))
        elif voice.what == "attestation":
            entry = recorded.pop(voice.payload_digest or "", None)
            told.append(
                replace(voice, valid=NOT_COUNTED, why_not="not recorded on the ledger")
                if entry is None
                else _judged(voice, entry)
            )
        else:
            told.append(voice)
    return told + [_judged(_voice_of_record(entry), entry) for entry in recorded.values()]


def with_receipt(voices: list[Voice], line: int, height: int, time_ms: int | None) -> list[Voice]:
    """Return the voices with the one in `line` known to be recorded at `height`."""
    return [
        replace(each, recorded_height=height, recorded_time_ms=time_ms) if each.line == line else each
        for each in voices
    ]


def people_document(voices: list[Voice]) -> dict[str, Any]:
    """Return the rows, and how many people and organisations approve and reject."""
    return {"voices": [asdict(each) for each in voices], "counts": _counts(voices)}


def people_lines(voices: list[Voice]) -> Iterator[str]:
    """Yield the table for a person, and one line with the sums."""
    rows = [
        (
            voice.identity,
            voice.role,
            voice.organisation or None,
            voice.verdict or ("signed" if voice.what in ("author", "seal") else None),
            voice.kind,
            _when(voice),
            _valid(voice),
        )
        for voice in voices
    ]
    yield from table(rows, ("who", "role", "organisation", "verdict", "what", "when by ledger", "valid"))
    for voice in voices:
        if voice.findings or voice.properties:
            yield f"  {voice.identity} {_content(voice)}"
    counts = _counts(voices)
    # A ledger that was asked has judged the author.
    asked = any(
        (voice.what == "author" and voice.valid != HOLDS) or voice.recorded_height is not None for voice in voices
    )
    which = "that count" if asked else "whose signatures hold (no ledger was asked whether they count)"
    yield (
        f"approvals {which}: {counts['approvers']} people of {counts['approver_organisations']} organisations; "
        f"rejections: {counts['rejecters']}; set aside: {counts['set_aside']}"
    )


def _counts(voices: list[Voice]) -> dict[str, int]:
    heard = [each for each in voices if each.what == "attestation" and each.valid != NOT_COUNTED]
    approving = [each for each in heard if each.verdict == "approve"]
    return {
        "approvers": len({each.identity for each in approving}),
        "approver_organisations": len({each.organisation for each in approving}),
        "rejecters": len({each.identity for each in heard if each.verdict == "reject"}),
        "statements": sum(each.verdict is None for each in heard),
        "set_aside": sum(each.valid == NOT_COUNTED for each in voices if each.what not in ("author", "seal")),
    }


def _judged(voice: Voice, entry: dict[str, Any]) -> Voice:
    return replace(
        voice,
        identity=entry["identity"],
        organisation=entry["organisation"],
        valid=COUNTS if entry["counts"] else NOT_COUNTED,
        why_not=entry["why_not"],
        recorded_height=entry["recorded_height"],
        recorded_time_ms=entry["recorded_time_ms"],
        findings=voice.findings or entry["findings"],
        properties=voice.properties or entry["properties"],
    )


def _voice_of_record(entry: dict[str, Any]) -> Voice:
    return Voice(
        line=None,
        what="attestation",
        identity=entry["identity"],
        organisation=entry["organisation"],
        role=entry["role"],
        verdict=None if entry["verdict"] == "none" else entry["verdict"],
        kind=f"{_kind(entry['predicate_type'])}, not in this file",
        predicate_type=entry["predicate_type"],
        signed_time=None,
        payload_digest=entry["payload_digest"],
    )


def _kind(predicate_type: str) -> str:
    from provenance.statement import PREDICATE_REVIEW

    return _REVIEW_KIND if predicate_type == PREDICATE_REVIEW else _KINDS.get(predicate_type, predicate_type)


def _organisation(identity: str) -> str:
    return identity.partition("@")[2]


def _when(voice: Voice) -> str | None:
    if voice.recorded_height is None:
        return None
    when = "" if voice.recorded_time_ms is None else f", {time_text(voice.recorded_time_ms)}"
    return f"height {voice.recorded_height}{when}"


def _valid(voice: Voice) -> str:
    if voice.valid == NOT_COUNTED:
        return f"no: {voice.why_not}"
    return "yes" if voice.valid == COUNTS else "signature holds"


def _content(voice: Voice) -> str:
    if voice.properties:
        return f"vouches for {', '.join(voice.properties)}"
    shown = [f"{each['id']} ({each['severity']})" for each in voice.findings[:_FINDINGS_SHOWN]]
    more = len(voice.findings) - len(shown)
    return f"found {', '.join(shown)}" + (f" and {more} more" if more else "")
