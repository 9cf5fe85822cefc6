"""Options that many commands share."""

from __future__ import annotations

import getpass
import os
from typing import Final

import click

from dressage.protocol.names import check_name

DEFAULT_SERVER: Final = "nats://127.0.0.1:4222"

server = click.option(
    "--server",
    envvar="DRESSAGE_SERVER",
    default=DEFAULT_SERVER,
    show_default=True,
    show_envvar=True,
    help="Address of a NATS server; those of a cluster with commas between.",
)


def _checked(_: click.Context, __: click.Parameter, value: str) -> str:
    """Refuses a name that no server has to be asked about."""
    return check_name(value, "namespace")


namespace = click.option(
    "--namespace",
    callback=_checked,
    envvar="DRESSAGE_NAMESPACE",
    default="default",
    show_default=True,
    show_envvar=True,
    help="The slice of the server to work in.",
)
metrics_port = click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Serve Prometheus metrics on this port, and /healthz and /readyz.",
)
metrics_host = click.option(
    "--metrics-host",
    default="127.0.0.1",
    show_default=True,
    help="Where the metrics are served: loopback only, unless told otherwise.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def whoami() -> str:
    """The actor to name when the caller names none."""
    named = os.environ.get("DRESSAGE_ACTOR")
    if named:
        return named
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"uid-{os.getuid()}"


actor = click.option("--actor", default=whoami, show_default="your user name", help="Who asks for it.")
