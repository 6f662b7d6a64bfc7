"""What needs no reload goes to nginx's workers at once, the files follow, and whatever goes wrong ends in them."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness import process
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.load import Load
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import LUA, find_lua_nginx, missing

HOST = "web.example.com"


class Stand:
    """A service of two instances behind nginx, all of it running."""

    def __init__(self, consul: ConsulAgent, nginx: NginxServer, sidecar: Sidecar) -> None:
        self.consul = consul
        self.nginx = nginx
        self.sidecar = sidecar
        self.apps: dict[str, App] = {}

    def add(self, name: str, *tags: str, service: str = "web", **options: Any) -> App:
        app = self.apps[name] = App(name).start()
        route = f"proxygen.route={service}.example.com"
        self.consul.register(service, id=name, port=app.port, tags=[route, *tags], **options)
        return app

    def answers(self, count: int = 12, *, host: str = HOST, path: str = "/") -> set[str]:
        """Return who answers so many requests; a status that is no 200 stands for itself."""
        return {self.ask(host, path) for _ in range(count)}

    def ask(self, host: str, path: str, **headers: str) -> str:
        url = f"http://127.0.0.1:{self.sidecar.http}{path}"
        request = urllib.request.Request(url, headers={"Host": host, **headers})
        try:
            with _OPENER.open(request, timeout=20) as answer:
                return str(answer.headers["X-Instance"])
        except urllib.error.HTTPError as error:
            with error:
                return str(error.code)

    def until_answered_by(self, *names: str, host: str = HOST) -> None:
        process.wait_until(lambda: self.answers(host=host) == set(names), what=f"answers of {names}")

    def applied(self) -> list[str]:
        """How each generation reached nginx, one after the other."""
        return [event["by"] for event in self.sidecar.events() if event.get("event") == "generation applied"]

    def reloads(self) -> int:
        return self.nginx.errors().count("reconfiguring\n")

    def until_published(self) -> None:
        """Wait until the files say what is served."""
        process.wait_until(
            lambda: self.sidecar.generation() == self.sidecar.status()["live"]["number"], what="files that follow"
        )

    def stamp(self) -> str:
        with _OPENER.open(f"http://{self.stamp_address}/proxygen/stamp", timeout=20) as answer:
            return str(answer.read().decode())

    @property
    def stamp_address(self) -> str:
        text = (self.sidecar.output / "current/http.d/90-stamp.conf").read_text()
        return text.partition("listen ")[2].partition(";")[0]

    def ask_to_push(self) -> tuple[int, str]:
        try:
            with _OPENER.open(f"http://{self.stamp_address}/proxygen/push", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace")

    def events_of(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.sidecar.events() if event.get("event") == name]

    def quarantined(self) -> list[str]:
        return [each["service"] for each in self.sidecar.status()["quarantined"]]

    def errors(self) -> list[str]:
        return [line for line in self.nginx.errors().splitlines() if "[error]" in line or "[emerg]" in line]


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def lua_nginx(make_nginx: Callable[..., NginxServer]) -> NginxServer:
    binary = find_lua_nginx()
    if binary is None:
        missing("nginx with libnginx-mod-http-lua")
    return make_nginx(binary, modules=LUA)


@pytest.fixture
def make_stand(
    consul: ConsulAgent, lua_nginx: NginxServer, make_sidecar: Callable[..., Sidecar]
) -> Iterator[Callable[..., Stand]]:
    stands: list[Stand] = []

    def make(*, instances: int = 2, **settings: object) -> Stand:
        lua_nginx.start()
        stand = Stand(consul, lua_nginx, make_sidecar(consul, lua_nginx, **settings))
        stands.append(stand)
        for number in range(instances):
            stand.add(f"one{number}", "proxygen.weight=1")
        stand.sidecar.start()
        stand.until_answered_by(*stand.apps)
        process.wait_until(lambda: stand.applied(), what="the first generation")
        return stand

    yield make
    for stand in stands:
        for app in stand.apps.values():
            app.stop()


@pytest.fixture
def stand(make_stand: Callable[..., Stand]) -> Stand:
    return make_stand()


def test_servers_weights_and_health_need_no_reload_and_the_files_follow(stand: Stand) -> None:
    reloads, workers = stand.reloads(), stand.nginx.workers()
    stand.add("two", status="passing")
    stand.until_answered_by("one0", "one1", "two")
    stand.consul.set_check("two", "critical")
    stand.until_answered_by("one0", "one1")
    stand.consul.set_check("two", "passing")
    stand.until_answered_by("one0", "one1", "two")
    stand.consul.deregister("one0")
    stand.until_answered_by("one1", "two")
    stand.consul.register(
        "web", id="one1", port=stand.apps["one1"].port, tags=[f"proxygen.route={HOST}", "proxygen.weight=0"]
    )
    stand.until_answered_by("two")
    stand.until_published()
    assert stand.reloads() == reloads
    assert stand.nginx.workers() == workers
    assert set(stand.applied()[1:]) == {"push"}
    written = (stand.sidecar.output / "current/http.d/10-upstreams.conf").read_text()
    assert f"127.0.0.1:{stand.apps['two'].port}" in written
    assert f"127.0.0.1:{stand.apps['one0'].port}" not in written
    live = stand.sidecar.status()["live"]
    assert live["by"] == "push"
    assert stand.stamp() == f"{live['number']} {live['digest']}"
    assert not stand.errors()


def test_a_push_is_told_wherever_a_generation_is(stand: Stand) -> None:
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    stand.until_published()
    number = stand.sidecar.status()["live"]["number"]
    assert f"{number} since" in (told := stand.sidecar.command("status").stdout)
    assert "(applied by push)" in told
    assert ", pushed to" in told
    newest = next(line for line in stand.sidecar.command("history").stdout.splitlines() if line.startswith(str(number)))
    assert "live by push" in newest
    assert "live by push for" in stand.sidecar.page()
    told = stand.sidecar.command("top", "--once").stdout
    assert "(applied by push)" in told


def test_commands_that_look_once_render_what_the_sidecar_does(stand: Stand) -> None:
    """With the same way to nginx, so that a comparison with what is live shows what would change, and nothing else."""
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    stand.until_published()
    compared = stand.sidecar.command("diff")
    assert compared.returncode == 0, compared.stdout
    assert "balancer_by_lua_block" in stand.sidecar.command("render", "--service", "web").stdout
    checked = stand.sidecar.command("check")
    assert (checked.returncode, checked.stdout) == (0, "1 services pass, 0 quarantined, 0 conflicts\n")
    assert checked.stderr == ""


def test_a_share_moves_without_a_reload_and_a_sticky_client_stays(stand: Stand) -> None:
    tags = ("proxygen.sticky=header:X-User",)
    stand.add("stable", *tags, service="shop")
    stand.add("canary", *tags, "proxygen.canary=10%", service="shop")
    stand.until_answered_by("stable", "canary", host="shop.example.com")
    process.wait_steady(
        lambda: stand.answers(host="shop.example.com") <= {"stable", "canary"}, what="new workers alone"
    )
    reloads = stand.reloads()

    def side() -> list[str]:
        return [_as_user(stand, number) for number in range(200)]

    before = side()
    stand.consul.kv_put("proxygen/canary/shop", '{"canary": "60%"}')
    process.wait_until(lambda: side().count("canary") > 80, what="the larger share")
    after = side()
    assert all(now == "canary" for now, then in zip(after, before, strict=True) if then == "canary")
    stand.consul.kv_put("proxygen/canary/shop", '{"canary": "0%"}')
    process.wait_until(lambda: "canary" not in side(), what="no share")
    assert stand.reloads() == reloads


def _as_user(stand: Stand, number: int) -> str:
    return stand.ask("shop.example.com", "/", **{"X-User": f"user-{number}"})


def test_a_new_host_and_a_new_tag_take_a_reload_and_what_follows_is_pushed(stand: Stand) -> None:
    stand.add("other", service="other")
    stand.until_answered_by("other", host="other.example.com")
    assert stand.applied()[-1] == "reload"
    stand.add("another", service="other")
    stand.until_answered_by("other", "another", host="other.example.com")
    assert stand.applied()[-1] == "push"


def test_a_restart_of_nginx_ends_in_what_was_pushed(stand: Stand) -> None:
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    stand.until_published()
    stand.nginx.restart()
    stand.until_answered_by("one0", "one1", "two")
    stand.consul.deregister("one0")
    stand.until_answered_by("one1", "two")


def test_a_restart_before_the_files_followed_is_made_good(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(reload__publish_within=60)
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    status = stand.sidecar.status()
    assert stand.sidecar.generation() != status["live"]["number"]
    assert status["state"] == "ready"
    stand.nginx.kill()
    stand.nginx.start()
    # nginx reads the files, which are behind; nobody tells the sidecar.
    stand.until_answered_by("one0", "one1", "two")
    stand.until_published()


def test_a_reload_by_somebody_else_before_the_files_followed_is_made_good(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(reload__publish_within=60)
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    workers = stand.nginx.workers()
    stand.nginx.reload()
    process.wait_until(lambda: not workers & stand.nginx.accepting(), what="new workers")
    stand.until_answered_by("one0", "one1", "two")


@pytest.mark.incident("T10")
def test_a_sidecar_that_is_killed_after_a_push_goes_on_from_the_files(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(reload__publish_within=60)
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    stand.sidecar.kill()
    stand.consul.deregister("one0")
    stand.sidecar.start()
    stand.until_answered_by("one1", "two")
    stand.until_published()
    assert not stand.errors()


def test_a_sidecar_that_is_stopped_has_published_what_it_pushed(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(reload__publish_within=60)
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    number = stand.sidecar.status()["live"]["number"]
    assert stand.sidecar.generation() != number
    assert stand.sidecar.stop() == 0
    assert stand.sidecar.generation() == number


def test_a_restarted_sidecar_pushes_again_after_its_first_look(stand: Stand) -> None:
    stand.sidecar.kill()
    stand.sidecar.start()
    reloads = stand.reloads()
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    assert stand.reloads() == reloads


def test_going_back_ends_what_was_pushed(stand: Stand) -> None:
    first = stand.sidecar.status()["live"]["number"]
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    gone = stand.sidecar.command("rollback", str(first))
    assert gone.returncode == 0, gone.stderr
    stand.until_answered_by("one0", "one1")
    released = stand.sidecar.command("release-hold")
    assert released.returncode == 0, released.stderr
    stand.until_answered_by("one0", "one1", "two")


def test_nothing_that_anybody_sends_changes_what_is_served(stand: Stand) -> None:
    before = stand.stamp()
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    served = stand.stamp()
    assert served != before
    document = stand.sidecar.output / "push/document"
    for data in (b"proxygen 1\nfrom %s\nto %s\nend 0\n" % (served.encode(), before.encode()), b"nonsense"):
        request = urllib.request.Request(f"http://{stand.stamp_address}/proxygen/push", data=data, method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused:
            _OPENER.open(request, timeout=20)
        refused.value.close()
        assert refused.value.code == 404
    assert stand.stamp() == served
    # What was pushed does not lie there for anybody to push again.
    assert not document.exists()
    assert document.parent.stat().st_mode & 0o022 == 0
    stand.until_answered_by("one0", "one1", "two")


def test_what_was_pushed_is_not_pushed_again_by_others_after_a_way_back(stand: Stand) -> None:
    first = stand.sidecar.status()["live"]["number"]
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    assert stand.sidecar.command("rollback", str(first)).returncode == 0
    stand.until_answered_by("one0", "one1")
    stand.ask_to_push()
    assert stand.answers() == {"one0", "one1"}


def test_what_a_killed_sidecar_left_is_removed_at_the_next_start(stand: Stand) -> None:
    stand.sidecar.kill()
    document = stand.sidecar.output / "push/document"
    document.parent.mkdir(exist_ok=True)
    document.write_text("proxygen 1\n")
    stand.sidecar.start()
    stand.until_answered_by("one0", "one1")
    assert not document.exists()


_REFUSING: Final = """\
#!/bin/sh
# nginx, whose -t refuses a configuration that has in it what a file says.
case " $* " in
*" -t "*)
    place=$({binary} "$@" -T 2>/dev/null | awk -v said="$(cat {marker})" '
        /^# configuration file / {{ file = $4; sub(":$", "", file); line = 0; next }}
        {{ line++ }}
        index($0, said) {{ print file ":" line; exit }}')
    if [ -n "$place" ]; then
        echo "nginx: [emerg] unwelcome server in $place" >&2
        exit 1
    fi
    ;;
esac
exec {binary} "$@"
"""


def test_what_nginx_t_refuses_is_taken_back_and_the_service_left_out(
    make_stand: Callable[..., Stand], lua_nginx: NginxServer, tmp_path: Path
) -> None:
    marker, binary = tmp_path / "marker", tmp_path / "refusing-nginx"
    marker.write_text("nothing has this in it\n")
    binary.write_text(_REFUSING.format(marker=marker, binary=lua_nginx.binary.path))
    binary.chmod(0o755)
    stand = make_stand(nginx__binary=str(binary))
    stand.add("other", service="other")
    stand.until_answered_by("other", host="other.example.com")
    reloads = stand.reloads()
    refused = App("two").start()
    stand.apps["two"] = refused
    marker.write_text(f"127.0.0.1:{refused.port}\n")
    stand.consul.register("web", id="two", port=refused.port, tags=[f"proxygen.route={HOST}"])
    process.wait_until(lambda: stand.events_of("push rolled back"), what="the way back")
    process.wait_until(lambda: stand.quarantined() == ["web"], what="the quarantine")
    assert "two" not in stand.answers()
    # Everybody else is served, by files that say what nginx serves, and newer changes go through.
    stand.add("another", service="other")
    stand.until_answered_by("other", "another", host="other.example.com")
    stand.until_published()
    live = stand.sidecar.status()["live"]
    assert stand.stamp() == f"{live['number']} {live['digest']}"
    assert str(refused.port) not in (stand.sidecar.output / "current/http.d/10-upstreams.conf").read_text()
    assert stand.reloads() <= reloads + 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"proxygen 2\nfrom {served}\nto 9 0123456789abcdef\nend 0\n",
        b"proxygen 1\nfrom {served}\nto 9 0123456789abcdef\nu web round_robin - 10.0.0.1:80/1/1/5/0/p\nend 2\n",
        b"proxygen 1\nfrom {served}\nto 9 0123456789abcdef\nu web nonsense - 10.0.0.1:80/1/1/5/0/p\nend 1\n",
        b"proxygen 1\nfrom {served}\nto 9 0123456789abcdef\nu web round_robin - example.com:80/1/1/5/0/p\nend 1\n",
        b"proxygen 1\nfrom {served}\nto 9 0123456789abcdef\nu web round_robin - 10.0.0.1:80/0/1/5/0/p\nend 1\n",
        b"proxygen 1\nfrom {served}\nto 9 0123456789abcdef\nu web round_robin - 10.0.0.1:70000/1/1/5/0/p\nend 1\n",
        b"proxygen 1\nfrom {served}\nto 9 0123456789abcdef\nu web round_robin - 10.0.0.1:80/1/1/5/0/b\nend 1\n",
        b"proxygen 1\nfrom {served}\nto 9 0123456789abcdef\ns web_share 500:a 500:b\nend 1\n",
        b"proxygen 1\nfrom {served}\nto 9 0123456789abcdef\ns web_share 5000:a 5000:b",
        b"proxygen 1\nfrom {served}\nto x\nend 0\n",
        b"proxygen 1\nfrom {served}\nto 9 0123456789abcdef\nx web 1\nend 1\n",
    ],
)
def test_a_document_that_cannot_be_decoded_is_refused_whole(stand: Stand, body: bytes) -> None:
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    stand.sidecar.kill()
    served = stand.stamp()
    (stand.sidecar.output / "push/document").write_bytes(body.replace(b"{served}", served.encode()))
    assert stand.ask_to_push()[0] == 400
    assert stand.stamp() == served
    assert stand.answers() == {"one0", "one1", "two"}


def test_a_hundred_thousand_random_values_decode_or_are_refused_whole(stand: Stand) -> None:
    stand.sidecar.kill()
    chance = random.Random(7)
    document = stand.sidecar.output / "push/document"
    document.parent.mkdir(exist_ok=True)
    for case in range(20):
        lines = [_random_line(chance, broken=case % 2 == 1) for _ in range(5_000)]
        served = stand.stamp()
        after = f"{1000 + case} 0123456789abcdef"
        text = "\n".join(("proxygen 1", f"from {served}", f"to {after}", *lines, f"end {len(lines)}", ""))
        document.write_text(text, encoding="latin-1")
        status, said = stand.ask_to_push()
        if case % 2:
            assert (status, stand.stamp()) == (400, served), said
        else:
            assert (status, stand.stamp()) == (200, after), said
    assert stand.answers() == {"one0", "one1"}


def _random_line(chance: random.Random, *, broken: bool) -> str:
    peer = f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(256)}:{chance.randrange(1, 65536)}"
    line = f"u svc_{chance.randrange(10**6)} round_robin - {peer}/{chance.randrange(1, 100)}/1/5/0/p"
    if broken:
        place = chance.randrange(len(line))
        line = line[:place] + chr(chance.randrange(33, 256)) + "\x00" + line[place:]
    return line


def test_a_document_for_which_there_is_no_room_takes_a_reload(stand: Stand) -> None:
    """Each server of a large service is some 30 bytes, and the dictionary holds 32 MB: filled here by hand."""
    stand.sidecar.kill()
    document = stand.sidecar.output / "push/document"
    document.parent.mkdir(exist_ok=True)
    peers = " ".join(f"10.1.{number // 250}.{number % 250}:80/1/1/5/0/p" for number in range(10_000))
    for case in range(200):
        served = stand.stamp()
        lines = [f"u svc_{case}_{place} round_robin - {peers}" for place in range(40)]
        text = "\n".join(("proxygen 1", f"from {served}", f"to {1000 + case} 0123456789abcdef", *lines, "end 40", ""))
        document.write_text(text)
        status, _ = stand.ask_to_push()
        if status != 200:
            break
    assert (status, stand.stamp()) == (507, served)
    stand.sidecar.start()
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    assert stand.applied()[-1] in {"reload", "push"}
    stand.add("three")
    stand.until_answered_by("one0", "one1", "two", "three")


@pytest.mark.incident("T17")
async def test_pushes_under_load_lose_no_request_and_start_no_worker(stand: Stand) -> None:
    workers = stand.nginx.workers()
    load = Load("127.0.0.1", stand.sidecar.http, headers={"Host": HOST}, clients=4, keepalive=True)
    sending = asyncio.create_task(load.send(10**9))
    for number in range(40):
        await asyncio.to_thread(_push_weight, stand, number % 5 + 2)
    load.stop()
    tally = await sending
    assert tally.failed == 0
    assert tally.ok > 0
    assert stand.nginx.workers() == workers
    assert set(stand.applied()[1:]) == {"push"}


def _push_weight(stand: Stand, weight: int) -> None:
    """Give an instance another weight, and wait until nginx has it."""
    before = len(stand.applied())
    tags = [f"proxygen.route={HOST}", f"proxygen.weight={weight}"]
    stand.consul.register("web", id="one1", port=stand.apps["one1"].port, tags=tags)
    process.wait_until(lambda: len(stand.applied()) > before, what="a push")


def test_a_flood_is_published_together(make_stand: Callable[..., Stand]) -> None:
    """Half of the time that the files may be behind is waited for company."""
    within = 30.0
    stand = make_stand(reload__publish_within=within)
    before, began = len(stand.applied()), time.monotonic()
    published: set[int] = set()
    for number in range(10):
        _push_weight(stand, number % 7 + 2)
        published.add(stand.sidecar.generation() or 0)
    most = 1 + (time.monotonic() - began) / (within / 2)
    stand.until_published()
    assert len(stand.applied()) - before == 10
    assert len(published) <= most


def test_push_is_off_where_the_settings_say_so(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(reload__push="off")
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    assert set(stand.applied()) == {"reload"}
    status = stand.sidecar.status()["nginx"]
    assert (status["push"], status["push_problem"]) == (False, "")
    assert "lua" not in (stand.sidecar.output / "current/http.d/10-upstreams.conf").read_text()
    assert stand.sidecar.command("check").stderr == ""


@pytest.mark.parametrize(
    ("http", "said"),
    [
        ("lua_shared_dict proxygen 1m;", "the dictionary proxygen is proxygen's"),
        ("init_by_lua_block { x = 1 }", "init_by_lua_block may stand once"),
        ("log_by_lua_block { x = 1 }", "log_by_lua_block may stand once"),
        ("lua_code_cache off;", "without lua_code_cache"),
        ("lua_package_path '/nowhere/?.lua;;';", ""),
    ],
)
def test_lua_of_the_operators_that_is_in_the_way_is_named_and_all_takes_reloads(
    consul: ConsulAgent,
    make_nginx: Callable[..., NginxServer],
    make_sidecar: Callable[..., Sidecar],
    http: str,
    said: str,
) -> None:
    binary = find_lua_nginx()
    if binary is None:
        missing("nginx with libnginx-mod-http-lua")
    nginx = make_nginx(binary, modules=LUA, http=http)
    nginx.start()
    sidecar = make_sidecar(consul, nginx)
    consul.register("web", id="a", port=1, tags=[f"proxygen.route={HOST}"])
    sidecar.start()
    status = sidecar.status()["nginx"]
    assert said in sidecar.command("check").stderr
    assert said in status["push_problem"]
    assert status["push"] is (not said)


def test_nginx_t_still_passes_on_what_was_pushed(stand: Stand) -> None:
    stand.add("two")
    stand.until_answered_by("one0", "one1", "two")
    stand.until_published()
    tested = subprocess.run([*stand.nginx.command, "-t"], capture_output=True, text=True, check=False, timeout=60)
    assert tested.returncode == 0, tested.stderr
    stand.nginx.send_signal(signal.SIGHUP)
    stand.until_answered_by("one0", "one1", "two")
