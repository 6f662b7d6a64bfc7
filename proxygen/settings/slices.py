"""The knobs themselves, by the part of the program that uses them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationInfo, field_validator

from proxygen.settings.values import (
    AdminListen,
    Bytes,
    Interfaces,
    IpAddress,
    Ipv4Address,
    Listens,
    Networks,
    Ports,
    Seconds,
    StampAddress,
    SyslogReceiver,
    Texts,
)


class Slice(BaseModel):
    """A group of knobs that belong to one part of the program."""

    # Neither a page nor nginx has a way to write infinity.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_a_switch(cls, value: object, info: ValidationInfo) -> object:
        """Pydantic reads true as 1 where a number is asked for."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("true and false are not allowed here")
        return value


class ConsulSettings(Slice):
    """How to reach Consul."""

    address: str = Field(
        default="127.0.0.1:8500",
        description="HOST:PORT, http(s)://HOST:PORT or unix:///PATH (CONSUL_HTTP_ADDR)",
    )
    token: SecretStr | None = Field(default=None, description="ACL token (CONSUL_HTTP_TOKEN)")
    token_file: Path | None = Field(
        default=None,
        description="file with the ACL token; read again when Consul refuses the token (CONSUL_HTTP_TOKEN_FILE)",
    )
    auth: SecretStr | None = Field(
        default=None, description="USER:PASSWORD for HTTP basic authentication (CONSUL_HTTP_AUTH)"
    )
    ssl: bool = Field(default=False, description="use HTTPS for an address without a scheme (CONSUL_HTTP_SSL)")
    ssl_verify: bool = Field(default=True, description="verify the server's certificate (CONSUL_HTTP_SSL_VERIFY)")
    ca_cert: Path | None = Field(default=None, description="CA certificate file (CONSUL_CACERT)")
    ca_path: Path | None = Field(default=None, description="directory of CA certificates (CONSUL_CAPATH)")
    client_cert: Path | None = Field(default=None, description="client certificate file (CONSUL_CLIENT_CERT)")
    client_key: Path | None = Field(default=None, description="client key file (CONSUL_CLIENT_KEY)")
    tls_server_name: str | None = Field(
        default=None,
        description="name to expect in the server's certificate (CONSUL_TLS_SERVER_NAME)",
    )
    namespace: str | None = Field(default=None, description="Enterprise namespace (CONSUL_NAMESPACE)")
    partition: str | None = Field(default=None, description="Enterprise admin partition (CONSUL_PARTITION)")
    datacenter: str | None = Field(default=None, description="datacenter to watch; default the agent's own")
    wait: Seconds = Field(
        default=60.0,
        gt=0,
        le=60,
        description="longest wait of one blocking query; at most 60s, which bounds what a lost index can cost",
    )
    stale: bool = Field(
        default=True, description="let any server answer; an answer without a known leader is never believed"
    )
    max_connections: int = Field(
        default=64,
        ge=4,
        le=180,
        description="sockets to the agent; the agent allows 200 per client address by default",
    )
    kv_prefix: str = Field(
        default="proxygen",
        pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
        description="where the operator's overrides live in KV",
    )
    meta_sweep: Seconds = Field(
        default=10.0,
        ge=0,
        description="how often services without proxy tags are asked whether their Meta carries a route; 0 never asks",
    )


UNROUTABLE: Final = ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/128", "fe80::/10", "ff00::/8")
"""Where no instance can be; 169.254.169.254 is the metadata service of most clouds."""

METADATA: Final = (
    "100.100.100.200/32",  # Alibaba Cloud
    "168.63.129.16/32",  # Azure
    "192.0.0.192/32",  # Oracle Cloud, classic
    "fd00:42::42/128",  # Scaleway
    "fd00:a9fe:a9fe::1/128",  # Akamai, once Linode
    "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud
    "fd00:ec2::/32",  # AWS: metadata, EKS Pod Identity, DNS, time
    "fd20:ce::254/128",  # Google Cloud
)
"""Who reaches one of these has the credentials of the host."""


