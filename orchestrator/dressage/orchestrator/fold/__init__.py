"""The pure core: commands in, effects and events out. Imports no clock, no I/O, no randomness, no broker."""
