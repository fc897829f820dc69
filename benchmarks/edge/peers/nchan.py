"""nchan: nginx with a module for publish and subscribe, in C. One worker, as each of its peers is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.edge.peers.debian import environment, unpacked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ops.settings import Settings

_CONFIG: Final = """\
load_module {root}/usr/lib/nginx/modules/ngx_nchan_module.so;
worker_processes 1;
daemon off;
{user}pid {folder}/pid;
error_log {folder}/error.log warn;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
http {{
  access_log off;
  {temporary}
  nchan_max_reserved_memory 512M;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location ~ ^/publish/(.+)$ {{
      nchan_publisher; nchan_channel_id $1; nchan_message_buffer_length 1000; nchan_message_timeout 1m;
    }}
    location ~ ^/(.+)$ {{ nchan_subscriber eventsource; nchan_channel_id $1; }}
  }}
}}
"""


def command(
    settings: Settings, folder: Path, port: int, files_max: int, *, root_user: bool
) -> tuple[list[str], Mapping[str, str]]:
    """Return what starts it, and its environment; raises NoPackage."""
    root = unpacked(settings, "nginx", "libnginx-mod-nchan")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    config = folder / "nginx.conf"
    text = _CONFIG.format(
        root=root, folder=folder, port=port, files=files_max,
        user="user root;\n" if root_user else "",
        temporary=" ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds),
    )  # fmt: skip
    config.write_text(text, "utf-8")
    return [str(root / "usr/sbin/nginx"), "-p", str(folder), "-c", str(config)], environment(root)