class ProxySettings(Slice):
    """What nginx is told about the outside."""

    tag_prefix: str = Field(
        default="proxygen",
        pattern=r"^[a-z][a-z0-9-]{0,30}$",
        description="prefix of proxy tags: PREFIX.KEY=VALUE, in Meta PREFIX-KEY",
    )
    http_listen: Listens = Field(
        default=("80",),
        description="where virtual servers listen for HTTP: [ADDRESS:]PORT, several separated by commas",
    )
    https_listen: Listens = Field(
        default=("443",), description="where virtual servers with a certificate listen for HTTPS"
    )
    stream_address: IpAddress | None = Field(
        default=None,
        description="address on which stream routes listen; default all",
    )
    stream_ports: Ports = Field(
        default="1024-65535",
        description="ports that a service may ask for with the listen tag",
    )
    allowed_addresses: Networks = Field(
        default=("0.0.0.0/0", "::/0"),
        description="networks in which instances may live; narrow it to yours",
    )
    denied_addresses: Networks = Field(
        default=(*UNROUTABLE, *METADATA),
        description=(
            "networks in which no instance may live, whatever it registers; by default those that no host has, and the "
            "metadata services of clouds. IPv4 addresses inside IPv6 ones (NAT64, 6to4, Teredo, …) are judged too"
        ),
    )
    claims: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description=(
            "who may claim which hosts: host pattern to service name patterns; hosts that no pattern names are free"
        ),
    )
    hosts: Literal["shared", "whole"] = Field(
        default="shared",
        description=(
            "whether other services may take paths under a host that one service holds: shared lets them and warns both; "
            "whole refuses them"
        ),
    )
    trusted_proxies: Networks = Field(
        default=(),
        description="networks whose X-Forwarded-… headers and Forwarded are believed; what others send is replaced",
    )
    body_size: Bytes = Field(
        default=0,
        ge=0,
        le=1_099_511_627_776,
        description="largest request body where no body-size tag says otherwise; 0: no limit, as for all gRPC",
    )
    header_size: Bytes = Field(
        default=32_768,
        ge=4_096,
        le=262_144,
        description="longest request line, longest header of a request, and all headers of an answer",
    )
    any_header_names: bool = Field(
        default=False,
        description=(
            "pass on headers whose names hold underscores or dots; instances that read them as CGI does cannot tell "
            "them from those with hyphens"
        ),
    )
    timeout: Seconds = Field(
        default=300.0, gt=0, description="longest silence of an instance where no timeout tag says otherwise"
    )
    idle_timeout: Seconds = Field(
        default=3_600.0,
        gt=0,
        description=(
            "longest silence of long-lived requests: WebSockets, event streams, requests with Prefer: wait, gRPC; tag "
            "idle-timeout"
        ),
    )
    keepalive_timeout: Seconds = Field(
        default=1.0,
        gt=0,
        description=(
            "how long an idle connection to an instance is kept, where no keepalive-timeout tag says otherwise; shorter "
            "than instances keep theirs, or a POST meets a connection that is being closed"
        ),
    )
    request_buffering: bool = Field(
        default=True, description="wait for a request's whole body before an instance is asked; tag request-buffering"
    )
    response_buffering: bool = Field(
        default=True, description="take answers as fast as instances send them; tag response-buffering"
    )
    retries_unsafe: bool = Field(
        default=False,
        description=(
            "send POST, PUT and the like to a second instance after the first hung up or timed out; tag retries-unsafe"
        ),
    )
    accel_headers: bool = Field(
        default=False,
        description=(
            "obey X-Accel-Redirect, -Expires, -Limit-Rate and -Charset in instances' answers: any service may then read "
            "what nginx serves under the same host, internal locations included"
        ),
    )
    certificates: Path | None = Field(
        default=None,
        description="directory of NAME.crt (or .pem) and NAME.key files for the tls tag",
    )
    certificate_copies: bool = Field(
        default=True,
        description=(
            "give nginx copies of certificates and keys, kept in output.directory/state: a pair that is replaced one file "
            "after the other then fails nothing; false: nginx reads the files themselves"
        ),
    )
    certificate_warning: Seconds = Field(
        default=14 * 24 * 3600.0,
        ge=0,
        description="how long before a certificate expires the log and the status warn of it",
    )
    upstream_ca: Path | None = Field(
        default=None,
        description=(
            "file of CA certificates: an instance that speaks TLS (protocol https or grpcs) is used only with a certificate "
            "from one of them that names the request's host; default: not verified"
        ),
    )
    htpasswd: Path | None = Field(default=None, description="directory of htpasswd files for the auth tag")
    templates: Path | None = Field(
        default=None,
        description="directory whose files replace the shipped templates of the same name",
    )
    snippets: Path | None = Field(
        default=None,
        description=(
            "directory of the operator's own fragments: http.conf, server.conf, server-HOST.conf, "
            "location-SERVICE.conf, stream.conf"
        ),
    )
    share_servers_from: int = Field(
        default=500,
        ge=0,
        description=(
            "from so many hosts on, those that need nothing of their own share virtual servers: nginx reloads in a third "
            "of the time and memory, and looks for the upstream at each request; 0: never"
        ),
    )
    seed: str = Field(
        default="",
        description=(
            "seed of the server order, so that not every proxy tries the same instance first; default the host's name"
        ),
    )
    hsts_max_age: Seconds = Field(default=31_536_000.0, ge=0, description="max-age that the hsts tag sends")
    retry_after: Seconds = Field(
        default=5.0,
        ge=1,
        description="Retry-After of the pages for 429, 502, 503 and 504",
    )


