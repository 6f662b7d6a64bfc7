"""``server_name`` as nginx reads it. The rules are those of ``ngx_http_core_server_name`` and ``ngx_hash_add_key``."""

from __future__ import annotations

import socket


def as_nginx_keeps(name: str) -> str:
    """Return a ``server_name`` as nginx keeps it and names it in its messages: ``$hostname``, exactly so written, is
    this machine's name. An nginx in another container may have another one."""
    return (socket.gethostname() if name == "$hostname" else name).lower()


def hosts_of(name: str) -> tuple[str, ...]:
    """Return the hosts, written as in a route, that one ``server_name`` holds: no other server may have them.

    - ``.example.com`` holds ``example.com`` and ``*.example.com``, each of them against anybody.
    - ``*.example.com`` does not hold ``a.example.com``: to nginx a whole name goes before a wildcard.
    - A regular expression (``~…``) holds nothing: both whole names and wildcards go before it.
    - ``""`` is a request without a host. A trailing dot, which nginx keeps here and takes off a request's host, makes a
      name that no request has.
    """
    name = as_nginx_keeps(name)
    if not name or name.startswith("~") or name.endswith("."):
        return ()
    if name.startswith("."):
        return (name[1:], f"*{name}")
    return (name,)
