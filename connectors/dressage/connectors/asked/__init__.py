"""A question in SQL that is asked again and again: each new row starts a run, or is an external event."""
