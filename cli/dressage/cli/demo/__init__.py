"""`dressage demo`: a shop's orders, from published events to answers in SQL.

- `stage`: the broker and one process for each role.
- `children`: starting, watching and stopping them.
- `progress`: what is shown meanwhile.
- `questions`: what is asked of DuckDB at the end.
- `accounting`: whether every event is accounted for.
"""

from dressage.cli.demo.command import demo as demo
