from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.kit.errors import BadInput
from proxygen.registration.definition import Definition, read_definitions

WEB = Definition(name="web", tags=("a", "b"), meta=(("k", "v"),))
LOWER = {"name": "web", "tags": ["a", "b"], "meta": {"k": "v"}}
UPPER = {"Name": "web", "Tags": ["a", "b"], "Meta": {"k": "v"}}
AGENT = {"ID": "web-1", "Service": "web", "Tags": ["a", "b"], "Meta": {"k": "v"}}


@pytest.mark.parametrize(
    "document",
    [
        {"service": LOWER},
        {"services": [LOWER]},
        {"service": [LOWER]},
        {"service": [{**LOWER, "meta": [{"k": "v"}]}]},
        {"datacenter": "dc1", "service": LOWER},
        LOWER,
        UPPER,
        [UPPER],
        AGENT,
        {"web-1": AGENT},
        {"Node": "n", "Address": "10.0.0.1", "Service": AGENT},
    ],
    ids=json.dumps,
)
def test_a_service_is_found_in_every_form_that_consul_takes(document: object) -> None:
    assert read_definitions(json.dumps(document)) == (WEB,)


def test_a_bare_list_is_a_list_of_tags() -> None:
    assert read_definitions('["a", "b"]')[0].tags == ("a", "b")


def test_all_services_are_found_in_order() -> None:
    document = {"service": {"name": "a"}, "services": [{"name": "b"}, {"name": "c"}]}
    assert [definition.name for definition in read_definitions(json.dumps(document))] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("service {}", "not JSON"),
        ("{}", "no service definition"),
        ("[]", "no service definition"),
        ("5", "no service definition"),
        ('{"services": ["web"]}', "no service definition"),
        ('{"service": {"tags": ["a"]}}', "no service definition"),
        ('{"service": {"name": "web", "tags": "a"}}', "web: tags"),
        ('{"service": {"name": "web", "tags": [1]}}', "web: tags"),
        ('{"service": {"name": "web", "meta": {"k": 1}}}', "web: meta"),
        ("[" * 100_000, "nested"),
    ],
)
def test_what_is_no_definition_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        read_definitions(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["service", "services", "name", "Name", "tags", "meta", "x"]), inner)
    ),
)


@given(_JSON)
def test_any_json_is_read_or_refused(document: object) -> None:
    """Whatever stands in the file, the answer is definitions or one error, never a traceback."""
    try:
        found = read_definitions(json.dumps(document))
    except BadInput:
        return
    assert found
