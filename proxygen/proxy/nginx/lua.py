"""Whether nginx has the Lua that servers and shares are pushed with: asked of the binary, with the modules that the
operator's configuration loads."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from proxygen.kit.errors import NginxUnavailable
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf, in_a_text
from proxygen.proxy.nginx.process import run
from proxygen.proxy.nginx.tokens import quote

DICTIONARY: Final = "proxygen"
"""The shared dictionary that holds what was pushed."""

_WORKS: Final = 43
_FAILS: Final = 44
_LOADING: Final = f"""
local works, reason = pcall(function()
    require "ngx.balancer"
    assert(require("resty.core.base").get_request)
    local ffi = require "ffi"
    ffi.cdef "uint32_t ngx_murmur_hash2(const char *data, size_t len);"
    assert(ffi.C.ngx_murmur_hash2("a", 1))
end)
if not works then
    io.stderr:write("lua: ", tostring(reason), "\\n")
end
os.exit(works and {_WORKS} or {_FAILS})
"""
NOT_LOADED: Final = "nginx does not load the http Lua module"
_UNKNOWN: Final = 'unknown directive "lua_shared_dict"'


async def missing_lua(binary: Binary, conf: OperatorConf, *, timeout: float) -> str:  # noqa: ASYNC109 - it ends nginx
    """Say why this nginx cannot be pushed to; "" where it can. It starts nginx, which ends before it listens."""
    with TemporaryDirectory(prefix="proxygen-lua-") as folder:
        path = Path(folder) / "nginx.conf"
        path.write_bytes(_configuration(conf, Path(folder)).encode("latin-1"))
        quiet = ("-e", "stderr") if binary.log_to_stderr_flag else ()
        command = (str(binary.path), *quiet, "-p", f"{conf.prefix}/", "-c", str(path))
        try:
            completed = await run(command, timeout=timeout)
        except NginxUnavailable as error:
            return str(error)
    if completed.returncode == _WORKS:
        return ""
    if _UNKNOWN in completed.output:
        return NOT_LOADED
    return f"nginx's Lua cannot be used: {' '.join(completed.output.split())[-300:]}"


def _configuration(conf: OperatorConf, folder: Path) -> str:
    modules = (item for item in conf.statements if not item.context and item.directive.name == "load_module")
    loaded = "".join(
        f"load_module {quote(item.directive.arguments[0])};\n" for item in modules if item.directive.arguments
    )
    own = {kind: quote(in_a_text(str(folder / kind))) for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")}
    return (
        f"{loaded}daemon off;\npid {quote(in_a_text(str(folder / 'nginx.pid')))};\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{''.join(f'{kind}_temp_path {path};' for kind, path in own.items())}\n"
        f"lua_shared_dict {DICTIONARY} 1m;\ninit_by_lua_block {{{_LOADING}}}\n}}\n"
    )


_HTTP: Final = ("http",)


def obstacle_to_push(conf: OperatorConf) -> str:
    """Say what of the operator's own Lua stands where ours must; "" where nothing does."""
    for item in conf.statements:
        name, place = item.directive.name, f"{item.file}:{item.directive.line}"
        if item.context != _HTTP:
            continue
        if name == "lua_shared_dict" and item.directive.arguments[:1] == (DICTIONARY,):
            return f"{place}: the dictionary {DICTIONARY} is proxygen's; give yours another name"
        if name.startswith(("init_by_lua", "log_by_lua")):
            return f"{place}: {name} may stand once, and proxygen needs it; " + (
                "move what it does into init_worker_by_lua_block"
                if name.startswith("init")
                else "move it into your own servers"
            )
        if name == "lua_code_cache" and item.directive.arguments[:1] == ("off",):
            return f"{place}: without lua_code_cache workers forget what was pushed; remove the line"
    return ""
