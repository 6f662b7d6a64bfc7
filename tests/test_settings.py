from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxygen
from proxygen.kit.errors import SettingsError
from proxygen.settings import CONSUL_VARIABLES, Knob, Settings, knobs, load
from proxygen.settings.retired import RETIRED
from proxygen.settings.slices import ConsulSettings
from tests.settings_read import keys_read

SECRET = "b1gs1cr3t"


def toml(directory: Path, text: str) -> Path:
    path = directory / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(flags: dict[str, str] | None = None, **sources: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load(flags, **{"environment": {}, **sources})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("present", list(itertools.product([False, True], repeat=3)))
def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path, present: tuple[bool, bool, bool]) -> None:
    flag, environment, file = present
    settings = load(
        {"output.keep": "5"} if flag else {},
        environment={"PROXYGEN_OUTPUT_KEEP": "4"} if environment else {},
        file=toml(tmp_path, "[output]\nkeep = 3\n" if file else ""),
    )
    assert settings.output.keep == (5 if flag else 4 if environment else 3 if file else 10)


def test_own_variable_beats_consuls_and_consuls_beats_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, '[consul]\naddress = "file:1"\n')
    environment = {"CONSUL_HTTP_ADDR": "theirs:1"}
    assert load(environment=environment, file=file).consul.address == "theirs:1"
    environment["PROXYGEN_CONSUL_ADDRESS"] = "ours:1"
    assert load(environment=environment, file=file).consul.address == "ours:1"


def test_every_variable_of_consul_sets_a_knob_that_exists() -> None:
    assert set(CONSUL_VARIABLES.values()) <= set(ConsulSettings.model_fields)


def test_consuls_booleans_are_read_as_consul_reads_them() -> None:
    settings = load(environment={"CONSUL_HTTP_SSL": "true", "CONSUL_HTTP_SSL_VERIFY": "0"})
    assert (settings.consul.ssl, settings.consul.ssl_verify) == (True, False)


def test_an_empty_variable_counts_as_unset() -> None:
    assert load(environment={"PROXYGEN_OUTPUT_KEEP": "", "CONSUL_HTTP_ADDR": ""}) == Settings()


def test_a_variable_that_kubernetes_makes_up_for_a_service_named_proxygen_is_no_error() -> None:
    assert load(environment={"PROXYGEN_SERVICE_HOST": "10.0.0.1", "PROXYGEN_PORT": "tcp://10.0.0.1:80"}) == Settings()


def test_the_file_in_the_working_directory_is_used_unless_another_is_named(tmp_path: Path) -> None:
    (tmp_path / "proxygen.toml").write_text("[output]\nkeep = 7\n", encoding="utf-8")
    assert load(environment={}).output.keep == 7
    assert load(environment={}, file=toml(tmp_path, "")).output.keep == 10


def test_every_table_of_the_file_counts(tmp_path: Path) -> None:
    settings = load(
        environment={}, file=toml(tmp_path, "[output]\nkeep = 7\n[log]\nlevel = 'debug'\n[guard]\nloss = 1\n")
    )
    assert (settings.output.keep, settings.log.level, settings.guard.loss) == (7, "debug", 1)


def test_the_environment_is_that_of_the_process_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYGEN_OUTPUT_KEEP", "7")
    assert load().output.keep == 7
    assert load(environment={}).output.keep == 10


def test_several_values_are_a_list_in_the_file(tmp_path: Path) -> None:
    text = '[proxy]\nhttp_listen = ["80", "[::]:81"]\ntrusted_proxies = ["10.0.0.0/8"]\nbody_size = 1024\n'
    proxy = load(environment={}, file=toml(tmp_path, text + '[nginx]\nreload_command = ["docker", "exec nginx"]\n'))
    assert (proxy.proxy.http_listen, proxy.proxy.trusted_proxies) == (("80", "[::]:81"), ("10.0.0.0/8",))
    assert proxy.proxy.body_size == 1024
    assert proxy.nginx.reload_command == ("docker", "exec nginx"), "a list is not split once more"


