"""What connectors of `dressage connect` have in common, whatever they lead from and to.

- `config`, `reading`: the file that declares them, and everything that can be wrong with it.
- `transforms`, `event_mapping`: from one record or output event to what is made of it, pure.
- `runner`: the process that runs them; `deployed`: those that are stored in the namespace.
- `offsets`: how far they are.

Nothing here needs an extra: the modules of a kind of connector are imported where one of it runs.
"""
