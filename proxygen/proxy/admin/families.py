"""Every metric, declared once: its name, labels and meaning. The reference page is written from here.

No label has values without bound. A service's name is a label only of what is read at each scrape and belongs to the
newest plan: a service that is gone leaves no series.
"""

from __future__ import annotations

from typing import Final

from proxygen.kit.metrics import Family
from proxygen.proxy.apply.outcome import Outcome, WayToNginx
from proxygen.proxy.traffic.tally import BOUNDS

_UP_TO_A_MINUTE: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_UP_TO_AN_HOUR: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)
"""For propagation, which has no upper end: nginx or the disk may be away for long."""


# fmt: off

# --- counted as it happens

PASSES: Final = Family("proxygen_passes", "counter", f"Passes of the loop, by how they ended: {', '.join(Outcome)}.", ("outcome",))
APPLIED: Final = Family("proxygen_applied", "counter", f"Generations that nginx was proven to serve, by how they reached it: {', '.join(WayToNginx)}.", ("by",))
STAGES: Final = Family("proxygen_stage_seconds", "histogram", "How long each stage of a pass took: plan, render, check, push, stage, test (nginx -t), drain, publish, reload, prove, restore.", ("stage",), _UP_TO_A_MINUTE)
RELOADS: Final = Family("proxygen_reload_seconds", "histogram", "From asking nginx to reload until it was proven to serve the new generation.", (), _UP_TO_A_MINUTE)
PROPAGATION: Final = Family("proxygen_propagation_seconds", "histogram", "From a change seen in Consul until nginx was proven to serve it, failed attempts and pauses included.", (), _UP_TO_AN_HOUR)
CONSUL_REQUESTS: Final = Family("proxygen_consul_requests", "counter", "Requests to Consul, by how they ended: answered, denied (403), failed.", ("outcome",))
CONSUL_LATENCY: Final = Family("proxygen_consul_request_seconds", "histogram", "How long Consul took to answer a read that does not wait for a change.", (), _UP_TO_A_MINUTE)
ADMIN_TURNED_AWAY: Final = Family("proxygen_admin_turned_away", "counter", "Connections to the admin API that were not kept, by listener (tcp, unix) and reason: made_room (idle for longest when admin.max_connections was reached), refused (all others were busy), not_accepted (the process has too few file descriptors or the kernel too little memory).", ("listener", "reason"))

# --- read at the scrape

