"""Which clients a tag lets in: never one that the operator's own ``allow`` and ``deny`` turn away.

nginx inherits these two all or nothing, so one of ours beside a request's route would end all of his around it. In
``http`` ours is therefore a ``geo`` that the route asks before nginx comes to his. ``stream`` has nothing to ask with:
there his lines are said again, narrowed to what the tag lets in.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Final

from proxygen.kit.templating import Block, Variable
from proxygen.proxy.plan.types import Service, ServiceState
from proxygen.proxy.render.defaults import lines_of_any, words_of
from proxygen.proxy.render.views import AccessLine, GeoView, MapLine
from proxygen.tags import IPNetwork

Networks = tuple[IPNetwork, ...]

_EVERYBODY: Final[Networks] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
_ALL: Final = "all"


def networks_of(service: Service) -> tuple[Networks, Networks] | None:
    """The networks that its tags let in and turn away; None where nobody is turned away by them."""
    allow, deny = service.options.allow or (), service.options.deny or ()
    return (allow, deny) if (allow or deny) and service.state is ServiceState.SERVED else None


def denied_variable(allow: Networks, deny: Networks) -> Variable:
    """The same for the same networks, whichever service states them: hosts can share a virtual server then."""
    stated = "|".join(",".join(map(str, networks)) for networks in (allow, deny))
    return Variable(f"proxygen_denied_{sha256(stated.encode()).hexdigest()[:16]}")


def geo_view(allow: Networks, deny: Networks) -> GeoView:
    return GeoView(
        variable=denied_variable(allow, deny),
        lines=tuple(
            MapLine(match=str(network), value="1" if denied else "") for network, denied in _verdicts(allow, deny)
        ),
    )


def _verdicts(allow: Networks, deny: Networks) -> Iterator[tuple[IPNetwork, bool]]:
    """By network whether it is denied.

    nginx's geo goes by the longest prefix, while ``deny`` goes before ``allow``: what lies within a denied network is
    left out.
    """
    denied = set(deny)
    found = dict.fromkeys(_EVERYBODY, bool(allow)) | dict.fromkeys(allow, False) | dict.fromkeys(deny, True)
    # Networks lie within each other or apart, and the wider comes first.
    end = (0, -1)
    for network in sorted(found, key=_place):
        last = (network.version, int(network.broadcast_address))
        if last > end:
            yield network, found[network]
            if network in denied:
                end = last


def _place(network: IPNetwork) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def stream_access(
    allow: Networks, deny: Networks, within: Iterable[Block], around: Iterable[Block]
) -> tuple[AccessLine, ...]:
    """Return the lines of a stream server; the first that matches a client counts.

    ``within`` are the operator's that follow in the same block, ``around`` those that it would inherit.
    """
    if not (allow or deny):
        return ()
    follow = _rules(within)
    rules = follow or _rules(around)
    ours = [AccessLine(allows=False, network=str(network)) for network in deny]
    if not allow:
        return (*ours, *(() if follow else rules))
    for rule in rules:
        ours += _narrowed(rule, allow) if rule.allows else [rule]
    ours += [AccessLine(allows=True, network=str(network)) for network in allow]
    return (*dict.fromkeys(ours), AccessLine(allows=False, network=_ALL))


def _rules(lines: Iterable[Block]) -> tuple[AccessLine, ...]:
    said = (words_of(line) for line in lines_of_any({"allow", "deny"}, lines))
    return tuple(AccessLine(allows=words[0] == "allow", network=words[1]) for words in said if len(words) == 2)


def _networks(text: str) -> Networks:
    """A network as nginx reads it, which takes leading zeros; none for what is none, so that nobody is let in by it."""
    try:
        return (ipaddress.ip_network(re.sub(r"(?<![0-9A-Fa-f:])0+(?=[0-9])", "", text), strict=False),)
    except ValueError:
        return ()


def _narrowed(rule: AccessLine, allow: Networks) -> Iterator[AccessLine]:
    """What a rule that lets in has in common with what the tag lets in. A unix socket is no network."""
    if rule.network == _ALL:
        networks = _EVERYBODY
    elif rule.network.startswith("unix:"):
        networks = ()
    else:
        networks = _networks(rule.network)
    for network in networks:
        for other in allow:
            if network.version == other.version and network.overlaps(other):
                narrower = max(network, other, key=lambda each: each.prefixlen)
                yield AccessLine(allows=True, network=str(narrower))
