"""Hosts of a network on one machine: namespaces, joined by cables to switches. Nothing outside of them is touched.

::

    with Lab(directory) as lab:          # or the fixture `lab`
        one, two = lab.hosts(2)          # 192.0.2.1 and 192.0.2.2 on one Ethernet, both forward
        one.attach_bridge("10.99.1.0/24")
        container = one.container()      # 10.99.1.2, behind the bridge docker0
        container.ping(two.address)

All that a lab made is gone when it ends, processes included. Any number of labs may run at once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Final, Self

from tests.harness import process
from tests.harness.entering import set_namespace
from tests.harness.tools import missing, unusable

_NUMBERS: Final = itertools.count(1)
"""A namespace's name is never used again by this process."""
_TOOLS: Final = ("ip", "nft", "ping")
_FETCH: Final = (
    "import sys, urllib.request as web; opener = web.build_opener(web.ProxyHandler({}));"
    " sys.stdout.write(opener.open(sys.argv[1], timeout=5).read().decode())"
)

MULTICAST: Final = IPv4Network("224.0.0.0/4")


class Namespace:
    """A network namespace with loopback up and nothing else."""

    def __init__(self, label: str, directory: Path, stack: contextlib.ExitStack) -> None:
        self.label = label
        self.name = f"pxg-{os.getpid()}-{next(_NUMBERS)}-{label}"
        """By which ``ip netns`` and pyroute2 know it."""
        self.directory = directory
        """For what its processes write."""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ports = itertools.count(1)
        self._stack = stack
        directory.mkdir(parents=True)
        _call("ip", "netns", "add", self.name)
        stack.callback(self.remove)
        for scope in ("all", "default"):
            # Its solicitations would be counted as multicast, and leases are of IPv4.
            self.sysctl(f"net.ipv6.conf.{scope}.disable_ipv6", 1)
        self.ip("link", "set", "lo", "up")

    @property
    def within(self) -> list[str]:
        """The command before a command that is to run inside, with a view of the mounts of its own."""
        return ["ip", "netns", "exec", self.name]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread inside for a while, with what it starts. A socket stays where it was opened."""
        with open("/proc/thread-self/ns/net", "rb") as outside, open(f"/run/netns/{self.name}", "rb") as inside:
            set_namespace(inside.fileno())
            try:
                yield
            finally:
                set_namespace(outside.fileno())

    def run(self, *command: str | Path, timeout: float = 180.0) -> str:
        """Run a command inside and return what it wrote. Raise RuntimeError with that if it fails."""
        with self.entered():
            return _call(*command, timeout=timeout)

    def succeeds(self, *command: str | Path) -> bool:
        with contextlib.suppress(RuntimeError):
            self.run(*command)
            return True
        return False

    def fetch(self, url: str) -> str:
        """Return what a web server answers to the inside. Raise RuntimeError where it does not, or with an error."""
        return self.run(sys.executable, "-c", _FETCH, url)

    def start(self, *command: str | Path, log: str = "processes.log") -> subprocess.Popen[bytes]:
        """Start a process inside that writes to ``directory/log``; it is ended with the lab at the latest."""
        self._processes.append(process.start([*self.within, *command], log=self.directory / log))
        return self._processes[-1]

    def ip(self, *arguments: str | int) -> str:
        return _call("ip", "-n", self.name, *map(str, arguments))

    def ip_batch(self, *lines: str) -> None:
        """Run several ``ip`` commands by one process, up to the first that fails."""
        _call("ip", "-n", self.name, "-batch", "-", stdin="\n".join(lines))

    def sysctl(self, key: str, value: int) -> None:
        with self.entered():
            # /proc/sys/net is that of whoever opens it.
            Path("/proc/sys", *key.split(".")).write_text(str(value), encoding="ascii")

    def routes(self, *selector: str) -> list[dict[str, object]]:
        """Return what ``ip -json route show SELECTOR`` says."""
        answer: list[dict[str, object]] = json.loads(self.ip("-json", "-details", "route", "show", *selector) or "[]")
        return answer

    def ping(self, address: object, *, size: int | None = None) -> bool:
        """Tell whether an address answers within a second. A ``size`` is of the packet, which nobody may cut up."""
        # 28 bytes are the headers of IP and of ICMP.
        sized = () if size is None else ("-M", "do", "-s", str(size - 28))
        return self.succeeds("ping", "-n", "-q", "-c", "1", "-W", "1", *sized, str(address))

    def until_pings(self, address: object, *, timeout: float = 180.0) -> None:
        process.wait_until(lambda: self.ping(address), what=f"{address} answering to {self.label}", timeout=timeout)

    def new_port(self, prefix: str) -> str:
        """Return a name for another link of this namespace."""
        return f"{prefix}{next(self._ports)}"

    def remove(self) -> None:
        """End what runs inside, and remove the namespace."""
        if not Path(f"/run/netns/{self.name}").exists():
            return
        for started in self._processes:
            if started.poll() is None:
                process.stop(started, signal.SIGKILL)
        # What they left behind, such as daemons, would keep the namespace alive.
        for pid in _call("ip", "netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _call("ip", "netns", "delete", self.name)


class Segment:
    """One Ethernet: a switch, the network of its hosts, and the router out of it if there is one."""

    def __init__(self, switch: Namespace, network: IPv4Network, *, mtu: int) -> None:
        self.network = network
        self.mtu = mtu
        self.gateway: IPv4Address | None = None
        self._switch = switch
        self._bridge = switch.new_port("br")
        self._addresses = iter(network.hosts())
        self.hosts: list[Host] = []
        switch.ip("link", "add", self._bridge, "type", "bridge")
        switch.ip("link", "set", self._bridge, "mtu", mtu, "up")

    def plug(self, namespace: Namespace, link: str, address: IPv4Address) -> str:
        """Lay a cable to a namespace's new link, and return the switch's port."""
        port = self._switch.new_port("port")
        _cable(namespace, link, self._switch, port)
        self._switch.ip("link", "set", port, "mtu", self.mtu, "master", self._bridge, "up")
        namespace.ip_batch(
            f"link set {link} mtu {self.mtu}",
            f"address add {address}/{self.network.prefixlen} broadcast + dev {link}",
            f"link set {link} up",
        )
        return port

    def next_address(self) -> IPv4Address:
        return next(self._addresses)

    def take(self, host: Host) -> None:
        self.hosts.append(host)
        host.route_out()

    def set_gateway(self, address: IPv4Address) -> None:
        self.gateway = address
        for host in self.hosts:
            host.route_out()

    def set_port(self, port: str, state: str) -> None:
        self._switch.ip("link", "set", port, state)


class Container(Namespace):
    """A namespace behind a host's bridge, with the bridge's address as its way out."""

    def __init__(self, label: str, directory: Path, host: Host, address: IPv4Interface) -> None:
        assert host.bridge is not None, "no bridge yet"
        super().__init__(label, directory, host._stack)
        self.host = host
        self.address = address.ip
        self._port = host.new_port("veth")
        _cable(self, "eth0", host, self._port)
        self.set_mtu(host.bridge_mtu)
        host.ip("link", "set", self._port, "master", Host.BRIDGE, "up")
        self.ip_batch(f"address add {address} dev eth0", "link set eth0 up", f"route add default via {host.bridge.ip}")

    def set_mtu(self, mtu: int) -> None:
        """Let the container send packets of this size, whatever becomes of them beyond its host's bridge."""
        self.ip("link", "set", "eth0", "mtu", mtu)
        self.host.ip_batch(*(f"link set {link} mtu {mtu}" for link in (self._port, Host.BRIDGE)))