@pytest.mark.parametrize("written", ["80", '["80", "x"]', '["80", 81]', "{}"])
@pytest.mark.parametrize("key", ["http_listen", "https_listen", "trusted_proxies"])
def test_a_list_with_anything_else_in_it_is_refused(key: str, written: str, tmp_path: Path) -> None:
    assert refusal(file=toml(tmp_path, f"[proxy]\n{key} = {written}\n")).startswith(f"proxy.{key} = ")


def test_a_table_of_claims_comes_from_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, '[proxy.claims]\n"*.pay.example.com" = ["billing", "billing-*"]\n')
    assert load(environment={}, file=file).proxy.claims == {"*.pay.example.com": ("billing", "billing-*")}


def test_unknown_key_names_the_key_the_value_and_what_is_allowed(tmp_path: Path) -> None:
    text = refusal(file=toml(tmp_path, "[output]\nkeeep = 3\n"))
    assert text.startswith(f"settings file {tmp_path / 'settings.toml'}: unknown key output.keeep = 3; ")
    assert "directory, keep" in text


def test_unknown_table_names_the_tables(tmp_path: Path) -> None:
    text = refusal(file=toml(tmp_path, "[outputs]\nkeep = 3\n"))
    assert "outputs" in text
    assert "consul, proxy, bounds, nginx, output, reload, guard, admin, traffic, registrator, network, log" in text


def test_a_misspelt_token_is_not_quoted(tmp_path: Path) -> None:
    assert SECRET not in refusal(file=toml(tmp_path, f'[consul]\ntokn = "{SECRET}"\n'))


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("output.keep", "1", "at least 2, at most 1000"),
        ("output.keep", "many", "at least 2, at most 1000"),
        ("consul.wait", "2m", "at most 1m"),
        ("consul.wait", "60", "30s"),
        ("consul.ssl", "perhaps", "true, false"),
        ("consul.kv_prefix", "a//b", "[A-Za-z0-9._-]+"),
        ("proxy.tag_prefix", "Pro xy", "[a-z][a-z0-9-]{0,30}"),
        ("proxy.http_listen", "0.0.0.0:99999", "[ADDRESS:]PORT"),
        ("proxy.http_listen", "80; evil", "[ADDRESS:]PORT"),
        ("proxy.stream_ports", "9-1", "FIRST-LAST"),
        ("proxy.stream_ports", "1-70000", "FIRST-LAST"),
        ("proxy.stream_address", "everywhere", "IPv4 or IPv6"),
        ("proxy.trusted_proxies", "10.0.0.1/8", "host bits"),
        ("nginx.reload", "hope", "signal, command, docker"),
        ("nginx.stamp", "10.0.0.1:80", "loopback"),
        ("nginx.stamp", "unix:relative", "unix:/PATH"),
        ("admin.listen", "8080", "ADDRESS:PORT"),
        ("log.level", "loud", "debug, info, warning, error"),
    ],
)
def test_a_wrong_value_names_key_value_origin_and_what_is_allowed(key: str, value: str, allowed: str) -> None:
    text = refusal({key: value})
    assert text.startswith(f"{key} = ")
    assert value.split()[0] in text or "120.0" in text
    assert "the command line" in text
    assert allowed in text


@pytest.mark.parametrize("key", [knob.key for knob in knobs() if knob.is_secret])
def test_a_secret_appears_neither_in_an_error_nor_in_a_representation(key: str) -> None:
    slice_name, _, name = key.partition(".")
    settings = load({key: SECRET}, environment={})
    assert getattr(getattr(settings, slice_name), name).get_secret_value() == SECRET
    assert SECRET not in repr(settings)
    assert SECRET not in settings.model_dump_json()
    with pytest.raises(SettingsError) as caught:
        load({key: [SECRET]}, environment={})  # type: ignore[dict-item]
    assert str(caught.value).startswith(f"{key} = (hidden) from the command line: ")
    assert SECRET not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "absent.toml" in refusal(file=tmp_path / "absent.toml")


def test_broken_toml_is_named_with_its_place(tmp_path: Path) -> None:
    assert "line 2" in refusal(file=toml(tmp_path, "[output]\nkeep =\n"))


