"""One service by itself: its instances' tags and health to variants, upstreams and a split."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

from proxygen.catalog import Instance, ServiceName
from proxygen.kit.errors import TagError
from proxygen.kit.texts import name_some
from proxygen.proxy.plan.admission import NO_PAST, Admitted, Past, admit
from proxygen.proxy.plan.bounds import Bounds, left_over, within
from proxygen.proxy.plan.certificates import certificate_for
from proxygen.proxy.plan.failover import Standby, find_standby
from proxygen.proxy.plan.kept import bounded, claims_that_parse
from proxygen.proxy.plan.members import JudgedInstance, Unusable, addresses, asks, report, report_left_out
from proxygen.proxy.plan.shares import asked_shares, disagreements, variants_of
from proxygen.proxy.plan.types import (
    Claim,
    Endpoint,
    ForceRule,
    Ident,
    PlannedInstance,
    Policy,
    PortClaim,
    Quarantine,
    RouteClaim,
    Server,
    Service,
    ServiceState,
    Split,
    Upstream,
    Variant,
)
from proxygen.tags import KEYS, BalanceBy, Combine, Protocol, ProxyTags, check_combination, without_effect
from proxygen.tags.shares import CANARY, STABLE, Share, ranges

# A stream's ports are claims, and that there is one is asked of the options.
_OPTIONS: Final = tuple(key for key in KEYS if key.combine is Combine.NEWEST or key.name == "listen")
_SHOWN: Final = 10

MAX_WEIGHT_SUM: Final = 10_000
"""nginx keeps the sum of weights in an int."""

MAX_HASH_WEIGHT_SUM: Final = 100
"""``hash … consistent`` reserves 160 points for each unit of weight and sorts them at every reload."""

_STREAMS: Final = (Protocol.TCP, Protocol.UDP)
_HASHES: Final = frozenset({BalanceBy.HASH_URI, BalanceBy.HASH_HEADER, BalanceBy.HASH_COOKIE})


def ident_of(name: ServiceName) -> Ident:
    """A name for nginx that no other service's name can turn into; 64 bits of the hash, because a name with the same
    32 can be searched for, and two upstreams of one name would be refused for everybody."""
    readable = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:40]
    # The hash stands first: nginx looks an upstream up by comparing its name with every other's from the beginning.
    return Ident(f"svc_{sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}_{readable}")


def plan_service(
    name: ServiceName,
    instances: Sequence[Instance],
    elsewhere: Mapping[str, Sequence[Instance]],
    override: Mapping[str, Share] | None,
    policy: Policy,
    past: Past = NO_PAST,
) -> Service | None:
    """Plan one service; None where no instance asks to be proxied. ``elsewhere`` holds its instances in other
    datacenters, which cannot ask. ``past`` makes no difference where `needs_past` says so.

    What is wrong with it is in `Service.quarantine`, what is wrong with an instance in its report; nothing is raised.
    """
    if not any(asks(instance, policy.prefix) for instance in instances):
        return None
    base = Service(
        name=name,
        ident=ident_of(name),
        state=ServiceState.QUARANTINED,
        registered=min((instance.create_index for instance in instances), default=0),
    )
    admitted = admit(instances, policy, past, lambda members: _first_problem(members, policy))
    members, left_out = admitted.members, admitted.left_out
    options = _merge(members)
    claims = _claims(members, options)
    if not claims:
        return _quarantined(base, left_out, policy) if any(map(_is_routed, left_out)) else None
    if left_out:
        claims = _with_held(claims, left_out, options, past, policy)
    divided = _divided(replace(base, options=options), members, elsewhere, override, policy)
    return replace(
        divided,
        registered=min(member.instance.create_index for member in members),
        claims=_in_order(claims),
        htpasswd=policy.htpasswd.get(options.auth) if options.auth is not None else None,
        instances=_reports(within(instances, policy.bounds), admitted),
        kept=tuple(member.instance for member in members if member.instance.key in admitted.kept),
        warnings=(
            *_disagreements(members),
            *without_effect(options, [member.tags for member in members]),
            *divided.warnings,
            *_unchecked(members),
            *left_over(instances, policy.bounds),
        ),
    )


def needs_past(service: Service) -> bool:
    """Whether something of it cannot be used, for which what was served before may stand in."""
    return service.quarantine is not None or any(one.problem for one in service.instances)


# --- what cannot be used


def _is_routed(one: Unusable) -> bool:
    """Whether an instance that is left out asks for requests, or may do so."""
    return one.tags is None or bool(one.tags.route) or one.tags.protocol in _STREAMS


def _quarantined(base: Service, left_out: Sequence[Unusable], policy: Policy) -> Service:
    """The service where nothing of it can be served: it holds what it asks for."""
    first = left_out[0]
    place = first.place if first.tags is None else first.error.place
    stated = _stated(left_out, policy)
    claims = (claim for claim in stated if isinstance(claim, RouteClaim) or not _refusal(claim, policy))
    return replace(
        base,
        claims=_in_order(bounded(claims, policy.bounds)),
        quarantine=Quarantine(service=base.name, place=place, reason=first.error.reason),
    )


def _first_problem(members: Sequence[JudgedInstance], policy: Policy) -> TagError | None:
    """Say what makes no sense in what some instances state together."""
    options = _merge(members)
    claims = _claims(members, options)
    problems = (
        *check_combination(options),
        *_unmet(options, _in_order(claims), policy),
        *_ungated(members, options, policy),
        *_excesses(members, claims, policy.bounds),
    )
    return next(iter(problems), None)


def _with_held(
    claims: tuple[Claim, ...], left_out: Sequence[Unusable], options: ProxyTags, past: Past, policy: Policy
) -> tuple[Claim, ...]:
    """Add what the service holds and now only an instance states that is left out: nobody else may take it."""
    kind = PortClaim if options.protocol in _STREAMS else RouteClaim
    held = [
        claim
        for claim in _stated(left_out, policy)
        if claim in past.claims and isinstance(claim, kind) and claim not in claims
    ]
    usable = [claim for claim in held if not _unmet(options, [claim], policy)]
    return tuple(bounded((*claims, *usable), policy.bounds))


def _stated(left_out: Iterable[Unusable], policy: Policy) -> Iterable[Claim]:
    """What instances ask for that are left out, as far as it can be read."""
    return dict.fromkeys(claims_that_parse([one.instance for one in left_out], policy))


def _reports(instances: Sequence[Instance], admitted: Admitted) -> tuple[PlannedInstance, ...]:
    """Say of each instance what becomes of it, in their order."""
    members = {member.instance.key: member for member in admitted.members}
    left_out = {one.instance.key: one for one in admitted.left_out}
    return tuple(
        report_left_out(left_out[each.key])
        if each.key in left_out
        else report(members[each.key], admitted.kept.get(each.key))
        for each in instances
    )


# --- what the instances state together


def _newest_first(members: Iterable[JudgedInstance]) -> list[JudgedInstance]:
    return sorted(members, key=lambda member: (-member.instance.modify_index, member.instance.key))


def _merge(members: Iterable[JudgedInstance]) -> ProxyTags:
    """For each key the value of the newest registration that states it: during a rolling deploy the new one is
    meant, and an instance that is silent about ``auth`` does not open the service."""
    merged: dict[str, Any] = {}
    for member in _newest_first(members):
        for key in _OPTIONS:
            value = getattr(member.tags, key.field)
            if value is not None:
                merged.setdefault(key.field, value)
    return ProxyTags(**merged)


def _disagreements(members: Sequence[JudgedInstance]) -> list[str]:
    warnings = []
    for key in _OPTIONS:
        values = {value for member in members if (value := getattr(member.tags, key.field)) is not None}
        if len(values) > 1:
            is_port = key.combine is Combine.UNION
            settled = "streams are taken on each of the ports" if is_port else "the newest registration's value is used"
            warnings.append(f"instances disagree on {key.name}; {settled}")
    return warnings


def _unchecked(members: Iterable[JudgedInstance]) -> list[str]:
    """Say which instances serve without a check, since their agent has just started."""
    kept = [member.instance for member in members if member.instance.unchecked and member.weight > 0]
    if not kept:
        return []
    named = name_some([f"{instance.id} on {instance.node}" for instance in kept])
    return [f"not checked since the agent started, and served as before for guard.hold at most: {named}"]


def _claims(members: Sequence[JudgedInstance], options: ProxyTags) -> tuple[Claim, ...]:
    """The union over all instances, so that a route does not disappear while its tag changes one by one; the oldest
    registration's first."""
    oldest_first = sorted(members, key=lambda member: (member.instance.create_index, member.instance.key))
    found: Iterable[Claim]
    if options.protocol in _STREAMS:
        protocol = options.protocol.value
        found = (PortClaim(protocol, one.tags.listen) for one in oldest_first if one.tags.listen is not None)
    else:
        found = (RouteClaim(route.host or "", route.path) for one in oldest_first for route in one.tags.route)
    return tuple(dict.fromkeys(found))


