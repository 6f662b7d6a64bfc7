"""What nginx tells the sidecar of each request."""

from __future__ import annotations

from proxygen.kit.templating import Expression, Variable
from proxygen.proxy.render.notation import percent
from proxygen.proxy.render.surroundings import TrafficLog
from proxygen.proxy.render.views import MapLine, MapView, Piece, SplitView, TrafficView
from proxygen.tags.shares import WHOLE


def traffic_view(traffic: TrafficLog) -> TrafficView:
    upstream, heard, sampled = (Variable(f"proxygen_{name}") for name in ("upstream", "heard", "sampled"))
    splits: tuple[SplitView, ...] = ()
    source, both = Expression((heard,)), "1"
    if traffic.sample < WHOLE:
        # Not the key of any service's split, by which a variant would be told of more often than another.
        key = Expression((Variable("request_id"), "proxygen_traffic"))
        piece = Piece(percent=percent(traffic.sample), value="1")
        splits = (SplitView(key=key, variable=sampled, pieces=(piece,), rest=""),)
        source, both = Expression((heard, sampled)), "11"
    status, times, servers = (Variable(name) for name in ("status", "upstream_response_time", "upstream_addr"))
    fields = (f"{traffic.sample} ", upstream, " ", status, " ", times, " | ", servers)
    return TrafficView(
        line=Expression(fields),
        splits=splits,
        told=MapView(
            source=source,
            variable=Variable("proxygen_told"),
            default="",
            lines=(MapLine(match=both, value=upstream),),
        ),
        default_logs=() if traffic.default_log is None else (traffic.default_log,),
        log=f"syslog:server=unix:{traffic.socket},nohostname,tag=proxygen",
    )
