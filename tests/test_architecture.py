"""Who may import whom, which tool has which door, and what travels in the wheel."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxygen.proxy.admin.service_report import WAITING
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.plan.types import ServiceState

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "proxygen"

HEAVY = (
    "aiohttp",
    "consul",
    "crossplane",
    "cryptography",
    "jinja2",
    "msgspec",
    "prometheus_client",
    "pydantic",
    "tenacity",
    "watchdog",
)
"""What the command line imports only once it knows which command it is to run."""


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts on the copy of the package in ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def _copy(folder: Path) -> Path:
    shutil.copytree(PACKAGE, folder / "proxygen", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_contracts_hold(tmp_path: Path) -> None:
    """The package as it stands breaks no contract."""
    verdict = _lint_imports(_copy(tmp_path))
    assert verdict.returncode == 0, verdict.stdout


PLANTED = (
    ("catalog.py", "import proxygen.consul.client", "Data flows one way"),
    ("proxy/render/renderer.py", "import proxygen.consul.client", "Consul and the renderer"),
    ("registration/__init__.py", "import proxygen.proxy.plan", "Registration knows nothing"),
    ("network/lease.py", "import proxygen.proxy.guard.losses", "Networking knows nothing"),
    ("proxy/plan/__init__.py", "import jinja2", "One door to Jinja2"),
    ("proxy/render/renderer.py", "import crossplane", "One door to crossplane"),
    ("proxy/apply/publish.py", "import subprocess", "One door to processes"),
    ("registration/entrypoint.py", "import subprocess", "One door to processes"),
    ("proxy/nginx/stamp.py", "import aiohttp", "One door to Consul"),
    ("proxy/loop.py", "import watchdog", "One door to watchdog"),
    ("registration/registrator.py", "import aiodocker", "One door to Docker"),
    ("proxy/record/steps.py", "import prometheus_client", "One door to prometheus-client"),
    ("homeless.py", "", "Data flows one way"),
    ("proxy/nginx/tokens.py", "import proxygen.proxy.render.views", "Inside the proxy"),
    ("proxy/homeless.py", "", "Inside the proxy"),
    ("proxy/plan/claims.py", "import asyncio", "What decides about traffic is pure"),
    ("proxy/guard/losses.py", "import time", "What decides about traffic is pure"),
    ("proxy/render/servers.py", "import pathlib", "What decides about traffic is pure"),
    ("proxy/render/locations.py", "import proxygen.settings", "What decides about traffic is pure"),
    ("proxy/draft.py", "import pathlib", "What decides about traffic is pure"),
    ("tags/values.py", "import os", "What decides about traffic is pure"),
    ("catalog.py", "import socket", "What decides about traffic is pure"),
    ("proxy/plan/service.py", "import proxygen.kit.log", "What decides about traffic is pure"),
)
"""Modules, what is written at their end, and the contract that it is against."""


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is said of all that is planted, at once: to look costs as much as to find."""
    copy = _copy(tmp_path_factory.mktemp("planted"))
    for module, line, _ in PLANTED:
        with (copy / "proxygen" / module).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    done = _lint_imports(copy)
    assert done.returncode == 1, done.stdout
    return done.stdout


@pytest.mark.parametrize(("module", "line", "contract"), PLANTED)
def test_planted_violation_is_caught(verdict: str, module: str, line: str, contract: str) -> None:
    """An import against a contract is refused by that contract's name, and named."""
    _, _, details = verdict.partition("Broken contracts")
    # A heading is a line that is underlined.
    sections = re.split(r"^(.+)\n-+\n", details, flags=re.MULTILINE)[1:]
    (section,) = [text for name, text in zip(sections[::2], sections[1::2], strict=True) if name.startswith(contract)]
    name = "proxygen." + module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if line:
        assert re.search(rf"{name} -> {line.removeprefix('import ')}\b", section), verdict
    else:
        assert name.removeprefix("proxygen.") in section, verdict