class BoundsSettings(Slice):
    """The most that one instance or one service may ask for; what asks for more is left out, before any work is done."""

    instances: int = Field(default=1_000, ge=1, description="instances of a service; the newest of more are left out")
    tags: int = Field(default=256, ge=1, description="proxy tags of an instance, proxy keys in its Meta included")
    tag_bytes: int = Field(default=65_536, ge=1_024, description="bytes of an instance's proxy tags together")
    service_tag_bytes: int = Field(
        default=262_144,
        ge=1_024,
        description=(
            "bytes of a service's different sets of proxy tags together; what many instances have in common counts once, "
            "the newest of more are left out"
        ),
    )
    routes: int = Field(default=100, ge=1, description="routes of a service; in quarantine too it holds no more")
    wide_routes: int = Field(
        default=20,
        ge=0,
        description="of these, routes of any host or a wildcard: they stand in each host that they cover",
    )
    copies: int = Field(
        default=500,
        ge=0,
        description=(
            "places under narrower hosts at which a service's routes of any host or a wildcard serve: their number times "
            "that of the hosts without a route that covers them. More are left out, the newest, and answer 404"
        ),
    )
    all_copies: int = Field(
        default=600,
        ge=0,
        description=(
            "such places of all services together: each takes up to 100 kB of nginx's memory, with strip-prefix 160 kB. "
            "What is served stays, older services go first; more are left out"
        ),
    )
    force_rules: int = Field(default=20, ge=0, description="values of the force tag of a service")
    variants: int = Field(default=16, ge=1, description="variants of a service, stable included")
    ports: int = Field(default=20, ge=1, description="TCP and UDP ports of a service")
    all_ports: int = Field(
        default=256,
        ge=0,
        description=(
            "TCP and UDP ports of all services together: each takes one of nginx's worker_connections, of which there are "
            "512 by default"
        ),
    )
    hash_bytes: int = Field(
        default=160,
        ge=32,
        le=504,
        description=(
            "bytes that hosts with one and the same hash may take of nginx's bucket of 512, each its length and about 16 "
            "more; so many of them are no accident, and where a bucket overflows nginx takes nobody's configuration"
        ),
    )