def test_names_of_knobs_are_unique() -> None:
    everything = list(knobs())
    for names in (
        {knob.key for knob in everything},
        {knob.flag for knob in everything},
        {knob.variable for knob in everything},
    ):
        assert len(names) == len(everything)


@pytest.mark.parametrize("knob", [knob for knob in knobs() if knob.default], ids=lambda knob: str(knob.key))
def test_the_documented_default_reads_back_as_the_default(knob: Knob) -> None:
    """A user who writes the default that the reference shows changes nothing."""
    assert load({knob.key: knob.default}, environment={}) == Settings()


@given(st.text(), st.sampled_from([knob.key for knob in knobs() if not knob.is_table]))
def test_any_text_is_either_taken_or_refused_in_one_line(text: str, key: str) -> None:
    refusal = ""
    try:
        load({key: text}, environment={}, file=Path("/dev/null"))
    except SettingsError as error:
        refusal = str(error)
    assert not refusal or refusal.startswith(f"{key} = ")


def test_data_may_not_count_as_stale_while_one_poll_lasts() -> None:
    """A quiet Consul answers once per wait."""
    with pytest.raises(SettingsError, match=r"admin\.fresh = 30s .* consul\.wait = 60s .* at least 63\.75s"):
        load({"admin.fresh": "30s"}, environment={})
    assert load({"admin.fresh": "30s", "consul.wait": "20s"}, environment={}).admin.fresh == 30


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("reload.settle", "25ms", 0.025),
        ("guard.hold", "5m", 300.0),
        ("network.grace", "1d", 86_400.0),
        ("proxy.http_listen", "80, 127.0.0.1:8080 [::]:81", ("80", "127.0.0.1:8080", "[::]:81")),
        ("proxy.http_listen", "65535", ("65535",)),
        ("proxy.stream_ports", "9000", "9000"),
        ("proxy.stream_ports", "1-65535", "1-65535"),
        ("proxy.stream_ports", "9000-9000", "9000-9000"),
        ("proxy.stream_address", "::", "::"),
        ("proxy.denied_addresses", "10.0.0.0/8,2001:db8::/32", ("10.0.0.0/8", "2001:db8::/32")),
        ("nginx.stamp", "[::1]:80", "[::1]:80"),
        ("nginx.stamp", "127.9.9.9:80", "127.9.9.9:80"),
        ("nginx.stamp", "unix:/" + "x" * 95, "unix:/" + "x" * 95),
        ("nginx.reload_command", "docker exec nginx", ("docker", "exec", "nginx")),
        ("admin.listen", "off", "off"),
        ("admin.listen", "0.0.0.0:80", "0.0.0.0:80"),
        ("network.public_ip", "192.0.2.1", "192.0.2.1"),
        ("log.syslog", "unix:/dev/log", "unix:/dev/log"),
        ("proxy.body_size", "10m", 10_485_760),
        ("proxy.body_size", "1024g", 1_099_511_627_776),
        ("proxy.hsts_max_age", "3650d", 315_360_000.0),
        ("output.keep", "2", 2),
        ("output.keep", "1000", 1000),
        ("consul.wait", "1m", 60.0),
        ("guard.loss", "1", 1.0),
        ("traffic.sample", "0", 0.0),
    ],
)
def test_a_value_is_read_in_its_unit_and_to_the_ends_of_its_range(key: str, value: str, read: object) -> None:
    slice_name, _, name = key.partition(".")
    assert getattr(getattr(load({key: value}, environment={}), slice_name), name) == read


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("proxy.http_listen", "65536"),
        ("proxy.http_listen", "0"),
        ("proxy.http_listen", "80,x"),
        ("proxy.http_listen", "999.0.0.1:80"),
        ("proxy.stream_ports", "0-9"),
        ("proxy.stream_ports", "65535-65536"),
        ("proxy.stream_ports", "9001-9000"),
        ("proxy.stream_address", "10.0.0"),
        ("nginx.stamp", "80"),
        ("nginx.stamp", "unix:/" + "x" * 96),
        ("network.public_ip", "2001:db8::1"),
        ("consul.wait", "0s"),
        ("guard.loss", "0"),
        ("guard.loss", "1.01"),
        ("output.keep", "1001"),
        ("traffic.budget", "0"),
        ("proxy.body_size", "1025g"),
        ("log.syslog", "tcp:10.0.0.1:514"),
    ],
)
def test_what_lies_beyond_the_ends_is_refused(key: str, value: str) -> None:
    assert refusal({key: value}).startswith(f"{key} = ")