BUILD: Final = Family("proxygen_build_info", "gauge", "1; which versions run.", ("version", "python", "nginx"))
READY: Final = Family("proxygen_ready", "gauge", "1 while /readyz answers 200.")
FAILING: Final = Family("proxygen_failing", "gauge", "1 while the last pass was rejected or rolled back; it is tried again.")
GENERATION: Final = Family("proxygen_generation", "gauge", "Number of the live generation.")
LIVE_SINCE: Final = Family("proxygen_generation_live_timestamp_seconds", "gauge", "When the live generation went live, in Unix time.")
CONDITIONS: Final = Family("proxygen_conditions", "gauge", "What lasts now, by topic: hold, quarantine, conflict, consul (it does not answer), files and settings (refused, those before stay in force), instance (left out), previous tags (served with those it had before), flapping (a service changes too often, and waits), certificate (expires soon), warning.", ("topic",))
EVENTS: Final = Family("proxygen_events", "counter", "Events, by kind (/api/v1/events).", ("kind",))
ADMIN_CONNECTIONS: Final = Family("proxygen_admin_connections", "gauge", "Open connections to the admin API, by listener: tcp, unix.", ("listener",))
STREAMS: Final = Family("proxygen_event_streams", "gauge", "Clients that follow the events.")
SERVICES: Final = Family("proxygen_services", "gauge", "Routed services, by state: served, nobody (503), quarantined (503), waiting (not in nginx yet).", ("state",))
INSTANCES: Final = Family("proxygen_instances", "gauge", "Instances of routed services, by state: serving, standby (in another datacenter, behind the local ones), drained (weight 0), unhealthy, refused (no usable tags, address or port), quarantined (with its service), waiting (not in nginx yet).", ("state",))
CONFLICTS: Final = Family("proxygen_conflicts", "gauge", "Routes that a service claims and does not get.")
HELD: Final = Family("proxygen_held", "gauge", "1 while something is held: kind guard (servers that went and are not let go), or rollback (the operator went back).", ("kind",))
HELD_SERVICES: Final = Family("proxygen_held_services", "gauge", "Services that keep instances which Consul no longer shows as serving.")
CONSUL_FRESHNESS: Final = Family("proxygen_consul_freshness_seconds", "gauge", "Age of the oldest last answer among the standing questions; +Inf before each was answered once. Up to consul.wait is normal.")
CONSUL_FRESH: Final = Family("proxygen_consul_freshness_limit_seconds", "gauge", "admin.fresh: above it the sidecar is not ready.")
CONSUL_LIMITED: Final = Family("proxygen_consul_limited", "counter", "Answers with status 429 among the failed requests: Consul asks us to come less often.")
CONSUL_BYTES: Final = Family("proxygen_consul_received_bytes", "counter", "Bytes of all bodies from Consul as they came over the wire.")
CONSUL_SOCKETS: Final = Family("proxygen_consul_sockets", "gauge", "Requests to Consul in flight, each on a socket of its own.")
CONSUL_MAX_SOCKETS: Final = Family("proxygen_consul_sockets_limit", "gauge", "consul.max_connections.")
NGINX_UP: Final = Family("proxygen_nginx_up", "gauge", "1 while nginx's master process is seen; absent where the process table cannot show it.")
CERTIFICATE_EXPIRES: Final = Family("proxygen_certificate_expiry_timestamp_seconds", "gauge", "When each certificate of proxy.certificates expires, in Unix time.", ("certificate",))
NGINX_WORKERS: Final = Family("proxygen_nginx_workers", "gauge", "nginx's workers, by state: accepting, draining (old ones that finish their requests).", ("state",))
NGINX_MAX_DRAINING: Final = Family("proxygen_nginx_draining_limit", "gauge", "reload.max_draining: a reload waits while more are draining.")
SERVICE_SERVING: Final = Family("proxygen_service_serving", "gauge", "Instances of a variant that get requests.", ("service", "variant"))
SERVICE_REGISTERED: Final = Family("proxygen_service_registered", "gauge", "Instances of a variant that are registered.", ("service", "variant"))
SERVICE_SHARE: Final = Family("proxygen_service_share", "gauge", "Part of a service's requests that a variant gets, 0 to 1; only of services with several variants.", ("service", "variant"))
SERVICE_SHARE_ASKED: Final = Family("proxygen_service_share_asked", "gauge", "The share that tags or the operator's lever ask for; only of services with several variants.", ("service", "variant"))
SERVICE_QUARANTINED: Final = Family("proxygen_service_quarantined", "gauge", "1 for each quarantined service; no other has the series.", ("service",))
SERVICE_UNUSABLE: Final = Family("proxygen_service_unusable_instances", "gauge", "Instances of a service whose registration cannot be used: left out, or served with the tags that they had before; a service without any has no series.", ("service",))
SERVICE_KEPT: Final = Family("proxygen_service_kept_instances", "gauge", "Instances that a hold keeps in nginx, of each held service; no other has the series.", ("service",))
TRAFFIC_REQUESTS: Final = Family("proxygen_traffic_requests", "counter", "Requests of a variant's clients, by class of status; extrapolated to all where nginx tells of a sample. Variant \"\": nginx answered by itself (refused, limited, redirected, nobody there).", ("service", "variant", "class"))
TRAFFIC_SECONDS: Final = Family("proxygen_traffic_upstream_seconds", "histogram", "How long a variant's instances took for a request, all that were asked for it together; WebSockets are not timed.", ("service", "variant"), BOUNDS)
TRAFFIC_RETRIED: Final = Family("proxygen_traffic_retried", "counter", "Requests of a variant for which more than one instance was asked, the backup included.", ("service", "variant"))
TRAFFIC_BACKED_UP: Final = Family("proxygen_traffic_backed_up", "counter", "Requests of a variant that one of nginx's backups answered: an instance of stable in another variant's place, or one of another datacenter.", ("service", "variant"))
TRAFFIC_SAMPLE: Final = Family("proxygen_traffic_sample_ratio", "gauge", "traffic.sample: part of the requests that nginx tells of, 0 to 1.")
TRAFFIC_LINES: Final = Family("proxygen_traffic_lines", "counter", "Lines about requests that arrived, by what became of them: counted, thinned (not looked at, traffic.budget was used up; counts are extrapolated to all requests), unknown (of no service that is planned), malformed.", ("end",))
TRAFFIC_FULL: Final = Family("proxygen_traffic_full_reads", "counter", "Reads that found the socket's queue full: nginx may have had to drop lines.")
TRAFFIC_LOST: Final = Family("proxygen_traffic_lost_lines", "counter", "Lines that nginx dropped, by the warnings in its error log; absent where the log holds no warnings or cannot be read.")

# fmt: on

FAMILIES: Final = (
    PASSES,
    APPLIED,
    STAGES,
    RELOADS,
    PROPAGATION,
    CONSUL_REQUESTS,
    CONSUL_LATENCY,
    ADMIN_TURNED_AWAY,
    BUILD,
    READY,
    FAILING,
    GENERATION,
    LIVE_SINCE,
    CONDITIONS,
    EVENTS,
    ADMIN_CONNECTIONS,
    STREAMS,
    SERVICES,
    INSTANCES,
    CONFLICTS,
    HELD,
    HELD_SERVICES,
    CONSUL_FRESHNESS,
    CONSUL_FRESH,
    CONSUL_LIMITED,
    CONSUL_BYTES,
    CONSUL_SOCKETS,
    CONSUL_MAX_SOCKETS,
    NGINX_UP,
    CERTIFICATE_EXPIRES,
    NGINX_WORKERS,
    NGINX_MAX_DRAINING,
    SERVICE_SERVING,
    SERVICE_REGISTERED,
    SERVICE_SHARE,
    SERVICE_SHARE_ASKED,
    SERVICE_QUARANTINED,
    SERVICE_UNUSABLE,
    SERVICE_KEPT,
    TRAFFIC_REQUESTS,
    TRAFFIC_SECONDS,
    TRAFFIC_RETRIED,
    TRAFFIC_BACKED_UP,
    TRAFFIC_SAMPLE,
    TRAFFIC_LINES,
    TRAFFIC_FULL,
    TRAFFIC_LOST,
)
