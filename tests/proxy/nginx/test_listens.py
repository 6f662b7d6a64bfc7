"""Where a generation has nginx listen."""

from __future__ import annotations

from pathlib import Path

from proxygen.proxy.nginx.listens import listens_of

HTTP = """\
server {
    listen 80 default_server;
    listen [::]:443 ssl http2;
    server_name listen.example.com;
    location /x/listen { return 200 "listening 81"; }
}
map $host $to {
    x.listen 127.0.0.1;
    y.listen 8081;
}
server {
    listen unix:/run/a.sock;
}
"""
STREAM = """\
server {
    listen 53 udp;
    listen 53;
    listen 127.0.0.1:5000 reuseport udp;
}
"""


def test_every_address_is_found_with_its_kind(tmp_path: Path) -> None:
    (tmp_path / "http.d").mkdir()
    (tmp_path / "stream.d").mkdir()
    (tmp_path / "http.d/site.conf").write_text(HTTP)
    (tmp_path / "stream.d/dns.conf").write_text(STREAM)
    found = {
        context: {str(one) for each in said for one in each.addresses} for context, said in listens_of(tmp_path).items()
    }
    assert found == {
        "http": {"0.0.0.0:80", "[::]:443", "unix:/run/a.sock"},
        "stream": {"0.0.0.0:53/udp", "0.0.0.0:53", "127.0.0.1:5000/udp"},
    }


def test_nothing_is_listened_on_where_nothing_is(tmp_path: Path) -> None:
    assert not any(listens_of(tmp_path).values())
