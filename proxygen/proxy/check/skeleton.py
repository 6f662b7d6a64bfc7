"""The skeleton of a configuration: its directives, contexts and argument counts, without the values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Node = tuple[str, int, tuple["Node", ...]]
"""(directive, number of arguments, children)."""

_VALUES: Final = frozenset({"map", "split_clients", "geo"})
"""Blocks whose lines begin with a value, not with a directive."""

_NOT_VALUES: Final = frozenset({"include", "hostnames", "volatile", "ranges", "proxy", "proxy_recursive", "delete"})
"""Words that nginx obeys at the beginning of a line in such a block."""

_PROXY = frozenset(
    {
        "proxy_http_version", "proxy_set_header", "proxy_connect_timeout", "proxy_read_timeout", "proxy_send_timeout",
        "proxy_next_upstream", "proxy_next_upstream_tries", "proxy_next_upstream_timeout", "proxy_buffer_size",
        "proxy_buffers", "proxy_busy_buffers_size", "proxy_buffering", "proxy_request_buffering",
        "proxy_socket_keepalive", "client_max_body_size", "error_page", "grpc_set_header", "add_header",
        "proxy_ignore_headers", "grpc_ignore_headers", "fastcgi_ignore_headers", "uwsgi_ignore_headers",
        *(
            f"{module}_{name}"
            for module in ("grpc", "fastcgi", "uwsgi")
            for name in ("read_timeout", "send_timeout", "next_upstream_timeout", "socket_keepalive", "buffer_size")
        ),
        *(
            f"{module}_{name}"
            for module in ("fastcgi", "uwsgi")
            for name in ("buffers", "busy_buffers_size", "buffering", "request_buffering")
        ),
    }
)  # fmt: skip

_LOCATION = frozenset(
    {
        "set", "set_by_lua_block", "if", "return", "recursive_error_pages", "default_type", "allow", "satisfy",
        "auth_basic",
        "auth_basic_user_file", "internal", "types", "limit_req", "limit_req_status", "rewrite", "proxy_pass",
        "root", "try_files", "proxy_redirect", "proxy_cookie_path", "client_body_timeout", "proxy_ssl_server_name",
        "proxy_ssl_name", "grpc_pass", "grpc_ssl_server_name", "grpc_ssl_name", "grpc_connect_timeout",
        "grpc_next_upstream",
        "grpc_next_upstream_tries", "fastcgi_pass", "fastcgi_param", "fastcgi_connect_timeout",
        "fastcgi_next_upstream", "fastcgi_next_upstream_tries",
        "uwsgi_pass", "uwsgi_param", "uwsgi_connect_timeout",
        "uwsgi_next_upstream", "uwsgi_next_upstream_tries",
    }
)  # fmt: skip

ALLOWED: Final[Mapping[tuple[str, ...], frozenset[str]]] = {
    ("http",): frozenset(
        {
            "upstream", "server", "map", "split_clients", "geo", "limit_req_zone", "server_names_hash_bucket_size",
            "server_names_hash_max_size", "map_hash_bucket_size", "map_hash_max_size", "variables_hash_max_size",
            "variables_hash_bucket_size", "log_format", "access_log", "lua_shared_dict", "init_by_lua_block",
        }
    ),
    ("http", "upstream"): frozenset(
        {"server", "least_conn", "random", "ip_hash", "hash", "keepalive", "keepalive_timeout", "balancer_by_lua_block"}
    ),
    ("http", "server"): _PROXY
    | {
        "listen", "server_name", "set", "http2", "ssl_certificate", "ssl_certificate_key", "ssl_protocols",
        "ssl_session_timeout", "ssl_session_tickets", "ssl_reject_handshake", "keepalive_min_timeout",
        "keepalive_timeout", "access_log", "set_real_ip_from", "real_ip_header", "real_ip_recursive",
        "location", "if", "server_tokens", "request_pool_size", "absolute_redirect",
        "large_client_header_buffers", "underscores_in_headers",
        "ignore_invalid_headers", "log_by_lua_block",
        "proxy_ssl_verify", "proxy_ssl_verify_depth", "proxy_ssl_trusted_certificate",
        "grpc_ssl_verify", "grpc_ssl_verify_depth", "grpc_ssl_trusted_certificate",
    },
    ("http", "server", "if"): frozenset({"set", "return"}),
    ("http", "server", "location"): _PROXY | _LOCATION,
    ("http", "server", "location", "if"): frozenset({"return", "break"}),
    ("http", "server", "location", "types"): frozenset(),
    ("stream",): frozenset(
        {"upstream", "server", "split_clients", "variables_hash_bucket_size", "variables_hash_max_size"}
    ),
    ("stream", "upstream"): frozenset({"server", "least_conn", "random", "hash"}),
    ("stream", "server"): frozenset(
        {
            "listen", "proxy_pass", "proxy_timeout", "proxy_connect_timeout", "proxy_next_upstream",
            "proxy_next_upstream_tries", "allow", "deny", "return",
        }
    ),
}  # fmt: skip
"""What the shipped templates may say, by context. Templates and snippets of the operator's own may say more:
whatever they say with inert values."""


@dataclass(frozen=True, slots=True)
class Oddity:
    """A directive that should not be there."""

    line: int
    reason: str


def skeleton(parsed: Sequence[Mapping[str, Any]]) -> tuple[Node, ...]:
    """Reduce crossplane's tree to its shape."""
    return tuple(_node(directive) for directive in parsed)


