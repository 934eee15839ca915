"""What `node status` says of observers in words."""

from __future__ import annotations

from typing import Any

from node.cli.node import _dropped_line, _fed_line, _patches_line, _sources_line

KEY = "ab" * 32


def _sync(**more: Any) -> dict[str, Any]:
    return {"depth": 0, "sources": [], "dropped": [], **more}


def test_an_observer_says_whom_it_follows_and_whom_it_has_dropped() -> None:
    source = {"key_id": KEY, "is_main": True}
    assert _sources_line(_sync(depth=2, sources=[source, {**source, "is_main": False}])) == (
        "abababababababab (main), abababababababab; 2 from the validators"
    )
    assert _sources_line(_sync()) == "nobody"
    assert _dropped_line(_sync()) is None
    dropped = [{"key_id": KEY, "code": "node.sync.withheld", "for_s": 59}]
    assert _dropped_line(_sync(dropped=dropped)) == "abababababababab (node.sync.withheld, 59 s)"


def test_a_validator_follows_nobody_and_says_whom_it_feeds() -> None:
    assert _sources_line(None) is None
    assert _dropped_line(None) is None
    assert _fed_line({"limit": 8, "fed": [{}, {}]}) == "2 of at most 8 observers"
    assert _fed_line({"limit": 8, "fed": []}) is None
    assert _fed_line(None) is None


def test_a_node_says_what_patch_files_it_keeps_gives_and_fetches() -> None:
    patches = {"bytes": 3 << 20, "bytes_max": 8 << 30, "places_used": 0, "fetching": []}
    assert _patches_line(patches) == "3.0 of at most 8192 MiB"
    fetching = {"file_digest": KEY, "chunks": 9, "chunks_here": 4, "sources": [KEY, KEY]}
    assert _patches_line({**patches, "places_used": 2, "fetching": [fetching]}) == (
        "3.0 of at most 8192 MiB; gives to 2; fetching abababababababab (4 of 9 chunks from 2)"
    )
    assert _patches_line({**patches, "bytes": 0}) is None
    assert _patches_line(None) is None
