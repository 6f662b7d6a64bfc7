"""What of the operator's own Lua is in the way of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxygen.proxy.nginx.lua import obstacle_to_push
from tests.proxy.conftest import ReadConf

HTTP = "http {{\n{}\ninclude OUTPUT/current/http.d/*.conf;\n}}\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lua_shared_dict proxygen 1m;", "the dictionary proxygen is proxygen's; give yours another name"),
        ("init_by_lua_block { x = 1 }", "init_by_lua_block may stand once"),
        ("init_by_lua_file init.lua;", "init_by_lua_file may stand once"),
        ("log_by_lua_block { x = 1 }", "log_by_lua_block may stand once"),
        ("lua_code_cache off;", "without lua_code_cache"),
    ],
)
def test_what_is_in_the_way_is_named_with_its_place(read_conf: ReadConf, etc: Path, line: str, said: str) -> None:
    found = obstacle_to_push(read_conf(HTTP.format(line)))
    assert found.startswith(f"{etc / 'nginx.conf'}:2: ")
    assert said in found


@pytest.mark.parametrize(
    "line",
    [
        "lua_shared_dict theirs 1m;",
        "init_worker_by_lua_block { x = 1 }",
        "lua_code_cache on;",
        "lua_package_path '/srv/?.lua;;';",
        "server { log_by_lua_block { x = 1 } }",
        "server { location / { access_by_lua_block { x = 1 } } }",
    ],
)
def test_other_lua_of_theirs_stays_beside_ours(read_conf: ReadConf, line: str) -> None:
    assert obstacle_to_push(read_conf(HTTP.format(line))) == ""
