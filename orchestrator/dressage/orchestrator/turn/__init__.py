"""The turn: commands in, one atomic commit, then events, states and acknowledgements behind it, in that order."""
