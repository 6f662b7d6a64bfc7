from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.errors import SettingsError
from proxygen.settings import CONSUL_VARIABLES, Settings, knobs, load
from proxygen.settings.slices import ConsulSettings

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


def test_a_table_of_claims_comes_from_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, '[proxy.claims]\n"*.pay.example.com" = ["billing", "billing-*"]\n')
    assert load(environment={}, file=file).proxy.claims == {"*.pay.example.com": ("billing", "billing-*")}


def test_unknown_key_names_the_key_the_value_and_what_is_allowed(tmp_path: Path) -> None:
    text = refusal(file=toml(tmp_path, "[output]\nkeeep = 3\n"))
    assert "output.keeep = 3" in text
    assert "directory, keep" in text


def test_unknown_table_names_the_tables(tmp_path: Path) -> None:
    text = refusal(file=toml(tmp_path, "[outputs]\nkeep = 3\n"))
    assert "outputs" in text
    assert "consul, proxy, nginx, output, reload, guard, admin, traffic, registrator, network, log" in text


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
def test_the_documented_default_reads_back_as_the_default(knob: object) -> None:
    """A user who writes the default that the reference shows changes nothing."""
    from proxygen.settings import Knob

    assert isinstance(knob, Knob)
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