class NginxSettings(Slice):
    """How to find, check and signal nginx."""

    binary: str = Field(default="nginx", description="nginx's own binary, by name or path")
    conf: Path = Field(
        default=Path("/etc/nginx/nginx.conf"),
        description=(
            "the operator's nginx.conf, which includes OUTPUT/current/http.d/*.conf in http and "
            "OUTPUT/current/stream.d/*.conf in stream"
        ),
    )
    prefix: Path | None = Field(default=None, description="nginx's -p prefix, where it is started with one")
    pid: Path | None = Field(
        default=None, description="pid file of the master; default what nginx.conf or the binary says"
    )
    error_log: Path | None = Field(default=None, description="error log to quote from; default what nginx.conf says")
    reload: Literal["signal", "command", "docker"] = Field(default="signal", description="how to ask for a reload")
    reload_command: Texts = Field(
        default=(), description="command and arguments for reload = command; run without a shell"
    )
    container: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="name or id of the container to send HUP to for reload = docker",
    )
    docker_host: str = Field(
        default="unix:///var/run/docker.sock",
        pattern=r"^(unix:///.+|(tcp|http|https|ssh)://[^/]+/?)$",
        description="Docker's or Podman's API for reload = docker: unix:///PATH or tcp://HOST:PORT",
    )
    stamp: StampAddress = Field(
        default="127.0.0.1:18082",
        description=(
            "private address on which nginx tells its generation: loopback ADDRESS:PORT, or unix:/PATH on a "
            "volatile file system"
        ),
    )
    check_timeout: Seconds = Field(default=60.0, gt=0, description="longest time for one nginx -t")


class OutputSettings(Slice):
    """Where generations live."""

    directory: Path = Field(
        default=Path("/var/lib/proxygen"), description="directory of generations, current and state"
    )
    keep: int = Field(default=10, ge=2, le=1000, description="generations kept on disk")


class ReloadSettings(Slice):
    """When to apply, and how long to wait for the proof."""

    settle: Seconds = Field(default=0.025, ge=0, le=10, description="how long a change waits for company")
    push: Literal["auto", "off"] = Field(
        default="auto",
        description=(
            "auto: servers, weights, health and shares go to nginx without a reload where it has the http Lua module"
        ),
    )
    publish_within: Seconds = Field(
        default=1.0, ge=0.1, le=60, description="longest time by which the files may be behind what was pushed"
    )
    gap: Seconds = Field(default=0.25, ge=0, description="smallest time between two reloads")
    jitter: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="random part added to the gap, so that many proxies do not reload at once",
    )
    deadline: Seconds = Field(
        default=5.0,
        gt=0,
        description="time for the proof that a reload took, beside three times the measured nginx -t",
    )
    overlap: Seconds = Field(
        default=1.0,
        gt=0,
        description="where nginx's processes cannot be seen: how long the new generation must answer alone",
    )
    burst: int = Field(
        default=5, ge=1, le=100, description="reloads that may follow each other by the gap alone, such as in a deploy"
    )
    interval: Seconds = Field(
        default=1.25, ge=0, description="time in which a flood of changes earns its next reload after that"
    )
    alive_after: Seconds = Field(
        default=0.3,
        ge=0,
        description="a new worker must still live this long after the new generation answered",
    )
    max_draining: int = Field(
        default=16,
        ge=1,
        description="old workers still finishing requests above which the next reload waits",
    )
    max_draining_wait: Seconds = Field(
        default=30.0, ge=0, description="longest time that a reload waits for draining workers"
    )
    retry_max: Seconds = Field(
        default=30.0, gt=0, description="longest pause before an apply that failed is tried again"
    )


class GuardSettings(Slice):
    """Which losses are held back until they are confirmed."""

    loss: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="part of all servers that may go within the window; where more go, the services keep what they had",
    )
    window: Seconds = Field(default=60.0, ge=0, description="time over which lost servers are counted together")
    hold: Seconds = Field(
        default=300.0,
        ge=0,
        description="how long such a loss must last, with a Consul that answers, until it is believed; 0 holds nothing",
    )
    minimum_instances: Mapping[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description=(
            "service name patterns, each with the instances below which a service keeps those that it had; 1 keeps"
            " the last one; the first pattern that matches counts"
        ),
    )


