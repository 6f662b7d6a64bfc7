"""What comes from Debian's and Ubuntu's archives: installed where we are root, unpacked where that is enough."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from .basics import CannotSetUp, run, say, search

NGINX_MODULES = Path("/usr/lib/nginx/modules")


def install_nginx() -> None:
    wanted = {
        "nginx": Path("/usr/sbin/nginx"),
        "libnginx-mod-stream": NGINX_MODULES / "ngx_stream_module.so",
        "libnginx-mod-http-lua": NGINX_MODULES / "ngx_http_lua_module.so",
    }
    missing = [package for package, file in wanted.items() if not file.exists()]
    _install_for("tests on the distribution's nginx", missing)
    if "nginx" in missing:
        _stop_new_service()


def _install_for(what: str, missing: list[str]) -> None:
    """Install the packages without which ``what`` is skipped; say so where that cannot be."""
    if not missing or not _may_install(missing, what):
        return
    try:
        _apt_install(missing)
    except CannotSetUp as error:
        say(f"{what} will be skipped: {error}")


def _may_install(packages: list[str], what: str) -> bool:
    """Whether apt can install for us; where it cannot, say what is skipped and what would help."""
    if shutil.which("apt-get") is not None and os.getuid() == 0:
        return True
    say(f"{what} will be skipped; they want, as root: apt-get install {' '.join(packages)}")
    return False


def _apt_install(packages: list[str]) -> None:
    say(f"installing {', '.join(packages)} with apt-get on this system")
    # RUNLEVEL=1 keeps Debian's maintainer scripts from starting the service where there is no systemd.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    # Another apt-get, such as another checkout's, has its ten minutes first.
    patient = ["apt-get", "-y", "-q", "-o", "DPkg::Lock::Timeout=600"]
    install = [*patient, "install", "--no-install-recommends", *packages]
    try:
        run(install, env=env)
    except CannotSetUp:
        # Most likely the package lists were never fetched, or are too old.
        run([*patient, "update"], env=env)
        run(install, env=env)


def _stop_new_service() -> None:
    """Stop the nginx that the package started, which would hold port 80; nobody asked for it."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "stop", "nginx"], stderr=subprocess.DEVNULL)
        return
    try:
        pid = int(Path("/run/nginx.pid").read_text())
        if b"nginx: master" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGQUIT)
    except (OSError, ValueError):
        return


# --- a container engine


def install_engine() -> None:
    """Install Podman and what makes base images, for the tests with containers; they are the only ones that lack it."""
    tools = {"podman": "podman", "runc": "runc", "iptables": "iptables", "mmdebstrap": "mmdebstrap"}
    tools["docker-registry"] = "docker-registry"
    tools["catatonit"] = "catatonit"  # process 1 of a pod
    tools["openssh-client"] = "ssh"  # Ansible's way to a host
    helpers = {"netavark": "netavark", "aardvark-dns": "aardvark-dns"}
    missing = [package for package, tool in tools.items() if search(tool) is None]
    missing += [package for package, tool in helpers.items() if not (Path("/usr/lib/podman") / tool).exists()]
    # Ubuntu before 24.04 has no netavark.
    _install_for("tests with a container engine", missing)


# --- networks of several hosts


def install_namespaces() -> None:
    """Install the tools with which tests build hosts out of network namespaces."""
    tools = {"iproute2": "ip", "iputils-ping": "ping", "nftables": "nft", "iptables": "iptables"}
    _install_for("tests of networks of several hosts", [name for name, tool in tools.items() if search(tool) is None])


def install_frr() -> None:
    files = {"frr": Path("/usr/lib/frr/zebra"), "frr-pythontools": Path("/usr/lib/frr/frr-reload.py")}
    _install_for("tests with FRR", [package for package, file in files.items() if not file.exists()])


# --- a browser


def install_browser() -> None:
    """Install Chromium for the tests of the status page, and wrk for those of the figures on it."""
    # Ubuntu has Chromium as a snap only.
    for package in ("chromium", "wrk"):
        _install_for(f"tests with {package}", [] if search(package) else [package])


# --- packages that are only unpacked


def consul_sources() -> list[str]:
    """Return sources.list lines for the last suite that has Consul, on the mirrors that this machine uses.

    Debian dropped the package after bullseye, Ubuntu after jammy.
    """
    is_ubuntu = "ubuntu" in _os_ids()
    suite, archive = ("jammy main universe", "/ubuntu") if is_ubuntu else ("bullseye main", "/debian")
    keyring = f"/usr/share/keyrings/{'ubuntu' if is_ubuntu else 'debian'}-archive-keyring"
    key = next((keyring + end for end in (".gpg", ".pgp") if os.path.exists(keyring + end)), None)
    targets = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    mirrors = [uri for uri in dict.fromkeys(targets.split()) if re.search(archive + r"(-ports)?/?$", uri)]
    options = f"[signed-by={key}] " if key else ""
    return [f"deb {options}{mirror} {suite}" for mirror in sorted(mirrors, key=lambda uri: "security" in uri)]


def unpack_package(package: str, folder: Path, *, sources: str | None) -> Path:
    """Fetch and unpack a package without root; apt keeps its lists in ``folder``, the system's stay as they are.

    ``sources`` is one line of a sources.list; None stands for the machine's own sources.
    """
    for name in ("lists/partial", "cache/archives/partial", "empty"):
        (folder / name).mkdir(parents=True)
    options = [f"Dir::State::lists={folder}/lists", f"Dir::Cache={folder}/cache", "Acquire::Languages=none"]
    if sources is not None:
        (folder / "sources.list").write_text(sources + "\n", encoding="utf-8")
        options += [f"Dir::Etc::sourcelist={folder}/sources.list", f"Dir::Etc::sourceparts={folder}/empty"]
        options += ["Dir::Etc::preferences=/dev/null", f"Dir::Etc::preferencesparts={folder}/empty"]
    if os.getuid() == 0:
        # apt would drop to a user who may not write into our folder.
        options.append("APT::Sandbox::User=root")
    apt = ["apt-get", "-q", *(part for option in options for part in ("-o", option))]
    run([*apt, "update"])
    run([*apt, "download", package], cwd=folder)
    archive = next(folder.glob(f"{package}_*.deb"))
    run(["dpkg", "-x", str(archive), str(folder / "unpacked")])
    return folder / "unpacked"


def _os_ids() -> set[str]:
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    values = [line.partition("=")[2].strip('"') for line in lines if line.startswith(("ID=", "ID_LIKE="))]
    return {word for value in values for word in value.split()}


def require_apt(what: str) -> None:
    if not _os_ids() & {"debian", "ubuntu"} or not all(map(shutil.which, ("apt-get", "dpkg"))):
        raise CannotSetUp(
            f"{what} is missing, and only on Debian and Ubuntu can it be fetched for you. Install it and run this "
            "again: Python with venv and pip, nginx and Consul (any version from 1.8) on PATH are all that is needed. "
            "Fedora: `dnf install python3 nginx`; Arch: `pacman -S python nginx consul`; Alpine: "
            "`apk add python3 nginx nginx-mod-stream consul`; macOS: `brew install python nginx consul`; "
            "Consul for any other system is one binary from its makers' download page."
        )