@pytest.mark.parametrize("key", [knob.key for knob in knobs() if not knob.is_boolean and not knob.is_table])
@pytest.mark.parametrize("written", ["true", "false", "inf", "-inf", "nan"])
def test_what_toml_takes_for_a_number_and_is_no_amount_is_refused(key: str, written: str, tmp_path: Path) -> None:
    """A switch would count as 1 or 0: one route for each service, no retries. Nothing can be rendered of infinity."""
    slice_name, _, name = key.partition(".")
    assert refusal(file=toml(tmp_path, f"[{slice_name}]\n{name} = {written}\n")).startswith(f"{key} = ")


def test_a_poll_may_just_fit_into_what_counts_as_fresh() -> None:
    """Consul adds at most a sixteenth of the wait."""
    assert load({"admin.fresh": "34s", "consul.wait": "32s"}, environment={}).admin.fresh == 34
    with pytest.raises(SettingsError, match="at least 34s"):
        load({"admin.fresh": "33s", "consul.wait": "32s"}, environment={})


@pytest.mark.parametrize(
    ("source", "origin"),
    [
        ({"flags": {"output.keep": "1"}}, "the command line"),
        ({"environment": {"PROXYGEN_OUTPUT_KEEP": "1"}}, "the environment"),
        ({"file": "[output]\nkeep = 1\n"}, "settings file"),
        ({"flags": {"output.keep": "1"}, "environment": {"PROXYGEN_OUTPUT_KEEP": "5"}}, "the command line"),
    ],
)
def test_a_wrong_value_is_told_with_where_it_stands(tmp_path: Path, source: dict[str, object], origin: str) -> None:
    file = {"file": toml(tmp_path, str(source["file"]))} if "file" in source else {}
    text = refusal(source.get("flags"), environment=source.get("environment", {}), **file)  # type: ignore[arg-type]
    assert f" from {origin}" in text
    assert text.endswith(
        "(allowed: at least 2, at most 1000); also --output-keep, PROXYGEN_OUTPUT_KEEP: generations kept on disk"
    )


@pytest.mark.parametrize(
    "key",
    [
        "proxy.http_listen",
        "proxy.stream_ports",
        "nginx.stamp",
        "admin.listen",
        "log.syslog",
        "guard.hold",
        "proxy.body_size",
    ],
)
def test_a_refusal_says_how_to_write_it_and_what_it_says_is_taken(key: str) -> None:
    text = refusal({key: "no/such"}).removeprefix(f"{key} = 'no/such' from the command line: ")
    assert text.startswith(("write ", "'no/such' is neither ", "'no/such' is not "))
    found = re.search(r", such as ([^;]*?)(?: \(allowed: .*\))?; also --", text)
    assert found is not None, text
    for example in re.split(r",? or |, ", found[1]):
        load({key: example}, environment={})


def test_a_text_of_another_form_is_told_the_form() -> None:
    assert refusal({"proxy.tag_prefix": "Pro xy"}).startswith(
        "proxy.tag_prefix = 'Pro xy' from the command line: not of the form [a-z][a-z0-9-]{0,30}; also --proxy-tag-"
    )


def test_a_wrong_value_of_consuls_variable_is_told_as_that() -> None:
    assert "consul.ssl = 'perhaps' from Consul's variables" in refusal(environment={"CONSUL_HTTP_SSL": "perhaps"})


@pytest.mark.parametrize(("percent", "points"), [("100", 10_000), ("12.5", 1_250), ("0.01", 1), ("0.001", 1)])
def test_a_sample_however_small_is_of_some_requests(percent: str, points: int) -> None:
    assert load({"traffic.sample": percent}, environment={}).traffic.basis_points == points


