"""From a virtual server of the plan to what its template sees."""

from __future__ import annotations

from proxygen.proxy.plan.types import VirtualServer
from proxygen.proxy.render.clients import client_view, other_spellings, our_headers, vouched_headers
from proxygen.proxy.render.defaults import lines_of, server_lines, stated, tls_lines
from proxygen.proxy.render.inherited import added_headers, parameters
from proxygen.proxy.render.spots import (
    INTERCEPTING,
    ignored_views,
    outermost_lines,
    rest_of,
    said_of_server,
    strips,
    template_of,
)
from proxygen.proxy.render.subrequests import subrequests
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.proxy.render.views import CertificateView, ListenView, Template, TrustView, VirtualServerView
from proxygen.tags import Protocol


def server_view(server: VirtualServer, around: Surroundings, snippets: Snippets) -> VirtualServerView:
    certificate = server.certificate
    fragments = snippets["server.conf"] + (snippets[f"server-{server.host}.conf"] if server.host else ())
    outermost = outermost_lines(around, snippets)
    said = said_of_server(fragments, around, snippets)
    of_services = stated(
        fragment for location in server.locations for fragment in snippets[f"location-{location.service.name}.conf"]
    )
    spoken = {template_of(location.service) for location in server.locations}
    return VirtualServerView(
        names=(server.host or "_",),
        targets=None,
        labels=None,
        listens=_listens(server, around),
        http2=around.http2_directive,
        certificate=_certificate(server),
        tls_defaults=() if certificate is None else tls_lines(said),
        keepalive_min_timeout=around.keepalive_min_timeout,
        trusted_proxies=around.trusted_proxies,
        heard=None if around.traffic is None else around.traffic.mark,
        trust=_trust(server, around),
        defaults=(
            *server_lines(around, spoken, said, of_services),
            *ignored_views(around, {Template.PROXY, *spoken}, fragments, outermost),
        ),
        grpc=Template.GRPC in spoken,
        client=client_view(around, is_stripped=any(map(strips, server.locations))),
        vouched=vouched_headers(around),
        other_spellings=other_spellings(around),
        hsts=certificate is not None and any(location.service.name == server.hsts for location in server.locations),
        error_headers=added_headers((), fragments, outermost),
        error_pages=() if lines_of("error_page", fragments) else lines_of("error_page", outermost),
        passed_headers=parameters("proxy_set_header", fragments, outermost, ours=our_headers(around)),
        passed_grpc_headers=parameters("grpc_set_header", fragments, outermost, ours=our_headers(around)),
        own_errors=said.isdisjoint(INTERCEPTING),
        has_root=any(location.path == "/" for location in server.locations),
        pushed=around.pushed,
        strips=any(rest_of(location, around, fragments, snippets) is not None for location in server.locations),
        subrequests=subrequests(fragments, outermost, {each.path for each in server.locations if each.path != "/"}),
        snippets=fragments,
    )


def _listens(server: VirtualServer, around: Surroundings) -> tuple[ListenView, ...]:
    default = server.host is None
    listens = around.http_listens(default=default)
    if server.certificate is not None:
        listens += around.https_listens(default=default)
    return tuple(listen for listen in listens if listen.address not in server.without)


def _certificate(server: VirtualServer) -> CertificateView | None:
    one = server.certificate
    if one is None:
        return None
    return CertificateView(certificate=one.certificate, key=one.key, fingerprint=one.fingerprint)


def _trust(server: VirtualServer, around: Surroundings) -> TrustView | None:
    """Stands in the virtual server, so that a fragment for one service can say otherwise."""
    spoken = {location.service.options.protocol for location in server.locations}
    if around.upstream_ca is None or not spoken & {Protocol.HTTPS, Protocol.GRPCS}:
        return None
    return TrustView(
        file=around.upstream_ca.file,
        fingerprint=around.upstream_ca.fingerprint,
        https=Protocol.HTTPS in spoken,
        grpcs=Protocol.GRPCS in spoken,
    )