class AdminSettings(Slice):
    """The sidecar's own page and API, off the proxy's data path."""

    listen: AdminListen = Field(
        default="127.0.0.1:18081",
        description="ADDRESS:PORT of the admin API, or off",
    )
    socket: Path | None = Field(
        default=None,
        description="unix socket of the admin API for commands on the same host; default OUTPUT/state/admin.sock",
    )
    token: SecretStr | None = Field(
        default=None, description="bearer token for writes over TCP, by the name operator; without any they are refused"
    )
    tokens_file: Path | None = Field(
        default=None,
        description="file with bearer tokens for writes over TCP, NAME TOKEN on each line; read again when it changes",
    )
    max_connections: int = Field(
        default=256,
        ge=16,
        le=65536,
        description=(
            "most connections to the admin API's port, and as many to its socket; above it the one that has been idle"
            " for longest is closed; fewer where the process may open too few files"
        ),
    )
    idle: Seconds = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="how long a connection to the admin API may take to send a request, or stay without one",
    )
    fresh: Seconds = Field(
        default=120.0, gt=0, description="how old Consul's last good answer may be before /readyz says so"
    )


class TrafficSettings(Slice):
    """What nginx tells the sidecar of the requests that it serves, for figures by service and variant."""

    sample: float = Field(
        default=100.0,
        ge=0,
        le=100,
        description="percent of the requests that nginx tells of, two decimals; counts are extrapolated to all requests; 0: none",
    )
    socket: Path | None = Field(
        default=None,
        description="unix socket that nginx sends to; its workers must reach it; default OUTPUT/traffic.sock",
    )
    budget: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="part of one CPU that reading it may take; above it the sidecar looks at fewer lines, and scales back",
    )

    @property
    def basis_points(self) -> int:
        """Of the requests, those that nginx tells of where it tells of any."""
        return max(1, round(self.sample * 100))


class RegistratorSettings(Slice):
    """What `proxygen registrator` does with containers whose labels do not say otherwise."""

    engine: str = Field(
        default="unix:///var/run/docker.sock",
        pattern=r"^(unix:///.+|(tcp|http|https|ssh)://[^/]+/?)$",
        description="Docker's or Podman's API: unix:///PATH or tcp://HOST:PORT",
    )
    address: str | None = Field(
        default=None,
        description=(
            "the host's address, at which published ports are reached: an IP address, interface:NAME, a network such as"
            " 10.0.0.0/8, or env:VARIABLE; default the one from which Consul is reached, else the first private one"
        ),
    )
    announce: Literal["auto", "published", "container"] = Field(
        default="auto",
        description=(
            "announce published ports on the host, or containers' own addresses; auto: the latter where they lie in the "
            "subnet that network.subnet_file says"
        ),
    )
    network: str | None = Field(
        default=None, description="the network whose address counts where a container has several"
    )
    containers: Literal["labelled", "variables", "all"] = Field(
        default="labelled",
        description=(
            "register containers that have a label for it; or those too that have registrator's variables, such as"
            " SERVICE_NAME; or all, as registrator does"
        ),
    )
    checks: Literal["own", "any"] = Field(
        default="own",
        description=(
            "what a label may have Consul ask: the instance's own address by GET or HEAD; or any URL, by any method"
        ),
    )
    host: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="the name that marks our registrations, unlike any other registrator's; default the engine's host",
    )
    resync: Seconds = Field(
        default=30.0, ge=1, le=3600, description="how often everything is looked at without an event"
    )
    metrics: AdminListen = Field(
        default="off", description="ADDRESS:PORT of the registrator's metrics for Prometheus, or off"
    )
    ttl: Seconds = Field(
        default=300.0,
        ge=3,
        le=86400,
        description="how long a container's own health check is believed once the registrator is gone",
    )


