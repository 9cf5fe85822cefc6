"""`make fuzz`: the targets under atheris, which looks for inputs that reach code not reached before.

Each target runs in a process of its own, because a fuzzer ends its process. What it finds is written into a folder,
one file for each input that breaks a promise or hangs; `--replay FILE` runs a target on it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

HANG_S: Final = 20
BYTES_MAX: Final = 4_096
ROOT: Final = Path(__file__).resolve().parents[2]
EVERY: Final = "every"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="names of targets; all of them unless given")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument(
        "--found", type=Path, default=Path("build/fuzz"), help="where findings and corpora go"
    )
    parser.add_argument("--together", action="store_true", help="all targets in one process: a short look")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one target on one input")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print(f"atheris is not installed for Python {sys.version.split()[0]} here: nothing was fuzzed")
        return 0
    if options.inside is not None:
        return fuzz(options.inside, options.seconds, options.found)
    sys.path.insert(0, str(ROOT))
    from tests.fuzz.targets import TARGETS  # pyright: ignore[reportMissingImports]

    wanted = options.targets or list(TARGETS)
    unknown = [name for name in wanted if name not in TARGETS]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if options.replay is not None:
        TARGETS[wanted[0]].target(options.replay.read_bytes())
        print("the promise holds")
        return 0
    well = [ran(name, options) for name in ([EVERY] if options.together else wanted)]
    return 0 if all(well) else 1


def ran(name: str, options: argparse.Namespace) -> bool:
    """Fuzzes one target in a process of its own; False if it found something."""
    command = [sys.executable, __file__, "--inside", name, "--seconds", str(options.seconds)]
    done = subprocess.run(
        [*command, "--found", str(options.found)], capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    figures = next((line for line in reversed(lines) if line.startswith("Done ")), "")
    print(
        f"{name}: {figures or 'found something' if done.returncode == 0 or not figures else 'found something'}"
    )
    if done.returncode:
        print("\n".join(lines[-60:]))
    return done.returncode == 0


def fuzz(name: str, seconds: int, found: Path) -> int:
    """Ends the process with the fuzzer's own exit code."""
    atheris: Any = importlib.import_module("atheris")  # It must come before what it instruments.
    with atheris.instrument_imports(include=["dressage", "tests.fuzz"]):
        sys.path.insert(0, str(ROOT))
        from tests.fuzz import targets  # pyright: ignore[reportMissingImports]
    fuzzed = targets.EVERY if name == EVERY else targets.TARGETS[name]
    folder = found / name.replace(" ", "-")
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(fuzzed.seeds):
            (Path(seeds) / str(number)).write_bytes(seed)
        arguments = [
            *("fuzz", str(corpus), seeds, f"-max_total_time={seconds}", f"-timeout={HANG_S}"),
            *(
                f"-max_len={BYTES_MAX}",
                f"-artifact_prefix={folder}/",
                "-rss_limit_mb=2048",
                "-print_final_stats=1",
            ),
        ]
        atheris.Setup(arguments, fuzzed.target)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
