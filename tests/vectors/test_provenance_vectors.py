"""The golden patch files: the code makes exactly these bytes, and a verifier says exactly this about each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from provenance.schema import extract
from provenance.verify import verify_patch_untrusted
from tests.testkit.patch_vectors import FOLDER, INDEX, expected_files
from wire.errors import RejectedError

ENTRIES: list[dict[str, Any]] = json.loads((FOLDER / INDEX).read_bytes())


def test_the_committed_files_are_what_the_code_makes() -> None:
    expected = expected_files()
    committed = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in {".patch", ".json"}}
    assert sorted(committed) == sorted(expected)
    assert [name for name in committed if committed[name] != expected[name]] == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["file"])
def test_a_verifier_says_what_the_index_says(entry: dict[str, Any]) -> None:
    data = (FOLDER / entry["file"]).read_bytes()
    if entry["outcome"] == "refused":
        with pytest.raises(RejectedError) as caught:
            verify_patch_untrusted(data)
        assert (type(caught.value).__name__, caught.value.code) == (entry["class"], entry["code"])
        return
    patch = verify_patch_untrusted(data)
    assert patch.patch_id == entry["patch_id"]
    aside = [{"line": refused.index + 1, "code": refused.code} for refused in patch.attestations_refused]
    assert aside == entry.get("set_aside", [])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.name)
def test_what_is_extracted_is_what_was_committed(path: Any) -> None:
    if path.name == INDEX:
        assert {entry["outcome"] for entry in ENTRIES} == {"refused", "verified"}
        return
    patch = verify_patch_untrusted(path.with_suffix(".patch").read_bytes())
    assert json.loads(path.read_bytes()) == extract(patch)
