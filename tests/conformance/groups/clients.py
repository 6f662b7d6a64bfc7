"""Who the client is, and what of its headers the instance sees."""

from __future__ import annotations

from typing import Final

from proxygen.proxy.render.clients import VOUCHED
from tests.conformance.case import BALANCER, STRANGER, Case, Group, Outcome, Sent

_SETTINGS: Final = "AAMAAABkAARAAAAAAAIAAAAA"
"""What curl sends when it would rather speak HTTP/2."""

_CHAIN: Final = ", ".join(["198.51.100.7"] * 1499 + ["203.0.113.9"])

_FORGED: Final = ("Proxy", "X-Forwarded-Prefix", *VOUCHED)


def _replaced(name: str, forged: str, real: str) -> Case:
    return Case(
        name=f"forged-{name.lower()}",
        title=f"`{name}: {forged}`",
        sent=Sent(headers=(f"{name}: {forged}",)),
        expected=Outcome(reaches=(f"{name}: {real}",)),
        bare=Outcome(reaches=(f"{name}: {forged}",)),
        incident="T81",
    )


def _dropped(name: str) -> Case:
    return Case(
        name=f"forged-{name.lower()}",
        title=f"`{name}: /admin`",
        sent=Sent(headers=(f"{name}: /admin",)),
        expected=Outcome(without=(name,)),
        bare=Outcome(reaches=(f"{name}: /admin",)),
        incident="T81",
    )


STRANGERS: Final = Group(
    title="A stranger says who it is",
    text="The client's address is not in `proxy.trusted_proxies`: what it says of itself is replaced, or dropped.",
    cases=(
        Case(
            name="plain-request",
            title="`GET` without any of them",
            sent=Sent(),
            expected=Outcome(
                reaches=(
                    "Host: {host}",
                    f"X-Forwarded-For: {STRANGER}",
                    "X-Forwarded-Proto: {scheme}",
                    "X-Forwarded-Host: {host}",
                    "X-Forwarded-Port: {port}",
                    f"X-Real-IP: {STRANGER}",
                )
            ),
            bare=Outcome(
                reaches=("Host: {upstream}",),
                without=("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-IP"),
            ),
            incident="T81",
        ),
        _replaced("X-Forwarded-For", "203.0.113.9", STRANGER),
        _replaced("X-Forwarded-Proto", "gopher", "{scheme}"),
        _replaced("X-Forwarded-Host", "evil.example.org", "{host}"),
        _replaced("X-Forwarded-Port", "1", "{port}"),
        _replaced("X-Real-IP", "203.0.113.9", STRANGER),
        Case(
            name="forged-id",
            title="`X-Request-ID: forged-00001`",
            sent=Sent(headers=("X-Request-ID: forged-00001",)),
            expected=Outcome(reaches=("X-Request-ID: <id>",)),
            bare=Outcome(reaches=("X-Request-ID: forged-00001",)),
            incident="T81",
        ),
        Case(
            name="forged-twice",
            title="`X-Forwarded-For` on two lines",
            sent=Sent(headers=("X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 203.0.113.10")),
            expected=Outcome(reaches=(f"X-Forwarded-For: {STRANGER}",)),
            bare=Outcome(reaches=("X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 203.0.113.10")),
            incident="T81",
        ),
        *map(_dropped, ("Forwarded", *_FORGED)),
    ),
)


def _believed(name: str, said: str) -> Case:
    return Case(
        name=f"told-{name.lower()}",
        title=f"`{name}: {said}`",
        sent=Sent(headers=(f"{name}: {said}",), source=BALANCER),
        expected=Outcome(reaches=(f"{name}: {said}",)),
        bare=Outcome(reaches=(f"{name}: {said}",)),
        incident="T77",
    )


