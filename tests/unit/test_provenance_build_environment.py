"""The build environment's document: the same facts make the same hash, in whatever order they came."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from provenance.build_environment import (
    BuildEnvironment,
    BuildFacts,
    Dependency,
    Tool,
    build_environment,
    encode_build_document,
)
from provenance.errors import InvalidMetadataError
from provenance.limits import BUILD_DOCUMENT_BYTES_MAX, BUILD_ITEMS_MAX
from wire.hashing import sha256

FACTS = BuildFacts(
    os_name="debian",
    os_version="12",
    kernel="6.1.0-18-amd64",
    machine="x86_64",
    tools=[Tool("gcc", "12.2.0"), Tool("gcc", "11.3.0"), Tool("ld", "2.40")],
    dependencies=[Dependency("pkg:deb/debian/zlib1g@1.2"), Dependency("pkg:deb/debian/libc6@2.36", "a" * 64)],
    container_sha256="b" * 64,
)


def refusal_code(facts: BuildFacts) -> str:
    with pytest.raises(InvalidMetadataError) as caught:
        encode_build_document(facts)
    return caught.value.code


def test_the_document_has_one_form() -> None:
    assert json.loads(encode_build_document(FACTS)) == {
        "format": "patchwarden-build-environment/1",
        "internalParameters": {
            "container": {"sha256": "b" * 64},
            "kernel": "6.1.0-18-amd64",
            "machine": "x86_64",
            "os": {"name": "debian", "version": "12"},
            "tools": [
                {"name": "gcc", "version": "11.3.0"},
                {"name": "gcc", "version": "12.2.0"},
                {"name": "ld", "version": "2.40"},
            ],
        },
        "resolvedDependencies": [
            {"uri": "pkg:deb/debian/libc6@2.36", "digest": {"sha256": "a" * 64}},
            {"uri": "pkg:deb/debian/zlib1g@1.2"},
        ],
    }


def test_the_order_of_facts_does_not_matter() -> None:
    shuffle = random.Random(7)
    tools, dependencies = list(FACTS.tools), [Dependency(f"pkg:deb/debian/p{i}@1") for i in range(100)]
    first = encode_build_document(replace(FACTS, dependencies=dependencies))
    for _ in range(5):
        shuffle.shuffle(tools)
        shuffle.shuffle(dependencies)
        assert encode_build_document(replace(FACTS, tools=tools, dependencies=dependencies)) == first


@pytest.mark.parametrize(
    "change", [{"kernel": "6.1.0-19-amd64"}, {"container_sha256": None}, {"tools": []}, {"dependencies": []}], ids=str
)
def test_every_fact_is_in_the_hash(change: dict[str, object]) -> None:
    assert encode_build_document(replace(FACTS, **change)) != encode_build_document(FACTS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"os_name": ""}, "provenance.field.length"),
        ({"kernel": "a\nb"}, "provenance.field.characters"),
        ({"machine": " x86_64"}, "provenance.field.spaces"),
        ({"container_sha256": "sha256:x"}, "provenance.field.digest"),
        ({"tools": [Tool("gcc", "12"), Tool("gcc", "12")]}, "provenance.field.duplicate"),
        ({"tools": [Tool("gcc", "12\x1b[0m")]}, "provenance.field.characters"),
        ({"tools": [Tool("gcc", "x" * 513)]}, "provenance.field.length"),
        ({"tools": [Tool("gcc", str(i)) for i in range(BUILD_ITEMS_MAX + 1)]}, "provenance.field.length"),
        ({"dependencies": [Dependency("pkg:a/b"), Dependency("pkg:a/b", "a" * 64)]}, "provenance.field.duplicate"),
        ({"dependencies": [Dependency("pkg:a/b", "x")]}, "provenance.field.digest"),
        ({"dependencies": [Dependency(f"pkg:a/{i}-" + "x" * 400) for i in range(1000)]}, "provenance.field.length"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_fact_outside_its_form_is_refused(change: dict[str, object], code: str) -> None:
    assert refusal_code(replace(FACTS, **change)) == code  # type: ignore[arg-type]


def test_the_field_is_the_documents_hash_with_or_without_it() -> None:
    document = encode_build_document(FACTS)
    disclosed = build_environment(document)
    assert disclosed == BuildEnvironment(sha256(document).hex(), document)
    assert build_environment(document, document_disclosed=False) == BuildEnvironment(disclosed.sha256, None)
    for environment in (disclosed, replace(disclosed, document=None)):
        assert BuildEnvironment.from_json_untrusted(environment.to_json()) == environment


def test_another_tools_document_is_taken_when_it_is_canonical_json() -> None:
    assert build_environment(b'{"nix":"abc"}').document == b'{"nix":"abc"}'


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b'{"b":1,"a":2}', "wire.json.not_canonical"),
        (b'{"a":1.5}', "wire.json.float"),
        (b"[]", "provenance.field.object"),
        (b"x", "wire.json.syntax"),
        (b" " * (BUILD_DOCUMENT_BYTES_MAX + 1), "provenance.field.length"),
    ],
    ids=["order", "float", "list", "text", "long"],
)
def test_a_document_that_is_not_canonical_is_refused(document: bytes, code: str) -> None:
    with pytest.raises(InvalidMetadataError) as caught:
        build_environment(document)
    assert caught.value.code == code
