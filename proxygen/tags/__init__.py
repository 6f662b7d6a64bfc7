"""The grammar of proxy tags, both ways: texts from Consul become `ProxyTags`, and `ProxyTags` become texts.

``values`` holds the types, ``key`` what a key declares, ``keys`` the table of them, ``proxy`` their sum, ``effect``
what of it changes nothing, ``texts`` what stands in Consul.
Applications that register themselves import this package: it needs nothing but the standard library.
"""

from proxygen.tags.effect import without_effect
from proxygen.tags.key import EVERY_PROTOCOL, Combine, Key
from proxygen.tags.keys import KEYS
from proxygen.tags.proxy import ProxyTags, TagValues, check_combination
from proxygen.tags.texts import PREFIX, format_meta, format_tags, has_proxy_tags, lint_tags, parse_tags
from proxygen.tags.values import (
    AUTO,
    CLIENT_COOKIE,
    Balance,
    BalanceBy,
    Datacenter,
    FileName,
    Force,
    Host,
    IPNetwork,
    Path,
    Protocol,
    Rate,
    RouteTag,
    Source,
    Sticky,
    StickyBy,
    VariantTag,
    parse_failover,
    parse_host,
    parse_path,
    parse_route,
)

__all__ = [
    "AUTO",
    "CLIENT_COOKIE",
    "EVERY_PROTOCOL",
    "KEYS",
    "PREFIX",
    "Balance",
    "BalanceBy",
    "Combine",
    "Datacenter",
    "FileName",
    "Force",
    "Host",
    "IPNetwork",
    "Key",
    "Path",
    "Protocol",
    "ProxyTags",
    "Rate",
    "RouteTag",
    "Source",
    "Sticky",
    "StickyBy",
    "TagValues",
    "VariantTag",
    "check_combination",
    "format_meta",
    "format_tags",
    "has_proxy_tags",
    "lint_tags",
    "parse_failover",
    "parse_host",
    "parse_path",
    "parse_route",
    "parse_tags",
    "without_effect",
]