BALANCERS: Final = Group(
    title="A trusted balancer says who the client is",
    text=(
        f"`proxy.trusted_proxies = 127.0.9.0/24`, and the request comes from {BALANCER}: "
        "it is believed, whole and once."
    ),
    cases=(
        Case(
            name="told-x-forwarded-for",
            title="`X-Forwarded-For: 203.0.113.9`",
            sent=Sent(headers=("X-Forwarded-For: 203.0.113.9",), source=BALANCER),
            expected=Outcome(reaches=(f"X-Forwarded-For: 203.0.113.9, {BALANCER}", "X-Real-IP: 203.0.113.9")),
            bare=Outcome(reaches=("X-Forwarded-For: 203.0.113.9",), without=("X-Real-IP",)),
            incident="T77",
        ),
        Case(
            name="told-long",
            title="`X-Forwarded-For` with 1,500 addresses",
            sent=Sent(headers=(f"X-Forwarded-For: {_CHAIN}",), source=BALANCER),
            expected=Outcome(reaches=(f"X-Forwarded-For: {_CHAIN}, {BALANCER}", "X-Real-IP: 203.0.113.9")),
            bare=Outcome(status=400, times=0),
            incident="T77",
        ),
        Case(
            name="told-chain",
            title="`X-Forwarded-For: 198.51.100.7, 203.0.113.9`",
            sent=Sent(headers=("X-Forwarded-For: 198.51.100.7, 203.0.113.9",), source=BALANCER),
            expected=Outcome(
                reaches=(f"X-Forwarded-For: 198.51.100.7, 203.0.113.9, {BALANCER}", "X-Real-IP: 203.0.113.9")
            ),
            bare=Outcome(reaches=("X-Forwarded-For: 198.51.100.7, 203.0.113.9",)),
            incident="T77",
        ),
        Case(
            name="told-lines",
            title="`X-Forwarded-For` on two lines, `198.51.100.7` and `203.0.113.9`",
            sent=Sent(headers=("X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 203.0.113.9"), source=BALANCER),
            expected=Outcome(
                reaches=(f"X-Forwarded-For: 198.51.100.7, 203.0.113.9, {BALANCER}", "X-Real-IP: 203.0.113.9")
            ),
            bare=Outcome(reaches=("X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 203.0.113.9")),
            incident="T77",
        ),
        Case(
            name="told-nothing",
            title="none of them",
            sent=Sent(source=BALANCER),
            expected=Outcome(
                reaches=(
                    f"X-Forwarded-For: {BALANCER}",
                    "X-Forwarded-Proto: {scheme}",
                    "X-Forwarded-Host: {host}",
                    "X-Forwarded-Port: {port}",
                    f"X-Real-IP: {BALANCER}",
                )
            ),
            bare=Outcome(without=("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port")),
            incident="T77",
        ),
        _believed("X-Forwarded-Proto", "https"),
        _believed("X-Forwarded-Host", "shop.example.org"),
        _believed("X-Forwarded-Port", "443"),
        _believed("X-Forwarded-Prefix", "/shop"),
        _believed("X-Original-URL", "/shop/cart"),
        Case(
            name="told-https",
            title="`X-Forwarded-Proto: https`; `redirect-https=true`",
            sent=Sent(headers=("X-Forwarded-Proto: https",), source=BALANCER),
            tags=("redirect-https=true",),
            expected=Outcome(reaches=("X-Forwarded-Proto: https",)),
            bare=None,
            incident="T77",
        ),
        Case(
            name="told-http",
            title="`X-Forwarded-Proto: http`; `redirect-https=true`",
            sent=Sent(headers=("X-Forwarded-Proto: http",), source=BALANCER),
            tags=("redirect-https=true",),
            expected=Outcome(status=308, times=0, answer=("Location: https://{host}*",)),
            bare=None,
            incident="T77",
        ),
        Case(
            name="told-outer-host",
            title="`X-Forwarded-Proto: http`, `X-Forwarded-Host: shop.example.org`; `redirect-https=true`",
            sent=Sent(headers=("X-Forwarded-Proto: http", "X-Forwarded-Host: shop.example.org"), source=BALANCER),
            tags=("redirect-https=true",),
            expected=Outcome(status=308, times=0, answer=("Location: https://shop.example.org/*",)),
            bare=None,
            incident="T77",
        ),
        Case(
            name="told-prefix",
            title="`X-Forwarded-Proto: https`; `strip-prefix=true`; the answer has `Location: /login`",
            sent=Sent(
                target="/api/page", headers=("X-Forwarded-Proto: https",), source=BALANCER, does="location:/login"
            ),
            tags=("strip-prefix=true",),
            path="/api",
            expected=Outcome(status=302, answer=("Location: /api/login",)),
            bare=None,
            incident="T77",
        ),
        Case(
            name="told-prefix-host",
            title="`X-Forwarded-Host: shop.example.org`; `strip-prefix=true`; `Location: https://shop.example.org/login`",
            sent=Sent(
                target="/api/page",
                headers=("X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example.org"),
                source=BALANCER,
                does="location:https://shop.example.org/login",
            ),
            tags=("strip-prefix=true",),
            path="/api",
            expected=Outcome(status=302, answer=("Location: https://shop.example.org/api/login",)),
            bare=None,
            incident="T82",
        ),
        Case(
            name="told-id",
            title="`X-Request-ID: balancer-0001`",
            sent=Sent(headers=("X-Request-ID: balancer-0001",), source=BALANCER),
            expected=Outcome(reaches=("X-Request-ID: balancer-0001",)),
            bare=Outcome(reaches=("X-Request-ID: balancer-0001",)),
            incident="T77",
        ),
        Case(
            name="told-two-hops",
            title="`X-Forwarded-For: 203.0.113.9, 127.0.9.2`, both balancers trusted",
            sent=Sent(headers=("X-Forwarded-For: 203.0.113.9, 127.0.9.2",), source=BALANCER),
            expected=Outcome(
                reaches=(f"X-Forwarded-For: 203.0.113.9, 127.0.9.2, {BALANCER}", "X-Real-IP: 203.0.113.9")
            ),
            bare=Outcome(reaches=("X-Forwarded-For: 203.0.113.9, 127.0.9.2",)),
            incident="T77",
        ),
        Case(
            name="told-cookie",
            title="`X-Forwarded-Proto: https`; `sticky=cookie`",
            sent=Sent(headers=("X-Forwarded-Proto: https",), source=BALANCER),
            tags=("sticky=cookie",),
            second=("canary=50%",),
            expected=Outcome(answer=("Set-Cookie: *; Secure",)),
            bare=None,
            incident="T77",
        ),
        Case(
            name="told-forwarded",
            title="`Forwarded: for=203.0.113.9;proto=https`",
            sent=Sent(headers=("Forwarded: for=203.0.113.9;proto=https",), source=BALANCER),
            expected=Outcome(reaches=(f"Forwarded: for=203.0.113.9;proto=https, for={BALANCER}",)),
            bare=Outcome(reaches=("Forwarded: for=203.0.113.9;proto=https",)),
            incident="T77",
        ),
        Case(
            name="told-https-hsts",
            title="`X-Forwarded-Proto: https`; `hsts=true`",
            sent=Sent(headers=("X-Forwarded-Proto: https",), source=BALANCER),
            tags=("hsts=true",),
            expected=Outcome(answer=("Strict-Transport-Security: *",)),
            bare=None,
            incident="T77",
        ),
    ),
)

