"""Text of other programs as a record may keep it for ever: short, printable, and without what looks like a secret.

A ledger forgets nothing, so whatever a hook prints is first looked through. This is a net, not a proof: a hook must not print secrets.

Source: docs/spec/agent.md 6.8.
"""

from __future__ import annotations

import re
from typing import Final
from unicodedata import normalize

REDACTED: Final = "[redacted]"

_RULES: Final = (
    # A private key in PEM: also without its end, which may have been cut off.
    re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    # The rest of one whose beginning was cut off.
    re.compile(r"\A(?:[A-Za-z0-9+/=]+\s+)*-----END [A-Z0-9 ]*PRIVATE KEY-----"),
    # Authorization headers and bearer tokens.
    re.compile(
        r"(?i)(?<=authorization: )[^\n]+|(?<=authorization:)[^\n]+|(?<=bearer )[^\s\"']+|(?<=basic )[a-z0-9+/]{8,}=*"
    ),
    # https://user:password@host
    re.compile(r"(?<=://)[^\s/@]{1,512}(?=@)"),
    # curl -u user:password, --user=user:password
    re.compile(r"((?<![^\s\"'])(?:-u|-U|--user|--proxy-user)[= ]\s{0,8}[\"']?[^\s:\"']{1,128}:)[^\s\"']+"),
    # sshpass -p password, mysql -ppassword
    re.compile(r"(\bsshpass(?:\s+-[a-oq-zA-Z]\S{0,64}){0,4}\s+-p\s{0,8})(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\"']+)"),
    re.compile(r"(\b(?:mysql|mysqldump|mysqladmin|mariadb)\b[^\n]{0,200}?\s-p)(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\"']+)"),
    # password=…, "token": "…", API_KEY: …, --secret …, the password is …
    re.compile(
        r"(?i)(?<![a-z])((?:[a-z0-9_.-]{0,64})(?:passwd|password|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key"
        r"|credentials?)[a-z0-9_]{0,32}[\"']?(?:\s*(?:=>|[=:])\s*|\s+(?:(?:is|was|are)\b(?:\s*[=:])?\s*(?=\S))?))(\"[^\"\n]*\"|'[^'\n]*'|[^\s,;&\"']+)"
    ),
    # Well-known forms of tokens.
    re.compile(
        r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|gl(?:pat|ptt|dt|rt|soat|ft|cbt)-[\w-]{16,}|xox[abprs]-[A-Za-z0-9-]{10,}"
        r"|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}|(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{10,}|sk-[\w-]{20,}|npm_[A-Za-z0-9]{30,}"
        r"|pypi-[\w-]{20,}|hvs\.[\w-]{20,}|SG\.[\w-]{16,}\.[\w-]{16,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
    ),
    re.compile(r"(?i)\bAGE-SECRET-KEY-[A-Z0-9-]{10,}"),
)
"""Each hides what it finds; one with a group keeps that, the name of what is hidden."""


def redact(raw: bytes, bytes_max: int) -> str:
    r"""Return the last of `raw` as printable text in UTF-8 of at most `bytes_max` bytes, with what looks like a secret hidden.

    Lines stay lines. Other control characters and bytes that are no text are written as `\xNN`.
    """
    text = normalize("NFC", raw.decode("utf-8", errors="backslashreplace"))
    for rule in _RULES:
        text = rule.sub(rf"\g<1>{REDACTED}" if rule.groups else REDACTED, text)
    printable = "".join(each if each.isprintable() or each == "\n" else _escaped(each) for each in text)
    # Again: what is written for a control character ends in a letter, with which an accent behind it forms another one.
    clean = normalize("NFC", printable).strip("\n")
    encoded = clean.encode()
    if len(encoded) <= bytes_max:
        return clean
    mark = "…"
    return mark + encoded[len(mark.encode()) - bytes_max :].decode("utf-8", errors="ignore")


def _escaped(character: str) -> str:
    code = ord(character)
    if character == "\t":
        return " "
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
