"""Webhooks: a signed HTTP request starts a run, or is an external event.

- `config`: the TOML file that declares them.
- `verify`: whether a request comes from who knows the secret.
- `asgi`: the app, which bounds what comes in.
- `hook`: from one request to its answer.
- `exchange`, `link`, `letters`, `metrics`: HTTP, the connection, what is kept of refused events, what is counted.
"""

from dressage.connectors.webhooks.asgi import WebhookApp, WebhookOptions, app
from dressage.connectors.webhooks.config import WebhookConfig, load_webhooks, parse_webhooks

__all__ = ["WebhookApp", "WebhookConfig", "WebhookOptions", "app", "load_webhooks", "parse_webhooks"]