HOSTS: Final = Group(
    title="Host",
    text=(
        "The instance sees the host that the client asked for, with its port. A client of HTTP/1.0 may name none: it is"
        " answered by a route for any host, and the instance sees the address that the client reached, such as"
        " `203.0.113.7` or `203.0.113.7:8080` (a bare nginx says the first `server_name`)."
    ),
    cases=(
        Case(
            name="host-port",
            title="`Host: app.example.com:20000`",
            sent=Sent(headers=("Host: {host}:20000",)),
            expected=Outcome(reaches=("Host: {host}:20000",)),
            bare=Outcome(reaches=("Host: {upstream}",)),
            incident="T78",
        ),
        Case(
            name="host-capitals",
            title="`Host: APP.example.com`",
            sent=Sent(headers=("Host: {HOST}",)),
            expected=Outcome(times=1),
            bare=Outcome(reaches=("Host: {upstream}",)),
            incident="T78",
        ),
        Case(
            name="host-in-target",
            title="`GET http://app.example.com/page` with `Host: evil.example.org`",
            sent=Sent(target="http://{host}/page", headers=("Host: evil.example.org",)),
            expected=Outcome(line="GET /page", reaches=("Host: {host}",)),
            bare=Outcome(line="GET /page", reaches=("Host: {upstream}",)),
            ways=("http", "tls"),
            incident="T78",
        ),
    ),
)


