"""Whatever a hook prints, a record takes it."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from agent.redaction import redact
from wire import canonical_json

BYTES_MAX = 100


@given(
    st.one_of(st.binary(max_size=300), st.text(max_size=120).map(lambda text: text.encode("utf-8", "surrogatepass")))
)
@example(b"\x0a\xcc\x81\x1a\xcc\x81")
@example("\u200e\u0301".encode())
@example("é".encode() * BYTES_MAX)
def test_what_a_program_prints_is_text_that_a_record_takes(raw: bytes) -> None:
    text = redact(raw, BYTES_MAX)
    assert len(text.encode()) <= BYTES_MAX
    assert all(each.isprintable() or each == "\n" for each in text)
    canonical_json.encode({"output": text})