class NetworkSettings(Slice):
    """The host's part in the containers' network (`proxygen network`)."""

    prefix: str = Field(
        default="proxygen/network",
        pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
        description="where the network's keys live in Consul's KV; the same on all hosts",
    )
    host_id: str | None = Field(
        default=None,
        description="this host's identity, which keeps its subnet; default derived from /etc/machine-id",
    )
    node: str = Field(
        default="", pattern=r"^[A-Za-z0-9._-]{0,64}$", description="its name, for people; default the host's name"
    )
    interface: Interfaces | None = Field(
        default=None,
        description=(
            "interface through which the other hosts are reached: its name, its IPv4 address, or a pattern for either "
            "after a ~, such as ~^ens; several between commas, the first that fits; default that of public_ip or the "
            "default route"
        ),
    )
    public_ip: Ipv4Address | None = Field(
        default=None,
        description=(
            "address at which the other hosts reach this one; default the interface's first. One that this host does "
            "not have is told to the others all the same: a router translates it"
        ),
    )
    metrics: AdminListen = Field(
        default="off", description="ADDRESS:PORT of the agent's metrics for Prometheus, or off"
    )
    state: Path = Field(
        default=Path("/var/lib/proxygen/network"),
        description="directory of what an agent must know after its own crash; one per host, never in an image",
    )
    subnet_file: Path = Field(
        default=Path("/run/proxygen/subnet.env"), description="the host's subnet, as flannel writes it"
    )
    docker_file: Path = Field(
        default=Path("/run/proxygen/docker_opts.env"),
        description="dockerd's options for it, as flannel's mk-docker-opts.sh writes them",
    )
    docker_pools: bool = Field(
        default=False,
        description="give docker0 one half of the subnet, and the other to the networks that Compose and people make",
    )
    masquerade: bool = Field(
        default=False,
        description="give the host's address to what containers send out of the network (flannel --ip-masq)",
    )
    forward_rules: bool = Field(
        default=True,
        description="let containers' packets pass where the firewall's default is to drop what is forwarded",
    )
    take_over: bool = Field(
        default=False,
        description=(
            "start although another program, such as flannel or Quagga, has routes to other hosts' subnets; ours take the "
            "place of each once it is gone"
        ),
    )
    ttl: Seconds = Field(
        default=30.0,
        ge=10,
        le=86400,
        description="a host that is silent for one to two of these counts as away; its routes stay; the same on all hosts",
    )
    lock_delay: Seconds = Field(
        default=30.0,
        ge=1,
        le=60,
        description="for so long after that nobody gets the lock on its lease; not below the ttl; the same on all hosts",
    )
    grace: Seconds = Field(
        default=86_400.0,
        ge=10,
        description="a host that is away for so long has left for good and its subnet is free; the same on all hosts",
    )
    resync: Seconds = Field(
        default=10.0, ge=0.5, le=3600, description="how often the data plane is compared with what it should be"
    )
    loss: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="part of all other hosts that may vanish at once; where more do, their routes are held",
    )
    hold: Seconds = Field(
        default=300.0,
        ge=0,
        description="how long such a loss must last, with a Consul that answers, until it is believed; 0 holds nothing",
    )
    frr_reload: Path = Field(
        default=Path("/usr/lib/frr/frr-reload.py"), description="FRR's frr-reload.py (Debian: frr-pythontools)"
    )
    frr_sockets: Path = Field(default=Path("/var/run/frr"), description="directory of the FRR daemons' sockets")
    frr_directory: Path = Field(default=Path("/etc/frr"), description="directory of FRR's configuration")


class LogSettings(Slice):
    """proxygen's own log, on standard error."""

    format: Literal["text", "json", "ecs"] = Field(
        default="text", description="text for people, json for machines, ecs for machines in Elastic's Common Schema"
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severity that is written"
    )
    syslog: SyslogReceiver | None = Field(
        default=None,
        description="send the log to syslog too: unix:/PATH, such as unix:/dev/log, or udp:ADDRESS:PORT; it waits for nobody",
    )


class Settings(Slice):
    """All knobs, by slice. Build it with `load`."""

    consul: ConsulSettings = ConsulSettings()
    proxy: ProxySettings = ProxySettings()
    bounds: BoundsSettings = BoundsSettings()
    nginx: NginxSettings = NginxSettings()
    output: OutputSettings = OutputSettings()
    reload: ReloadSettings = ReloadSettings()
    guard: GuardSettings = GuardSettings()
    admin: AdminSettings = AdminSettings()
    traffic: TrafficSettings = TrafficSettings()
    registrator: RegistratorSettings = RegistratorSettings()
    network: NetworkSettings = NetworkSettings()
    log: LogSettings = LogSettings()

    _remarks: tuple[str, ...] = PrivateAttr(default=())

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was set and has no effect any more, one line each."""
        return self._remarks

    def with_remarks(self, remarks: Iterable[str]) -> Settings:
        """Take these remarks, and return self. Settings with other remarks are not equal, though no setting differs."""
        self._remarks = tuple(remarks)
        return self