def _prefixed(name: str, title: str, does: str, answer: str) -> Case:
    header = does.partition(":")[0]
    names = {"location": "Location", "cookie": "Set-Cookie"}
    return Case(
        name=f"prefix-{name}",
        title=f"`GET /api/page`; the answer has `{names[header]}: {title}`",
        sent=Sent(target="/api/page", does=does),
        tags=("strip-prefix=true",),
        path="/api",
        expected=Outcome(status=302 if header == "location" else 200, answer=(f"{names[header]}: {answer}",)),
        bare=None,
        incident="T82",
    )


PREFIXES: Final = Group(
    title="A prefix that is taken off",
    text=(
        "The route is `app.example.com/api` with `strip-prefix=true`: the rest of the path goes on as the client wrote "
        "it, and what the instance answers gets the prefix back. A path that does not begin with the prefix, or "
        "that its dot segments lead elsewhere, goes on as nginx resolved it to find the route, decoded and with single "
        "slashes. gRPC always gets that form."
    ),
    cases=(
        Case(
            name="prefix-told",
            title="`GET /api/page`",
            sent=Sent(target="/api/page"),
            tags=("strip-prefix=true",),
            path="/api",
            expected=Outcome(line="GET /page", reaches=("X-Forwarded-Prefix: /api",)),
            bare=None,
            incident="T82",
        ),
        Case(
            name="prefix-alone",
            title="`GET /api`",
            sent=Sent(target="/api"),
            tags=("strip-prefix=true",),
            path="/api",
            expected=Outcome(line="GET /", reaches=("X-Forwarded-Prefix: /api",)),
            bare=None,
            incident="T82",
        ),
        *(
            Case(
                name=f"prefix-{name}",
                title=f"`{method} /api/a%20b{title}`",
                sent=Sent(method=method, target="/api/a%20b", headers=headers),
                tags=("strip-prefix=true",),
                path="/api",
                expected=Outcome(line=f"{method} /a%20b", reaches=("X-Forwarded-Prefix: /api",)),
                bare=None,
                incident="T82",
            )
            for name, method, headers, title in (
                ("get-space", "GET", (), ""),
                ("put-space", "PUT", (), ""),
                ("events-space", "GET", ("Accept: text/event-stream",), "` with `Accept: text/event-stream"),
            )
        ),
        Case(
            name="prefix-slash",
            title="`GET /api/a%2Fb`",
            sent=Sent(target="/api/a%2Fb"),
            tags=("strip-prefix=true",),
            path="/api",
            expected=Outcome(line="GET /a%2Fb", reaches=("X-Forwarded-Prefix: /api",)),
            bare=None,
            incident="T43",
        ),
        *(
            Case(
                name=f"prefix-raw-{name}",
                title=f"`{method} {target}`" + "".join(f" with `{header}`" for header in headers),
                sent=Sent(method=method, target=target, headers=headers),
                tags=("strip-prefix=true",),
                path="/api",
                expected=Outcome(line=f"{method} {reaches}"),
                bare=None,
                ways=("http", "h2"),
                incident="T43",
            )
            for name, method, target, reaches, headers in (
                ("slashes", "GET", "/api//x", "//x", ()),
                ("slashes-put", "PUT", "/api//x", "//x", ()),
                ("slashes-events", "GET", "/api//x", "//x", ("Accept: text/event-stream",)),
                ("address", "GET", "/api/http%3A%2F%2Fh%2F", "/http%3A%2F%2Fh%2F", ()),
                ("question", "GET", "/api/a%3Fb%23c?q=%2F&r=a+b", "/a%3Fb%23c?q=%2F&r=a+b", ()),
                ("plus", "GET", "/api/a+b%2B%25%20~%7E;p=1", "/a+b%2B%25%20~%7E;p=1", ()),
                ("bytes", "GET", "/api/%C3%A9%FF%0a", "/%C3%A9%FF%0a", ()),
                ("query", "GET", "/api?q=1", "/?q=1", ()),
                ("query-dots", "GET", "/api/x?q=/../y", "/x?q=/../y", ()),
                ("alone-slash", "GET", "/api/", "/", ()),
                ("encoded-prefix", "GET", "/%61p%69/a%2Fb", "/a%2Fb", ()),
                # What leads elsewhere when it is resolved goes on as nginx resolved it to find the route.
                ("dots", "GET", "/api/x/../../api/y%2Fz", "/y/z", ()),
                ("dots-encoded", "GET", "/api/%2e%2E/api/y", "/y", ()),
                ("dots-hidden", "GET", "/api/x%2f..%2fy", "/y", ()),
                ("dots-end", "GET", "/api/x/..", "/", ()),
                ("dots-before", "GET", "/else/../api/a%2Fb", "/a/b", ()),
                ("slashes-before", "GET", "//api//x", "/x", ()),
                ("slash-encoded-after", "GET", "/api%2Fx", "/x", ()),
                ("no-dots", "GET", "/api/..x/.../y..", "/..x/.../y..", ()),
            )
        ),
        Case(
            name="prefix-trusted",
            title="`GET /api/page` with `X-Forwarded-Prefix: /shop`, from a trusted balancer",
            sent=Sent(target="/api/page", headers=("X-Forwarded-Prefix: /shop",), source=BALANCER),
            tags=("strip-prefix=true",),
            path="/api",
            expected=Outcome(line="GET /page", reaches=("X-Forwarded-Prefix: /shop/api",)),
            bare=None,
            incident="T82",
        ),
        Case(
            name="prefix-forged",
            title="`GET /api/page` with `X-Forwarded-Prefix: /shop`, from a stranger",
            sent=Sent(target="/api/page", headers=("X-Forwarded-Prefix: /shop",)),
            tags=("strip-prefix=true",),
            path="/api",
            expected=Outcome(line="GET /page", reaches=("X-Forwarded-Prefix: /api",)),
            bare=None,
            incident="T82",
        ),
        _prefixed("location", "/login", "location:/login", "/api/login"),
        _prefixed("location-has", "/api/login", "location:/api/login", "/api/login"),
        _prefixed("location-alike", "/apiary", "location:/apiary", "/api/apiary"),
        _prefixed(
            "location-else",
            "https://elsewhere.example.org/",
            "location:https://elsewhere.example.org/",
            "https://elsewhere.example.org/",
        ),
        _prefixed(
            "location-other-host",
            "//elsewhere.example.org/",
            "location://elsewhere.example.org/",
            "//elsewhere.example.org/",
        ),
        *(
            _prefixed(
                f"location-own-{name}", f"http://app.example.com{said}", f"location:{own}{said}", f"{own}{wanted}"
            )
            for name, own, said, wanted in (
                ("a", "http://prefix-location-own-a.req.example.com", "/login", "/api/login"),
                ("b", "http://prefix-location-own-b.req.example.com", "/api/login", "/api/login"),
                ("c", "http://prefix-location-own-c.req.example.com", "/api", "/api"),
                ("d", "http://prefix-location-own-d.req.example.com", "/apiary", "/api/apiary"),
                ("e", "http://prefix-location-own-e.req.example.com", "/", "/api/"),
            )
        ),
        _prefixed("location-relative", "login", "location:login", "login"),
        _prefixed("location-query", "/login?next=/x", "location:/login%3Fnext=/x", "/api/login?next=/x"),
        _prefixed("cookie", "a=b; Path=/", "cookie:a=b%3B%20Path=/", "a=b; Path=/api"),
        _prefixed("cookie-deep", "a=b; Path=/x", "cookie:a=b%3B%20Path=/x", "a=b; Path=/api/x"),
        _prefixed("cookie-has", "a=b; Path=/api", "cookie:a=b%3B%20Path=/api", "a=b; Path=/api"),
    ),
)


