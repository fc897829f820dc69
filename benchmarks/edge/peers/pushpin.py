"""Pushpin: a proxy that holds clients for an origin; processes in Rust and C++, the origin in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.edge.peers.debian import environment, unpacked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ops.settings import Settings

# Its limit of deliveries a second is lifted: by default it would hold back what comes faster.
_CONFIG: Final = """\
[global]
include={folder}/internal.conf
rundir={folder}
ipc_prefix=p-
port_offset=0
[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:{port}
logdir={folder}
log_level=1
client_buffer_size=8192
client_maxconn={files}
condure_bin={root}/usr/bin/condure
[proxy]
routesfile={folder}/routes
sig_key=bench
updates_check=off
[handler]
push_in_spec=ipc://{folder}/p-push
push_in_http_addr=127.0.0.1
push_in_http_port={publish_port}
stats_spec=ipc://{folder}/p-stats
command_spec=ipc://{folder}/p-command
message_rate=100000000
message_hwm=10000000
"""
_ZURL: Final = """\
[General]
in_spec=ipc://{folder}/p-zurl-in
in_stream_spec=ipc://{folder}/p-zurl-in-stream
out_spec=ipc://{folder}/p-zurl-out
defpolicy=allow
max_open_requests=2000
buffer_size=200000
timeout=600
in_hwm=1000
out_hwm=1000
"""


def commands(
    settings: Settings, folder: Path, port: int, publish_port: int, origin_port: int, files_max: int
) -> tuple[list[list[str]], Mapping[str, str]]:
    """Return what starts its helper and itself, and their environment; raises NoPackage."""
    root = unpacked(settings, "pushpin")
    internal = (root / "usr/lib/pushpin/internal.conf").read_text("utf-8")
    places = {"folder": folder, "root": root, "port": port, "publish_port": publish_port, "files": files_max}
    for name, text in (
        ("internal.conf", internal.replace("/var/run/zurl/", "{rundir}/{ipc_prefix}")),
        ("zurl.conf", _ZURL.format(**places)),
        ("pushpin.conf", _CONFIG.format(**places)),
        ("routes", f"* 127.0.0.1:{origin_port}\n"),
    ):
        (folder / name).write_text(text, "utf-8")
    programs = root / "usr/bin"
    return [
        [str(programs / "zurl"), f"--config={folder}/zurl.conf"],
        [str(programs / "pushpin"), f"--config={folder}/pushpin.conf"],
    ], environment(root)