def test_a_circle_is_caught(tmp_path: Path) -> None:
    """Between modules of one room, too, and where only a type checker follows the import."""
    copy = _copy(tmp_path)
    with (copy / "proxygen/proxy/render/surroundings.py").open("a", encoding="utf-8") as file:
        file.write("\nif TYPE_CHECKING:\n    import proxygen.proxy.render.renderer\n")
    done = _lint_imports(copy)
    assert done.returncode == 1, done.stdout
    assert "No cycles are allowed in proxygen.proxy.render" in done.stdout


WRITERS = {
    "cli/reference.py": "pages of the documentation, in a checkout",
    "cli/snapshot.py": "a command's output, where its user wants it, be that a pipe; a part of it is no JSON",
    "demo/system.py": "a directory that ends with the demo",
    "kit/disk.py": "the door",
    "network/agent/forwarding.py": "the kernel's switches",
    "proxy/apply/publish.py": "generations: many files aside, synced at once, in place by one rename",
    "proxy/policy/operator_files.py": "memory without a name, which OpenSSL reads",
    "proxy/check/standalone.py": "for nginx -t, and gone after it",
    "proxy/check/structure.py": "for crossplane, and gone after it",
    "proxy/check/syntax.py": "for nginx -t, and gone after it",
    "proxy/nginx/lua.py": "for an nginx that ends at once, and gone after it",
    "proxy/check/wrapper.py": "for nginx -t, and gone after it",
}
"""The modules that write files themselves, and why."""


def _writes(node: ast.AST) -> bool:
    """Tell whether a node is a call that writes a file."""
    match node:
        case ast.Call(func=ast.Attribute(attr="write_text" | "write_bytes" | "mkstemp" | "NamedTemporaryFile")):
            return True
        case ast.Call(func=ast.Attribute(attr="open" | "fdopen") | ast.Name(id="open")):
            modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            return any(re.fullmatch("[wx][bt+]*", mode) for mode in modes)
    return False


def test_what_is_read_again_is_written_by_kit_disk() -> None:
    """A crash or a power cut then leaves the old content or the new: tests/kit/test_disk.py."""
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(map(_writes, ast.walk(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert found == WRITERS.keys()


CALLED_BY_OTHERS = {
    "cli/lazy.py": ("click", {"format_commands", "format_options", "format_epilog"}),
    "consul/answers.py": ("Consul, which answers with it", {"SERVERS"}),
    "consul/client.py": ("py-consul", {"post", "http_connect"}),
    "consul/single.py": ("http.client", {"makefile"}),
    "kit/files.py": ("watchdog", {"on_any_event"}),
    "network/backends/aws_vpc.py": ("botocore", {"_get_region"}),
    "network/config.py": (
        "flannel's configuration, which may have it",
        {"enable_nftables", "ipv6_network", "ipv6_subnet_len", "ipv6_subnet_max", "ipv6_subnet_min"},
    ),
    "network/doctor/beside.py": ("configparser", {"optionxform"}),
    "registration/frameworks.py": ("applications", {"with_aiohttp", "with_asgi", "with_gunicorn"}),
    "settings/slices.py": ("pydantic", {"model_config"}),
}
"""Names that nothing in the package reads, and who does. All of `top/app.py` is Textual's to call."""


def _defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() if not node.decorator_list:
                yield node.name
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                yield name


def _read(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name, ctx=ast.Load()):
                yield name
            case ast.Constant(value=str(text)) if text.isidentifier():
                yield text


def test_nothing_is_dead() -> None:
    """What no code and no template reads is gone, or another's to read."""
    trees = {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py")
    }
    read = {name for tree in trees.values() for name in _read(tree)}
    for template in (path for path in (ROOT / "templates").rglob("*") if path.is_file()):
        read.update(re.findall(r"\w+", template.read_text(encoding="utf-8")))
    dead = {
        module: {name for name in _defined(tree) if name not in read and not name.startswith("__")}
        for module, tree in trees.items()
        if module != "top/app.py"
    }
    assert {module: names for module, names in dead.items() if names} == {
        module: names for module, (_, names) in CALLED_BY_OTHERS.items()
    }


SAYS_THE_SAME = {
    "cli/tags.py": "of a service's tags",
    "network/choice.py": "of a subnet",
    "proxy/apply/outcome.py": "it is the enumeration",
    "proxy/record/events.py": "kinds of events, a vocabulary of its own",
}


def test_outcomes_have_one_enumeration() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in tuple(Outcome)
    }
    assert found == SAYS_THE_SAME.keys()


def _decides_by(tree: ast.AST) -> Iterator[object]:
    """Yield the literals by which a module tells cases apart: compared, listed, or the keys of a table."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=right):
                among = [left, *right]
            case ast.Tuple(elts=among) | ast.Set(elts=among) | ast.List(elts=among):
                pass
            case ast.Dict(keys=keys, values=values) if all(isinstance(value, ast.Attribute) for value in values):
                among = [key for key in keys if key is not None]
            case _:
                continue
        yield from (one.value for one in among if isinstance(one, ast.Constant))


def test_states_of_services_have_one_enumeration() -> None:
    """The plan's, and one more where the plan is not live. What is misspelt then is no state that never comes."""
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if {*ServiceState, WAITING} & {*_decides_by(ast.parse(path.read_text(encoding="utf-8")))}
    }
    assert found == set()


def _half_built(class_: ast.ClassDef) -> set[str]:
    """Return the attributes that only a method other than the constructor sets."""
    given = {node.target.id for node in class_.body if isinstance(node, ast.AnnAssign) and hasattr(node.target, "id")}
    built, later = set(given), set()
    for method in class_.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            into = built if method.name in ("__init__", "__post_init__") else later
            into |= {
                node.attr
                for node in ast.walk(method)
                if isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) == "self"
            }
    return later - built