def _hop(name: str, value: str, *, dropped_by: tuple[str, ...] = ()) -> Case:
    """``dropped_by``: which bare nginx drop it too, "old" or "new"."""
    passes = Outcome(reaches=(f"{name}: {value}",))
    drops = Outcome(without=(name,))
    return Case(
        name=f"hop-{name.lower()}",
        title=f"`{name}: {value}`",
        sent=Sent(headers=(f"{name}: {value}",)),
        expected=Outcome(without=(name,)),
        bare=drops if "new" in dropped_by else passes,
        bare_old=drops if "old" in dropped_by else passes,
        ways=("http", "tls"),
        incident="T86",
    )


HOP_BY_HOP: Final = Group(
    title="What is meant for the next hop only",
    text=(
        "nginx cannot drop a header whose name it does not know beforehand: a request that names one in `Connection` "
        "is refused."
    ),
    cases=(
        _hop("Keep-Alive", "timeout=5", dropped_by=("old", "new")),
        _hop("Proxy-Connection", "keep-alive", dropped_by=("new",)),
        _hop("TE", "trailers", dropped_by=("old", "new")),
        _hop("HTTP2-Settings", _SETTINGS),
        Case(
            name="connection-keep-alive",
            title="`Connection: keep-alive`",
            sent=Sent(headers=("Connection: keep-alive",)),
            expected=Outcome(),
            bare=Outcome(),
            ways=("http", "tls"),
            incident="T86",
        ),
        Case(
            name="connection-close",
            title="`Connection: close`",
            sent=Sent(headers=("Connection: close",)),
            expected=Outcome(answer=("Connection: close",)),
            bare=Outcome(answer=("Connection: close",)),
            ways=("http", "tls"),
            incident="T86",
        ),
        Case(
            name="connection-te",
            title="`Connection: TE` and `TE: trailers`",
            sent=Sent(headers=("Connection: TE", "TE: trailers")),
            expected=Outcome(without=("TE",)),
            bare=Outcome(without=("TE",)),
            ways=("http", "tls"),
            incident="T86",
        ),
        Case(
            name="connection-h2c",
            title="`Connection: Upgrade, HTTP2-Settings` with `Upgrade: h2c`",
            sent=Sent(
                headers=(
                    "Connection: Upgrade, HTTP2-Settings",
                    "Upgrade: h2c",
                    f"HTTP2-Settings: {_SETTINGS}",
                )
            ),
            expected=Outcome(without=("Upgrade", "HTTP2-Settings")),
            bare=Outcome(without=("Upgrade",), reaches=(f"HTTP2-Settings: {_SETTINGS}",)),
            ways=("http", "tls"),
            incident="T86",
        ),
        Case(
            name="connection-names",
            title="`Connection: close, X-Secret` and `X-Secret: 1`",
            sent=Sent(headers=("Connection: close, X-Secret", "X-Secret: 1")),
            expected=Outcome(status=400, times=0),
            bare=Outcome(reaches=("X-Secret: 1",)),
            ways=("http", "tls"),
            incident="T86",
        ),
        Case(
            name="connection-twice",
            title="`Connection: close`, `Connection: X-Secret` and `X-Secret: 1`",
            sent=Sent(headers=("Connection: close", "Connection: X-Secret", "X-Secret: 1")),
            expected=Outcome(status=400, times=0),
            # It tells a configuration of the first line only.
            old=Outcome(reaches=("X-Secret: 1",)),
            bare=Outcome(reaches=("X-Secret: 1",)),
            ways=("http", "tls"),
            incident="T86",
        ),
        Case(
            name="connection-empty",
            title="`Connection: , Keep-Alive,,  close `",
            sent=Sent(headers=("Connection: , Keep-Alive,,  close ",)),
            expected=Outcome(),
            bare=Outcome(),
            ways=("http", "tls"),
            incident="T86",
        ),
        Case(
            name="connection-long",
            title="`Connection: close` 4,000 times in one line",
            sent=Sent(headers=("Connection: " + "close, " * 4000 + "close",)),
            expected=Outcome(),
            bare=Outcome(status=400, times=0),
            ways=("http", "tls"),
            incident="T86",
        ),
        Case(
            name="connection-long-names",
            title="`Connection: X-Secret` behind 4,000 times `close`",
            sent=Sent(headers=("Connection: " + "close, " * 4000 + "X-Secret", "X-Secret: 1")),
            expected=Outcome(status=400, times=0),
            bare=Outcome(status=400, times=0),
            ways=("http", "tls"),
            incident="T86",
        ),
        Case(
            name="connection-upgrade",
            title="`Connection: keep-alive, Upgrade` with `Upgrade: websocket`",
            sent=Sent(headers=("Connection: keep-alive, Upgrade", "Upgrade: websocket"), does="status:404"),
            expected=Outcome(status=404, reaches=("Upgrade: websocket", "Connection: upgrade")),
            bare=Outcome(status=404, without=("Upgrade",)),
            ways=("http", "tls"),
            incident="T86",
        ),
        Case(
            name="connection-real-ip",
            title="`Connection: close, X-Forwarded-For`",
            sent=Sent(headers=("Connection: close, X-Forwarded-For",)),
            expected=Outcome(status=400, times=0),
            bare=Outcome(),
            ways=("http", "tls"),
            incident="T86",
        ),
    ),
)