def _in_order(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    return tuple(sorted(claims, key=str))


def _unmet(options: ProxyTags, claims: Iterable[Claim], policy: Policy) -> list[TagError]:
    """What the tags refer to and the operator does not have."""
    problems = []
    tls = options.tls if policy.knows_files else None
    if policy.knows_files and options.auth is not None and options.auth not in policy.htpasswd:
        problems.append(TagError("auth", f"there is no htpasswd file {options.auth!r}; {_known(policy.htpasswd)}"))
    for claim in claims:
        if isinstance(claim, RouteClaim):
            if tls is not None and certificate_for(claim.host, tls, policy.certificate_index) is None:
                wanted = f"that holds {claim.host!r}" if tls == "auto" else f"named {tls!r}"
                known = _known(policy.certificate_index.by_name)
                problems.append(TagError("tls", f"there is no certificate {wanted}; {known}"))
        elif reason := _refusal(claim, policy):
            problems.append(TagError("listen", reason))
    return problems


def _known(names: Collection[str]) -> str:
    """What a tag may name instead; there may be thousands."""
    return f"known: {name_some(names, _SHOWN) or 'none'}"


def _ungated(members: Sequence[JudgedInstance], options: ProxyTags, policy: Policy) -> Iterator[TagError]:
    """A tag only narrows what the operator allows, so who cannot be behind his gate is not let through it."""
    if options.auth is not None and any(member.instance.service in policy.ungated for member in members):
        yield TagError(
            "auth",
            "nginx cannot ask for this password and for the operator's own where the service's fragment says location,"
            " alias, limit_except or include",
        )


def _refusal(claim: PortClaim, policy: Policy) -> str:
    """Why nobody may hold this port, or "". nginx must not be told to bind it even for a service in quarantine: it
    would refuse the reload, and with it every service."""
    if claim.port in policy.reserved_ports:
        return f"port {claim.port} is in use by the proxy itself"
    if place := policy.taken_ports.get((claim.protocol, claim.port)):
        return f"port {claim.port} is in use by the server at {place}"
    if claim.port not in policy.stream_ports:
        allowed = f"{policy.stream_ports.start}-{policy.stream_ports.stop - 1}"
        return f"port {claim.port} is not in {allowed} (proxy.stream_ports)"
    return "" if policy.streams else "nginx.conf includes no stream.d, so there can be no TCP or UDP route"


def _excesses(members: Sequence[JudgedInstance], claims: Sequence[Claim], bounds: Bounds) -> Iterator[TagError]:
    routes = [claim for claim in claims if isinstance(claim, RouteClaim)]
    ports = [claim for claim in claims if isinstance(claim, PortClaim)]
    wide = [claim for claim in routes if claim.is_wide]
    force = {rule for member in members for rule in member.tags.force}
    variants = {member.variant for member in members}
    for key, what, found, most in (
        ("route", "routes", routes, bounds.routes),
        ("route", "routes of any host or a wildcard", wide, bounds.wide_routes),
        ("listen", "ports", ports, bounds.ports),
        ("force", "forces", force, bounds.force_rules),
        ("variant", "variants", variants, bounds.variants),
    ):
        if len(found) > most:
            yield TagError(key, f"{len(found)} {what} are more than the {most} that one service may have ([bounds])")


# --- traffic


def _divided(
    base: Service,
    members: Sequence[JudgedInstance],
    elsewhere: Mapping[str, Sequence[Instance]],
    override: Mapping[str, Share] | None,
    policy: Policy,
) -> Service:
    """The service with its variants, upstreams and split, and with the warnings that these alone give."""
    shares, share_warnings = asked_shares(members, override), disagreements(members)
    standby, standby_warnings = find_standby(base.options.failover or (), members, elsewhere, policy)
    groups = _groups(members)
    if not any(variant.effective for variant in variants_of(shares, groups)):
        # nginx refuses an upstream of only backups.
        standby = standby.in_service()
        groups |= {STABLE: standby.servers} if standby.servers else {}
    upstreams = _upstreams(base.ident, groups, standby, base.options, policy.seed)
    variants = variants_of(shares, groups)
    return replace(
        base,
        state=ServiceState.SERVED if any(variant.effective for variant in variants) else ServiceState.NOBODY,
        variants=variants,
        upstreams=upstreams,
        split=_split(variants, upstreams, members),
        elsewhere=standby.reports(),
        warnings=(*share_warnings, *standby_warnings),
    )


# --- upstreams and split


def _groups(members: Sequence[JudgedInstance]) -> dict[str, Mapping[Endpoint, int]]:
    """The servers of each variant that has any."""
    groups = {
        variant: addresses(member for member in members if member.variant == variant)
        for variant in {member.variant for member in members}
    }
    return {variant: servers for variant, servers in groups.items() if servers}


def _upstreams(
    ident: Ident, groups: Mapping[str, Mapping[Endpoint, int]], standby: Standby, options: ProxyTags, seed: str
) -> tuple[Upstream, ...]:
    balance = options.balance
    is_hashed = balance is not None and balance.by in _HASHES
    stable = _servers(groups.get(STABLE, {}), seed, is_hashed=is_hashed)
    may_back_up = balance is None or balance.by.may_back_up
    behind = _servers(standby.behind, seed, is_hashed=is_hashed) if may_back_up else ()
    upstreams = []
    for variant in sorted(groups, key=lambda name: (name != STABLE, name != CANARY, name)):
        own = groups[variant]
        servers = _servers(own, seed, is_hashed=is_hashed)
        is_backed = variant != STABLE and (may_back_up or len(own) == 1)
        backups = (*(server for server in stable if is_backed and server.endpoint not in own), *behind)
        servers += tuple(replace(server, backup=True) for server in backups)
        upstreams.append(
            Upstream(
                name=upstream_name(ident, variant),
                variant=variant,
                servers=servers,
                balanced=may_back_up or not is_backed,
            )
        )
    return tuple(upstreams)


def upstream_name(ident: Ident, variant: str) -> Ident:
    """A name for nginx that no other variant's and no other service's can turn into."""
    # nginx looks an upstream up by comparing its name with every other's, and first the lengths: with names of sixteen
    # lengths it reads 10,000 services in half the time.
    digits = sha256(ident.encode()).hexdigest()
    padding = digits[: 1 + int(digits[0], 16)]
    # Variant names hold no underscore, so no two of them meet here.
    return Ident(f"{ident}_{padding}_{variant.replace('-', '_')}")


def _servers(group: Mapping[Endpoint, int], seed: str, *, is_hashed: bool) -> tuple[Server, ...]:
    """Servers in an order of this proxy's own, so that not every proxy tries the same one first after a reload."""
    divisor = math.gcd(*group.values()) if group else 1
    weights = {endpoint: weight // divisor for endpoint, weight in group.items()}
    total = sum(weights.values())
    most = max(MAX_HASH_WEIGHT_SUM, len(group)) if is_hashed else MAX_WEIGHT_SUM
    if total > most:
        weights = {endpoint: max(1, weight * most // total) for endpoint, weight in weights.items()}
    ordered = sorted(weights, key=lambda endpoint: sha256(f"{seed}\0{endpoint}".encode()).digest())
    return tuple(Server(endpoint, weights[endpoint]) for endpoint in ordered)


def _split(
    variants: Sequence[Variant], upstreams: Sequence[Upstream], members: Iterable[JudgedInstance]
) -> Split | None:
    names = {upstream.variant: upstream.name for upstream in upstreams}
    effective = {variant.name: variant.effective for variant in variants}
    pieces = tuple((size, names[variant]) for size, variant in ranges(effective))
    if not pieces:
        return None
    force = _force_rules(members, names, pieces[-1][1])
    if len(pieces) == 1 and not force and len(upstreams) == 1:
        return None
    return Split(pieces=pieces, force=force)


def _force_rules(
    members: Iterable[JudgedInstance], names: Mapping[str, Ident], fallback: Ident
) -> tuple[ForceRule, ...]:
    """Rules point at the variant of the instance that states them; stated by a stable one, at the canary."""
    rules: dict[tuple[str, str, str | None], ForceRule] = {}
    stable = names.get(STABLE, fallback)
    for member in sorted(
        members, key=lambda member: (member.variant != CANARY, member.variant == STABLE, member.variant)
    ):
        target = CANARY if member.variant == STABLE else member.variant
        for force in member.tags.force:
            rule = ForceRule(
                source=force.source.value,
                name=force.name,
                value=force.value,
                upstream=names.get(target, stable),
                otherwise=stable,
            )
            rules.setdefault((rule.source, rule.name.lower(), rule.value), rule)
    return tuple(rules[key] for key in sorted(rules, key=lambda key: (key[0] != "header", key[1], key[2] or "")))