def test_no_object_is_half_built() -> None:
    """What exists only while something runs is a value of its own: no method may be called too early."""
    found = {
        f"{path.relative_to(PACKAGE).as_posix()}: {node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and _half_built(node)
    }
    assert found == set()


MOST_ARGUMENTS = 6


def test_no_constructor_takes_more_than_six_arguments() -> None:
    """What belongs together is a value; its fields have docstrings of their own."""
    constructors = [
        (node.name, len((*method.args.args[1:], *method.args.kwonlyargs)))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
    ]
    assert len(constructors) > 50
    assert [one for one in constructors if one[1] > MOST_ARGUMENTS] == []


def test_no_class_name_means_two_things() -> None:
    classes = (
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert not [name for name, times in Counter(classes).items() if times > 1]


def _makes_proofs(source: str) -> bool:
    """Tell whether a module says itself that a candidate passed the gates."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    made = {ast.unparse(call.func).rpartition(".")[2] for call in calls}
    return "Checked" in made


def test_what_passed_the_gates_is_made_by_them_alone() -> None:
    """Then nothing else can be published: `apply.publish.publish` takes nothing else."""
    makers = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if _makes_proofs(path.read_text())}
    assert makers == {"proxy/check/gates.py"}
    assert _makes_proofs("import gates\ngates.Checked(stamp=stamp)")


def _starts_processes(source: str) -> bool:
    names = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    return any(
        name.lower().startswith(("create_subprocess_", "exec", "spawn", "posix_spawn", "popen"))
        or name in {"fork", "system", "subprocess_exec", "subprocess_shell"}
        for name in names
    )


def test_processes_start_only_in_their_room() -> None:
    """asyncio and os can start processes too, which no contract about imports sees."""
    starters = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if _starts_processes(path.read_text())}
    # The demo starts daemons and keeps them; programs runs commands to their end; an entrypoint is its command's
    # parent, and reaps whatever that leaves. What an engine's API calls `system` starts nothing.
    starters.remove("registration/docker.py")
    assert starters == {"kit/programs.py", "demo/system.py", "registration/child.py"}


def test_a_hidden_process_start_is_seen() -> None:
    assert _starts_processes("import asyncio\nasync def f():\n    await asyncio.create_subprocess_exec('nginx')")
    assert _starts_processes("import os\nos.execv('nginx', [])")
    assert _starts_processes("import subprocess\nsubprocess.Popen(['nginx'])")
    assert not _starts_processes("import asyncio\nasyncio.run(f())")


def _has_a_total(source: str) -> bool:
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    totals = (call for call in calls if ast.unparse(call.func).endswith("ClientTimeout"))
    return any(call.args or any(keyword.arg in {"total", None} for keyword in call.keywords) for call in totals)


def test_no_request_has_a_total_of_aiohttps() -> None:
    """It loses a cancellation (tests/consul/test_client.py), and a task that was to end goes on; asyncio's does not."""
    assert not [path for path in PACKAGE.rglob("*.py") if _has_a_total(path.read_text())]
    assert _has_a_total("aiohttp.ClientTimeout(total=10, sock_connect=5)")
    assert _has_a_total("ClientTimeout(10)")
    assert not _has_a_total("aiohttp.ClientTimeout(sock_connect=5)")


def _loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh Python has loaded after a statement."""
    program = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    return {name.partition(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize(
    "module", ["proxygen", "proxygen.tags", "proxygen.tags.shares", "proxygen.catalog", "proxygen.kit.errors"]
)
def test_pure_modules_load_no_library(module: str) -> None:
    """An application that builds tags pays for no part of the proxy."""
    assert _loaded_by(f"import {module}") & set(HEAVY) == set()


@pytest.mark.parametrize("module", ["proxygen.registration", "proxygen.registration.frameworks"])
def test_registration_loads_nothing_of_the_proxy(module: str) -> None:
    """Nor a library: an application pays for the client when it registers, and not before."""
    assert _loaded_by(f"import {module}") & {*HEAVY, "structlog"} == set()


def test_who_registers_loads_no_library_for_it() -> None:
    """But for the small one that tries again: an application has paid for its own libraries."""
    entered = (
        "import asyncio\n"
        "    from proxygen.registration import Registration\n"
        "    async def main():\n"
        "        async with Registration(name='web', port=1, consul='127.0.0.1:9', drain=0): pass\n"
        "    asyncio.run(main())"
    )
    assert _loaded_by(entered) & {*HEAVY, "requests", "structlog"} == {"tenacity"}


def test_networking_loads_nothing_of_the_proxy() -> None:
    """Nor the client for Consul, before there is something to ask it."""
    loaded = _loaded_by("import proxygen.network, proxygen.network.lease, proxygen.network.collect")
    assert loaded & {"aiohttp", "consul", "crossplane", "jinja2", "prometheus_client", "pydantic"} == set()


def test_asking_the_sidecar_needs_no_metrics() -> None:
    assert "prometheus_client" not in _loaded_by("import proxygen.cli.admin, proxygen.proxy.admin.client")


def test_help_loads_no_heavy_module() -> None:
    """`proxygen --help` answers at once: what a command needs is imported when the command runs."""
    help_command = "sys.argv[1:] = ['--help']; from proxygen.cli import main; main()"
    assert _loaded_by(help_command) & set(HEAVY) == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as pip would get it, built with the build backend that is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    program = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", program, folder], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    return zipfile.ZipFile(folder / built)


def test_wheel_carries_templates_types_and_licence(wheel: zipfile.ZipFile) -> None:
    """Whoever installs the wheel gets every template of the checkout, the page's files, its types and its licence."""
    names = set(wheel.namelist())
    templates = {f"proxygen/{path.relative_to(ROOT)}" for path in (ROOT / "templates").rglob("*") if path.is_file()}
    page = {f"{path.relative_to(ROOT)}" for path in (PACKAGE / "proxy/admin/page/static").rglob("*") if path.is_file()}
    assert {"proxygen/templates/server.conf.j2", "proxygen/templates/admin/overview.html.j2"} <= templates
    assert "proxygen/proxy/admin/page/static/page.css" in page
    assert templates | page <= names
    assert "proxygen/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_carries_every_module_and_no_test(wheel: zipfile.ZipFile) -> None:
    modules = {f"proxygen/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")}
    carried = {name for name in wheel.namelist() if name.endswith(".py")}
    assert carried == modules
