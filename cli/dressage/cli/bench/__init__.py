"""The benchmark: prints what it measured on the machine it ran on."""

from dressage.cli.bench.command import bench

__all__ = ["bench"]
