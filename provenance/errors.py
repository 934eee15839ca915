"""Why a patch file is refused, by the step of the pipeline that refuses it.

=========================  =============================  =========================================================
class                      result code of the agent       codes
=========================  =============================  =========================================================
``MalformedPatchError``    ``ERROR_MALFORMED_PATCH``      ``provenance.file.*``, ``provenance.statement.*``, ``wire.*``
``DiffRefusedError``       ``ERROR_MALFORMED_PATCH``      ``provenance.diff.*``
``InvalidSignatureError``  ``ERROR_INVALID_SIGNATURE``    ``provenance.signature.*``, ``wire.key.*``
``InvalidMetadataError``   ``ERROR_INVALID_METADATA``     ``provenance.field.*``, ``provenance.metadata.*``,
                                                          ``provenance.preamble.*``, ``provenance.seal.*``
``AttestationRefusedError`` none: the line is set aside   ``provenance.attestation.*``, ``provenance.field.*``, ``wire.*``
``ApplyRefusedError``      ``ERROR_APPLY_FAILED``         ``provenance.apply.*``
``MakeRefusedError``       none: nothing is signed yet    ``provenance.make.*``
``ImportRefusedError``     none: nothing is signed yet    ``provenance.import.*``
=========================  =============================  =========================================================

All are `RejectedError`: the patch is wrong and stays wrong, whoever reads it and whenever.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

from wire.errors import InvalidSignatureError as WireInvalidSignatureError
from wire.errors import RejectedError

_Refusal = TypeVar("_Refusal", bound=RejectedError)


class MalformedPatchError(RejectedError):
    """The bytes are not a patch file of this version: layout, trailer, envelope or statement form."""

    RESULT_CODE: ClassVar[str] = "ERROR_MALFORMED_PATCH"


class DiffRefusedError(MalformedPatchError):
    """The diff does not have exactly one meaning, or a meaning that is never allowed (``provenance.diff.*``)."""


class InvalidSignatureError(WireInvalidSignatureError):
    """The author's signature does not cover this file under the key that the metadata names."""

    RESULT_CODE: ClassVar[str] = "ERROR_INVALID_SIGNATURE"


class InvalidMetadataError(RejectedError):
    """The signed metadata breaks a rule, or does not describe the file it stands in."""

    RESULT_CODE: ClassVar[str] = "ERROR_INVALID_METADATA"


class AttestationRefusedError(RejectedError):
    """One attestation proves nothing about this patch; verification sets it aside and goes on, appending refuses it."""


class ApplyRefusedError(RejectedError):
    """The diff does not apply exactly to these pre-images (``provenance.apply.*``); nothing was produced."""

    RESULT_CODE: ClassVar[str] = "ERROR_APPLY_FAILED"


class MakeRefusedError(RejectedError):
    """The change between two states has no accepted text form (``provenance.make.*``)."""


class ImportRefusedError(RejectedError):
    """A foreign patch cannot be read, or has no single place in its base (``provenance.import.*``)."""


def refuse_as(family: type[_Refusal], error: RejectedError, context: str = "") -> _Refusal:
    """Return `error` as an error of `family`: code, sentence, hint and details stay, the family says which step refused.

    Args:
        family: The class that the caller of the step expects.
        error: What a lower floor raised.
        context: What was being read, such as "trailer line 2"; put before the sentence.
    """
    message = f"{context}: {error.message}" if context else error.message
    return family(error.code, message, hint=error.hint, details=error.details)
