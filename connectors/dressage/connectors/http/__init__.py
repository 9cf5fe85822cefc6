"""Runs for callers without NATS: a small ASGI app that starts them, says how they stand, and posts to them.

- `app`: the app.
- `routes`: its paths, the operation behind each, and what an error is by HTTP.
- `openapi`: how all that is described to programs.
- `exchange`, `link` and `linked`: what comes by HTTP over plain ASGI, the connection behind it, and an app that has
  both; webhooks have them as well.
"""