class Host(Namespace):
    """A host that forwards, with an address on its segment. Its bridge comes with its subnet, as Docker's does."""

    LINK: Final = "eth0"
    BRIDGE: Final = "docker0"

    def __init__(self, label: str, directory: Path, stack: contextlib.ExitStack, segment: Segment) -> None:
        super().__init__(label, directory, stack)
        self.segment = segment
        self.address = segment.next_address()
        self.containers: list[Container] = []
        self.bridge: IPv4Interface | None = None
        self.bridge_mtu = segment.mtu
        self._addresses: Iterator[IPv4Address] = iter(())
        self.sysctl("net.ipv4.ip_forward", 1)
        self._port = segment.plug(self, self.LINK, self.address)
        segment.take(self)

    def route_out(self) -> None:
        if self.segment.gateway is not None:
            self.ip("route", "replace", "default", "via", str(self.segment.gateway))

    def attach_bridge(self, subnet: IPv4Network | str, *, mtu: int | None = None) -> None:
        """Make docker0 with the subnet's first address. Like Docker's it has no carrier until it has a container."""
        network = IPv4Network(subnet)
        self._addresses = iter(network.hosts())
        self.bridge = IPv4Interface((next(self._addresses), network.prefixlen))
        self.bridge_mtu = mtu or self.segment.mtu
        self.ip_batch(
            f"link add {self.BRIDGE} type bridge",
            # A bridge that never had a port reports carrier; one with a port that is down does not.
            "link add idle0 type veth peer name idle1",
            f"link set idle0 master {self.BRIDGE}",
            f"link set {self.BRIDGE} mtu {self.bridge_mtu}",
            f"address add {self.bridge} broadcast + dev {self.BRIDGE}",
            f"link set {self.BRIDGE} up",
        )

    def container(self, label: str = "app") -> Container:
        """Start a "container" with the bridge's next address."""
        assert self.bridge is not None, "no bridge yet"
        address = IPv4Interface((next(self._addresses), self.bridge.network.prefixlen))
        directory = self.directory / f"{label}{len(self.containers)}"
        self.containers.append(Container(f"{self.label}-{label}", directory, self, address))
        return self.containers[-1]

    def remove(self) -> None:
        """Take the host and its containers out of the lab, before the lab ends."""
        for container in self.containers:
            container.remove()
        if self in self.segment.hosts:
            self.segment.hosts.remove(self)
        super().remove()

    def cut(self) -> None:
        """Pull the host's cable: its link has no carrier, and nobody reaches it."""
        self.segment.set_port(self._port, "down")

    def mend(self) -> None:
        self.segment.set_port(self._port, "up")

    def bounce(self) -> None:
        """Take the host's link down and up: the kernel drops all routes through it, a "network restart" likewise."""
        self.ip("link", "set", self.LINK, "down")
        self.ip("link", "set", self.LINK, "up")
        self.route_out()

    def readdress(self) -> None:
        """Take away whatever addresses its link has beside its own."""
        for entry in json.loads(self.ip("-json", "-4", "address", "show", "dev", self.LINK))[0]["addr_info"]:
            if entry["local"] != str(self.address):
                self.ip("address", "del", f"{entry['local']}/{entry['prefixlen']}", "dev", self.LINK)

    def drop_multicast(self) -> None:
        """Drop all multicast of IPv4 that comes or goes, and count it."""
        rules = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0;"
            f" ip daddr {MULTICAST} ip protocol igmp counter name joins drop;"
            f" ip daddr {MULTICAST} counter name other drop; }}\n"
            for hook in ("input", "output")
        )
        self.run("nft", f"table inet multicast {{ counter joins {{ }}\ncounter other {{ }}\n{rules} }}")

    def dropped_multicast(self) -> dict[str, int]:
        """Return how many packets were dropped: ``joins`` of groups (IGMP), and all ``other``."""
        listed = json.loads(self.run("nft", "-j", "list", "counters", "table", "inet", "multicast"))["nftables"]
        counters = (entry["counter"] for entry in listed if "counter" in entry)
        return {counter["name"]: counter["packets"] for counter in counters}


