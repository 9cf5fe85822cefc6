"""The words that cross a process border: specs, commands, events, names, errors.

This package imports msgspec and nothing else of ours; every other package may import it.
"""