def _loop(name: str, title: str, sent: str, expected: Outcome) -> Case:
    headers = (f"CDN-Loop: {sent}",) if sent else ()
    bare = Outcome(reaches=headers) if sent else Outcome(without=("CDN-Loop",))
    return Case(name=f"loop-{name}", title=title, sent=Sent(headers=headers), expected=expected, bare=bare)


def _passed(value: str) -> Outcome:
    return Outcome(reaches=(f"CDN-Loop: {value}",))


_SEVEN: Final = ", ".join(["proxygen"] * 7)

LOOPS: Final = Group(
    title="Loops",
    text=(
        "Where an instance's address leads back here by a load balancer or another proxy, a request would go round"
        " until nginx has no connection left. Each proxygen adds its name to `CDN-Loop` (RFC 8586), and a request that"
        " has come through eight of them ends. A chain of fewer is served. nginx 1.22 reads the first line of this"
        " header only."
    ),
    cases=(
        _loop("first", "`GET`", "", _passed("proxygen")),
        _loop(
            "others",
            '`CDN-Loop: cdn.example; trace="a"`',
            'cdn.example; trace="a"',
            _passed('cdn.example; trace="a", proxygen'),
        ),
        Case(
            name="loop-lines",
            title="`CDN-Loop` on two lines, `a` and `b`",
            sent=Sent(headers=("CDN-Loop: a", "CDN-Loop: b")),
            expected=_passed("a, b, proxygen"),
            old=_passed("a, proxygen"),
            bare=Outcome(reaches=("CDN-Loop: a", "CDN-Loop: b")),
        ),
        _loop("seven", "`CDN-Loop` with `proxygen` seven times", _SEVEN, _passed(f"{_SEVEN}, proxygen")),
        _loop(
            "eight",
            "`CDN-Loop` with `proxygen` eight times",
            f"{_SEVEN}, proxygen",
            Outcome(status=508, times=0, says=("508",)),
        ),
        _loop(
            "among-others",
            "Eight times, among others and with parameters",
            ",".join(["a; b=c", "proxygen ;d=e"] * 8),
            Outcome(status=508, times=0),
        ),
        _loop(
            "alike",
            "Names that begin or end alike",
            ", ".join(["proxygen.example", "my-proxygen", "a;by=proxygen"] * 8),
            Outcome(times=1),
        ),
    ),
)