def _node(directive: Mapping[str, Any]) -> Node:
    name, block = directive["directive"], directive.get("block")
    if name in _VALUES:
        return (name, len(directive["args"]), tuple(("", len(line["args"]), ()) for line in block or ()))
    return (name, len(directive["args"]), skeleton(block or ()))


def _misfit(node: Node, other: Node, directive: Mapping[str, Any]) -> Oddity:
    if node[0] == other[0] and node[1] == other[1] and node[0] not in _VALUES:
        inner = difference(node[2], other[2], directive.get("block") or ())
        return inner or Oddity(directive["line"], f'"{node[0]}" lacks a directive')
    if node[0] == other[0]:
        return Oddity(directive["line"], f'"{node[0]}" has {node[1]} arguments or lines where {other[1]} belong')
    return Oddity(directive["line"], f'unexpected directive "{directive["directive"]}"')


def difference(seen: tuple[Node, ...], expected: tuple[Node, ...], lines: Sequence[Mapping[str, Any]]) -> Oddity | None:
    """Find the first place where two skeletons part; ``lines`` is the tree that ``seen`` was made from."""
    if seen == expected:
        return None
    for position, node in enumerate(seen):
        directive = lines[position]
        if position >= len(expected):
            return Oddity(directive["line"], f'unexpected directive "{directive["directive"]}"')
        if node != expected[position]:
            return _misfit(node, expected[position], directive)
    return Oddity(lines[-1]["line"] if lines else 1, f'"{expected[len(seen)][0]}" is missing')


def forbidden(parsed: Sequence[Mapping[str, Any]], context: tuple[str, ...]) -> Iterator[Oddity]:
    """Yield each directive that `ALLOWED` does not name for its context."""
    allowed = ALLOWED.get(context, frozenset())
    for directive in parsed:
        name = directive["directive"]
        if name not in allowed:
            yield Oddity(directive["line"], f'unexpected directive "{name}"')
        elif name in _VALUES:
            for line in directive.get("block") or ():
                # With an argument it would be a value, which nginx takes for the word all the same.
                if line["directive"] in _NOT_VALUES and (line["args"] or line["directive"] != "volatile"):
                    yield Oddity(line["line"], f'unexpected word "{line["directive"]}" in a {name}')
        else:
            yield from forbidden(directive.get("block") or (), (*context, name))
