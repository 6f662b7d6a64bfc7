"""gRPC: long streams, large metadata, silence, trailers, and errors that a gRPC client understands."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
import pytest

from tests.conformance.case import BALANCER
from tests.conformance.instance import SILENCE, Hanging, Record
from tests.conformance.site import Service, Site, proxied
from tests.harness.ports import free_port
from tests.harness.tools import NginxBinary

_LARGE: Final = (("grpc.max_metadata_size", 131_072), ("grpc.absolute_max_metadata_size", 131_072))
_NAMES: Final = ("*.grpc.req.example.com",)
_STATUS: Final = grpc.StatusCode


class _Instance:
    """A gRPC server whose methods are what a call can ask for; ``asked`` counts calls."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked = 0
        self._server = grpc.server(ThreadPoolExecutor(8), options=_LARGE)
        methods = {
            "Say": grpc.unary_unary_rpc_method_handler(self._say),
            "Silent": grpc.unary_unary_rpc_method_handler(self._silent),
            "Large": grpc.unary_unary_rpc_method_handler(self._large),
            "Seen": grpc.unary_unary_rpc_method_handler(self._seen),
            "Trailer": grpc.unary_unary_rpc_method_handler(self._trailer),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "Stream": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")

    def __enter__(self) -> _Instance:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait(5)

    def _say(self, message: bytes, _: Any) -> bytes:
        self.asked += 1
        return message

    def _silent(self, message: bytes, _: Any) -> bytes:
        time.sleep(SILENCE)
        return message

    def _large(self, message: bytes, context: Any) -> bytes:
        """As many bytes of metadata as the message says."""
        context.send_initial_metadata([(f"large-{number}", "x" * 1024) for number in range(int(message) // 1024)])
        return b"large"

    def _seen(self, _: bytes, context: Any) -> bytes:
        found: dict[str, list[str]] = {}
        for key, value in context.invocation_metadata():
            found.setdefault(key, []).append(str(value))
        return json.dumps(found).encode()

    def _trailer(self, message: bytes, context: Any) -> bytes:
        context.set_trailing_metadata([("checksum", "42")])
        return message

    def _fail(self, message: bytes, context: Any) -> bytes:
        context.abort(_STATUS.FAILED_PRECONDITION, "the application's own words")
        raise AssertionError

    def _stream(self, messages: Iterator[bytes], _: Any) -> Iterator[bytes]:
        for message in messages:
            if message == b"silence":
                time.sleep(SILENCE)
            yield message


_TAGS: Final = {
    "plain": (),
    "brief": ("idle-timeout=1s",),
    "patient": ("timeout=500ms", "idle-timeout=30s"),
    "rate": ("rate=1r/m",),
    "denied": ("deny=127.0.0.0/8",),
    "auth": ("auth=staff",),
    "hung-up": (),
    "half-closed": (),
    "closed": (),
    "critical": (),
}


class _Calls:
    """The site, and how to call its services."""

    def __init__(self, site: Site, hanging: tuple[Hanging, Hanging]) -> None:
        self.site = site
        self.hanging = hanging

    @contextmanager
    def channel(self, name: str) -> Iterator[grpc.Channel]:
        host = f"{name}.grpc.req.example.com"
        options = (*_LARGE, ("grpc.ssl_target_name_override", host), ("grpc.default_authority", host))
        credentials = grpc.ssl_channel_credentials(self.site.authority.pem)
        with grpc.secure_channel(f"127.0.0.1:{self.site.https}", credentials, options) as channel:
            yield channel

    def call(self, name: str, method: str, message: bytes = b"hello", metadata: Any = ()) -> Any:
        """Return the answer and the call. Raise grpc.RpcError."""
        with self.channel(name) as channel:
            return channel.unary_unary(f"/test.Echo/{method}").with_call(message, metadata=metadata, timeout=60)

    def say(self, name: str, method: str = "Say", message: bytes = b"hello", metadata: Any = ()) -> bytes:
        answer: bytes = self.call(name, method, message, metadata)[0]
        return answer

    def status(self, name: str, method: str = "Say", message: bytes = b"hello") -> Any:
        try:
            self.call(name, method, message)
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined, unused-ignore]
        return _STATUS.OK


def _service(name: str, ports: tuple[int, ...], *tags: str) -> Service:
    return Service(
        name=f"grpc-{name}",
        tags=(f"route={name}.grpc.req.example.com", "protocol=grpc", "tls=auto", *tags),
        ports=ports,
        status="critical" if name == "critical" else "passing",
    )


@pytest.fixture(scope="module")
def calls(binary: NginxBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Calls]:
    with ExitStack() as stack:
        live = tuple(stack.enter_context(_Instance()).port for _ in range(2))
        hanging = (stack.enter_context(Hanging()), stack.enter_context(Hanging()))
        ports = {
            "hung-up": (hanging[0].port, hanging[1].port),
            "half-closed": (free_port(), live[0]),
            "closed": (free_port(), free_port()),
        }
        services = [_service(name, ports.get(name, live), *tags) for name, tags in _TAGS.items()]
        directory = tmp_path_factory.mktemp(f"grpc-{binary.name}")
        (directory / "htpasswd").mkdir()
        (directory / "htpasswd" / "staff").write_text("bob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n")
        settings = {"proxy.trusted_proxies": f"{BALANCER}/32", "proxy.htpasswd": str(directory / "htpasswd")}
        site = stack.enter_context(proxied(binary, directory, services, Record(), settings=settings, names=_NAMES))
        yield _Calls(site, hanging)


def test_a_stream_may_carry_more_than_nginx_lets_a_body_have(calls: _Calls) -> None:
    """T74."""
    with calls.channel("plain") as channel:
        sizes = [len(piece) for piece in channel.stream_stream("/test.Echo/Stream")(b"x" * 100_000 for _ in range(15))]
    assert sizes == [100_000] * 15


def test_body_size_does_not_end_a_stream(binary: NginxBinary, tmp_path: Path) -> None:
    with ExitStack() as stack:
        instance, hanging = stack.enter_context(_Instance()), stack.enter_context(Hanging())
        services = [_service("limited", (instance.port,), "body-size=1k")]
        site = stack.enter_context(proxied(binary, tmp_path, services, Record(), names=_NAMES))
        channel = stack.enter_context(_Calls(site, (hanging, hanging)).channel("limited"))
        answers = list(channel.stream_stream("/test.Echo/Stream")(b"x" * 1000 for _ in range(15)))
    assert len(answers) == 15


@pytest.mark.parametrize("size", [5120, 30_720])
def test_an_answer_may_have_large_metadata(calls: _Calls, size: int) -> None:
    """T75."""
    assert calls.say("plain", "Large", str(size).encode()) == b"large"


def test_a_call_may_have_large_metadata(calls: _Calls) -> None:
    """T79."""
    metadata = [(f"part-{number}", "p" * 3000) for number in range(9)]
    seen = json.loads(calls.say("plain", "Seen", metadata=metadata))
    assert [len(seen[key][0]) for key, _ in metadata] == [3000] * 9


def test_a_silent_call_is_no_ordinary_request(calls: _Calls) -> None:
    """T76: a stream where both are silent, and a call whose answer takes its time."""
    assert calls.say("patient", "Silent") == b"hello"
    with calls.channel("patient") as channel:
        assert list(channel.stream_stream("/test.Echo/Stream")(iter([b"a", b"silence", b"b"]))) == [
            b"a",
            b"silence",
            b"b",
        ]


@pytest.mark.parametrize(("method", "message"), [("Silent", b"x"), ("Large", b"40960")])
def test_what_fails_costs_nobody_else_anything(calls: _Calls, method: str, message: bytes) -> None:
    """T73: by each of two instances and more."""
    for _ in range(3):
        assert calls.status("brief", method, message) is not _STATUS.OK
        assert [calls.say("brief") for _ in range(4)] == [b"hello"] * 4


def test_trailers_arrive(calls: _Calls) -> None:
    _, call = calls.call("plain", "Trailer")
    assert ("checksum", "42") in {(key, value) for key, value in call.trailing_metadata()}


def test_a_call_that_an_instance_hangs_up_on_is_unavailable_and_not_sent_again(calls: _Calls) -> None:
    """T85."""
    before = sum(instance.asked for instance in calls.hanging)
    assert calls.status("hung-up") is _STATUS.UNAVAILABLE
    assert sum(instance.asked for instance in calls.hanging) == before + 1


def test_a_call_goes_on_to_another_instance_where_nobody_listens(calls: _Calls) -> None:
    assert [calls.say("half-closed") for _ in range(6)] == [b"hello"] * 6


@pytest.mark.parametrize(
    ("name", "method", "status"),
    [
        ("closed", "Say", _STATUS.UNAVAILABLE),
        ("critical", "Say", _STATUS.UNAVAILABLE),
        ("brief", "Silent", _STATUS.DEADLINE_EXCEEDED),
        ("denied", "Say", _STATUS.PERMISSION_DENIED),
        ("auth", "Say", _STATUS.UNAUTHENTICATED),
        ("plain", "Unknown", _STATUS.UNIMPLEMENTED),
        ("plain", "Fail", _STATUS.FAILED_PRECONDITION),
    ],
)
def test_an_error_has_the_status_that_a_client_understands(
    calls: _Calls, name: str, method: str, status: object
) -> None:
    assert calls.status(name, method) is status


def test_a_call_above_the_rate_is_told_so(calls: _Calls) -> None:
    calls.status("rate")
    assert calls.status("rate") is _STATUS.RESOURCE_EXHAUSTED


def test_a_stranger_does_not_say_who_it_is(calls: _Calls) -> None:
    """T81."""
    forged = (
        "forwarded",
        "x-original-url",
        "x-rewrite-url",
        "x-client-ip",
        "true-client-ip",
        "proxy",
        "x-forwarded-prefix",
    )
    replaced = {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "plain.grpc.req.example.com",
        "x-forwarded-port": str(calls.site.https),
        "x-real-ip": "127.0.0.1",
    }
    seen = json.loads(calls.say("plain", "Seen", metadata=[(name, "forged") for name in (*forged, *replaced)]))
    assert {name: seen.get(name) for name in replaced} == {name: [value] for name, value in replaced.items()}
    assert [name for name in forged if name in seen] == []