class Lab:
    """Where hosts are made."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stack = contextlib.ExitStack()
        self._switch: Namespace | None = None
        self._segments: list[Segment] = []
        self._labels = itertools.count(1)

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            unusable("needs root, to make network namespaces")
        for tool in _TOOLS:
            if shutil.which(tool) is None:
                missing(tool)
        try:
            self._switch = Namespace("sw", self.directory / "switch", self._stack)
        except RuntimeError as error:
            self._stack.close()
            unusable(f"network namespaces cannot be made here: {error}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def segment(self, network: str = "", *, mtu: int = 1500) -> Segment:
        """Lay another Ethernet; the first is 192.0.2.0/24, the second 198.51.100.0/24."""
        assert self._switch is not None, "not entered"
        chosen = network or ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")[len(self._segments)]
        self._segments.append(Segment(self._switch, IPv4Network(chosen), mtu=mtu))
        return self._segments[-1]

    def host(self, label: str = "", *, segment: Segment | None = None) -> Host:
        """Start another host, on the first segment if none is named."""
        label = label or f"h{next(self._labels)}"
        place = segment or (self._segments[0] if self._segments else self.segment())
        return Host(label, self.directory / label, self._stack, place)

    def hosts(self, count: int, *, segment: Segment | None = None) -> list[Host]:
        return [self.host(segment=segment) for _ in range(count)]

    def join(self, *segments: Segment) -> Namespace:
        """Put a router between segments, as every host's way out. Its address is each network's last."""
        router = Namespace("router", self.directory / "router", self._stack)
        router.sysctl("net.ipv4.ip_forward", 1)
        for number, segment in enumerate(segments):
            address = segment.network.broadcast_address - 1
            segment.plug(router, f"eth{number}", address)
            segment.set_gateway(address)
        return router


def _cable(near: Namespace, near_link: str, far: Namespace, far_link: str) -> None:
    near_end = ("add", near_link, "netns", near.name, "type", "veth")
    _call("ip", "link", *near_end, "peer", "name", far_link, "netns", far.name)


def _call(*command: str | Path, timeout: float = 180.0, stdin: str = "") -> str:
    argv = [str(part) for part in command]
    done = subprocess.run(
        argv,
        input=stdin.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )
    said = done.stdout.decode(errors="replace")
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.returncode}\n{said.strip()}")
    return said
