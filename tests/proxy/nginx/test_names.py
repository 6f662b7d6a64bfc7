"""``server_name`` in every spelling."""

from __future__ import annotations

import socket

import pytest

from proxygen.proxy.nginx.names import hosts_of
from proxygen.proxy.nginx.tokens import read_directives


@pytest.mark.incident("T36")
@pytest.mark.parametrize(
    ("written", "hosts"),
    [
        ("example.com", ("example.com",)),
        ("EXAMPLE.com", ("example.com",)),
        ('"example.com"', ("example.com",)),
        ("'example.com'", ("example.com",)),
        (r"exam\ple.com", (r"exam\ple.com",)),
        (".example.com", ("example.com", "*.example.com")),
        ('".EXAMPLE.com"', ("example.com", "*.example.com")),
        ("*.example.com", ("*.example.com",)),
        ("www.example.*", ("www.example.*",)),
        ("example.com.", ()),
        ('""', ()),
        ("_", ("_",)),
        ("localhost", ("localhost",)),
        ("xn--bcher-kva.example", ("xn--bcher-kva.example",)),
        (r"~^(www\.)?example\.com$", ()),
        ("$hostname", (socket.gethostname().lower(),)),
        ('"$hostname"', (socket.gethostname().lower(),)),
        ("$HOSTNAME", ("$hostname",)),
        ('"~^[a-z]{2,3}\\.example\\.com$"', ()),
    ],
)
def test_a_name_holds_the_hosts_that_nginx_takes_it_for(written: str, hosts: tuple[str, ...]) -> None:
    (directive,) = read_directives(f"server_name {written};")
    assert hosts_of(directive.arguments[0]) == hosts