def test_all_wrong_values_are_told_at_once() -> None:
    text = refusal({"output.keep": "1", "log.level": "loud"})
    assert text.count("also --") == 2
    assert "; log.level = " in text


def test_a_key_in_the_file_may_have_hyphens(tmp_path: Path) -> None:
    file = toml(tmp_path, "[reload]\nretry-max = '3s'\nmax_draining-wait = 7\n")
    settings = load(environment={}, file=file)
    assert (settings.reload.retry_max, settings.reload.max_draining_wait) == (3.0, 7.0)


def test_a_table_cannot_come_from_the_environment() -> None:
    assert load(environment={"PROXYGEN_PROXY_CLAIMS": "x"}) == Settings()


def test_each_variable_of_consul_sets_its_own_knob() -> None:
    booleans = {"ssl", "ssl_verify"}
    environment = {variable: "false" if name in booleans else f"/{name}" for variable, name in CONSUL_VARIABLES.items()}
    consul = load(environment=environment).consul
    for name in CONSUL_VARIABLES.values():
        value = getattr(consul, name)
        shown = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        assert str(shown) == ("False" if name in booleans else f"/{name}")


_KNOBS = {knob.key: knob for knob in knobs()}


@pytest.mark.parametrize(
    ("key", "flag", "variable", "default", "allowed"),
    [
        ("reload.settle", "--reload-settle", "PROXYGEN_RELOAD_SETTLE", "25ms", "at least 0, at most 10s"),
        ("proxy.retry_after", "--proxy-retry-after", "PROXYGEN_PROXY_RETRY_AFTER", "5s", "at least 1s"),
        ("consul.ssl", "--consul-ssl", "PROXYGEN_CONSUL_SSL", "false", "true, false"),
        (
            "consul.max_connections",
            "--consul-max-connections",
            "PROXYGEN_CONSUL_MAX_CONNECTIONS",
            "64",
            "at least 4, at most 180",
        ),
        (
            "proxy.allowed_addresses",
            "--proxy-allowed-addresses",
            "PROXYGEN_PROXY_ALLOWED_ADDRESSES",
            "0.0.0.0/0,::/0",
            "",
        ),
        ("nginx.reload", "--nginx-reload", "PROXYGEN_NGINX_RELOAD", "signal", "signal, command, docker"),
        ("consul.token", "--consul-token", "PROXYGEN_CONSUL_TOKEN", "", ""),
        ("proxy.claims", "--proxy-claims", "PROXYGEN_PROXY_CLAIMS", "", ""),
    ],
)
def test_a_knob_says_how_it_is_set_and_what_to(key: str, flag: str, variable: str, default: str, allowed: str) -> None:
    knob = _KNOBS[key]
    assert (knob.flag, knob.variable, knob.default, knob.allowed) == (flag, variable, default, allowed)


SOURCES = [path.read_text() for path in Path(proxygen.__file__).parent.rglob("*.py") if path.parent.name != "settings"]


def test_every_setting_is_read() -> None:
    """A setting that is taken and forgotten would be obeyed by nothing, and nothing would say so."""
    assert _KNOBS.keys() - keys_read(SOURCES) == set()


@pytest.mark.parametrize("key", ["guard.listen", "network.settle", "bounds.hold", "consul.spare", "log.directory"])
def test_a_setting_that_nothing_reads_is_seen(key: str) -> None:
    """A namesake in another section, or a local name, counts for nothing."""
    assert key not in keys_read(SOURCES)


@pytest.mark.parametrize(
    "source",
    [
        "def f(settings: Settings) -> int:\n    return settings.guard.spare",
        "def f(settings: GuardSettings) -> int:\n    return settings.spare",
        "class One:\n    def f(self, g: GuardSettings) -> int:\n        self._g = g\n        return self._g.spare",
        "class One:\n    guard: GuardSettings\n    def f(self) -> int:\n        return self.guard.spare",
        "def f(settings: Settings) -> int:\n    mine, other = settings.guard, 1\n    return mine.spare",
    ],
)
def test_a_setting_is_seen_where_it_is_read(source: str) -> None:
    assert keys_read([source]) >= {"guard.spare"}


