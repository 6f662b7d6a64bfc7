from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from proxygen.tags import KEYS, Key, ProxyTags, parse_tags
from tests.cli.conftest import Proxygen

DOCUMENTED_TOGETHER = [
    key for key in KEYS if key.name not in ("variant", "listen", "protocol", "redirect-https", "hsts")
]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: str(key.name))
def test_every_key_has_a_flag_whose_documented_example_builds(key: Key, proxygen: Proxygen) -> None:
    beside = {"listen": ("--protocol", "tcp"), "redirect-https": ("--tls", "auto"), "hsts": ("--tls", "auto")}
    flags = (f"--{key.name}", key.example, *beside.get(key.name, ()))
    ended = proxygen("tags", "build", *flags)
    assert ended.code == 0, ended.err
    given = [f"proxygen.{name.removeprefix('--')}={value}" for name, value in zip(flags[::2], flags[1::2], strict=True)]
    assert parse_tags(ended.out.splitlines()) == parse_tags(given) != ProxyTags()


def test_what_is_built_reads_back(proxygen: Proxygen) -> None:
    arguments = [text for key in DOCUMENTED_TOGETHER for text in (f"--{key.name}", key.example)]
    as_lines = proxygen("tags", "build", *arguments, "--route", "b.example.com").out.splitlines()
    as_json = json.loads(proxygen("tags", "build", *arguments, "--route", "b.example.com", "--json").out)
    as_meta = json.loads(proxygen("tags", "build", *arguments, "--route", "b.example.com", "--meta").out)
    assert as_lines == as_json
    assert parse_tags(as_json) == parse_tags((), as_meta.items())
    assert len(parse_tags(as_json).route) == 2


def test_another_prefix_is_obeyed(proxygen: Proxygen) -> None:
    ended = proxygen("tags", "build", "--route", "a.example.com", "--proxy-tag-prefix", "edge")
    assert ended.out == "edge.route=a.example.com\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--canary", "101%"],
        ["--canary", "10%", "--variant", "blue:1%"],
        ["--canary", "10%", "--canary", "20%"],
        ["--listen", "5432"],
        ["--route", "evil;}"],
    ],
)
def test_tags_that_are_not_valid_are_not_printed(arguments: list[str], proxygen: Proxygen) -> None:
    ended = proxygen("tags", "build", *arguments)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("proxygen: proxygen.")


def lint(proxygen: Proxygen, directory: Path, document: object) -> tuple[int, str]:
    file = directory / "service.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    ended = proxygen("tags", "lint", str(file))
    return ended.code, ended.out


def test_lint_says_per_tag_and_service_what_is_wrong(proxygen: Proxygen, tmp_path: Path) -> None:
    code, out = lint(
        proxygen,
        tmp_path,
        {
            "services": [
                {"name": "good", "tags": ["proxygen.route=a.example.com", "v1"]},
                {"name": "bad", "tags": ["proxygen.route=a b", "proxygen.weight=x"], "meta": {"proxygen-canry": "1"}},
                {"name": "evil\nname", "tags": ["proxygen.route=\x1b[2J"]},
            ]
        },
    )
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == "good: valid"
    assert [line.split(":")[0] for line in lines[1:]] == ["bad", "bad", "bad", "evil\\nname", "evil\\nname"]
    assert "did you mean canary" in out
    assert "\x1b" not in out


def test_lint_tells_what_will_not_be_proxied_and_passes_it(proxygen: Proxygen, tmp_path: Path) -> None:
    code, out = lint(proxygen, tmp_path, [{"Name": "a", "Tags": ["v1"]}, {"Name": "b", "Tags": ["proxygen.weight=1"]}])
    assert code == 0
    assert "a: no proxy tags" in out
    assert "b: valid, but no route" in out


def test_lint_says_what_has_no_effect_and_passes_it(proxygen: Proxygen, tmp_path: Path) -> None:
    stream = {"name": "db", "tags": ["proxygen.protocol=tcp", "proxygen.listen=5432"]}
    routed = {**stream, "name": "both", "tags": [*stream["tags"], "proxygen.route=db.example.com"]}
    calls = {
        "name": "calls",
        "tags": ["proxygen.route=a.example.com", "proxygen.protocol=grpc", "proxygen.retries=0"],
        "meta": {"proxygen-body-size": "1m", "proxygen-retries-unsafe": "true"},
    }
    code, out = lint(proxygen, tmp_path, {"services": [stream, routed, calls]})
    assert code == 0
    assert out.splitlines() == [
        "db: valid",
        "both: valid, but route has no effect with protocol=tcp: tcp has no requests to apply it to",
        "calls: valid, but body-size has no effect with protocol=grpc: a stream is as long as it lasts",
        "calls: valid, but retries-unsafe has no effect with retries=0",
    ]


def test_lint_reads_standard_input(proxygen: Proxygen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('["proxygen.route=a.example.com"]'))
    assert proxygen("tags", "lint", "-").code == 0


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe", b"{}"])
def test_lint_of_what_cannot_be_read_is_code_2(proxygen: Proxygen, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "service.json"
    if content is not None:
        file.write_bytes(content)
    ended = proxygen("tags", "lint", str(file))
    assert ended.code == 2
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["canary"], ["canry=1"], ["--remove", "canry"]])
def test_set_refuses_what_is_no_assignment(arguments: list[str], proxygen: Proxygen) -> None:
    ended = proxygen("tags", "set", "web-1", *arguments, "--consul-address", "127.0.0.1:9")
    assert ended.code == 2


def test_without_consul_is_code_3(proxygen: Proxygen) -> None:
    for arguments in (["tags", "set", "web-1", "weight=1"], ["canary", "show", "web"], ["snapshot"]):
        ended = proxygen(*arguments, "--consul-address", "127.0.0.1:9")
        assert ended.code == 3
        assert ended.err.startswith("proxygen: Consul at ")
        assert ended.err.count("\n") == 1
