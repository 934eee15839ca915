"""Every record of wire is frozen and slotted: what was checked once stays checked."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import wire

MODULES = [importlib.import_module(f"wire.{module.name}") for module in pkgutil.iter_modules(wire.__path__)]
RECORDS = [
    record
    for module in MODULES
    for record in vars(module).values()
    if inspect.isclass(record) and record.__module__ == module.__name__ and dataclasses.is_dataclass(record)
]


def test_there_are_records() -> None:
    assert {record.__name__ for record in RECORDS} >= {
        "PublicKey",
        "Envelope",
        "CommitCertificate",
        "Frontier",
        "CertificateChain",
    }


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_record_is_frozen_and_slotted(record: type) -> None:
    assert record.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert record.__slots__ == tuple(field.name for field in dataclasses.fields(record))  # type: ignore[arg-type, attr-defined]