@pytest.mark.parametrize("knob", _KNOBS.values(), ids=lambda knob: str(knob.key))
def test_every_setting_is_explained_and_every_number_has_a_bound(knob: Knob) -> None:
    assert knob.help
    kinds = {knob.field.annotation, *get_args(knob.field.annotation)}
    if kinds & {int, float}:
        assert "at least" in knob.allowed or "more than" in knob.allowed


@pytest.mark.parametrize("knob", [knob for knob in knobs() if knob.is_duration], ids=lambda knob: str(knob.key))
@pytest.mark.parametrize("value", ["inf", "nan", "1e308", '"999999999999999d"', "315360001"])
def test_no_duration_is_longer_than_a_clock_can_bear(value: str, knob: Knob, tmp_path: Path) -> None:
    """An infinite time-out was a bug's exit code, and an infinite pause was taken."""
    assert f"{knob.key} = " in refusal(file=toml(tmp_path, f"[{knob.slice}]\n{knob.name} = {value}\n"))


@pytest.mark.parametrize("knob", list(knobs()), ids=lambda knob: str(knob.key))
def test_every_limit_of_a_knob_is_among_what_is_allowed(knob: Knob) -> None:
    limits = [item for item in knob.field.metadata if type(item).__module__ == "annotated_types"]
    assert len(re.findall(r"\b(?:more than|at least|at most) \d", knob.allowed)) == len(limits)


def test_kinds_of_knobs_are_told_apart() -> None:
    def keys(kind: str) -> set[str]:
        return {key for key, knob in _KNOBS.items() if getattr(knob, kind)}

    assert keys("is_secret") == {"consul.token", "consul.auth", "admin.token"}
    assert keys("is_table") == {"proxy.claims", "guard.minimum_instances"}
    assert {"consul.ssl", "network.docker_pools"} <= keys("is_boolean")
    assert {"reload.settle", "guard.hold"} <= keys("is_duration")
    assert not keys("is_duration") & {"guard.loss", "output.keep", "traffic.sample"}


@pytest.mark.parametrize("table", ["consul", "admin"])
def test_nothing_that_stands_beside_a_token_is_quoted(table: str, tmp_path: Path) -> None:
    text = refusal(file=toml(tmp_path, f'[{table}]\ntokn = "{SECRET}"\n'))
    assert SECRET not in text
    assert f"unknown key {table}.tokn = (hidden); [{table}] has " in text


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ('[proxy.claims]\n"*.example.com" = 3\n', "proxy.claims = 3 from settings file"),
        ("[guard.minimum_instances]\nweb = 0\n", "guard.minimum_instances = 0 from settings file"),
    ],
)
def test_a_wrong_value_in_a_table_is_told_by_the_tables_name(document: str, key: str, tmp_path: Path) -> None:
    assert refusal(file=toml(tmp_path, document)).startswith(key)


@pytest.mark.parametrize("key", sorted(RETIRED))
def test_a_setting_that_is_a_constant_now_is_accepted_and_told_wherever_it_stands(key: str, tmp_path: Path) -> None:
    """Whatever its value: it may have been one that was refused, and it may have been a secret."""
    slice_name, _, name = key.partition(".")
    file = toml(tmp_path, f"[{slice_name}]\n{name.replace('_', '-')} = 'some value'\n")
    found = [
        load({key: "some value"}, environment={}),
        load(environment={f"PROXYGEN_{key.replace('.', '_')}".upper(): "some value"}),
        load(environment={}, file=file),
    ]
    for settings in found:
        assert settings.model_dump() == Settings().model_dump()
        (remark,) = settings.remarks
        assert remark.startswith(f"{key} from ")
        assert "some value" not in remark


def test_no_setting_is_retired_and_alive() -> None:
    assert not set(RETIRED) & {knob.key for knob in knobs()}
    assert load(environment={}).remarks == ()
