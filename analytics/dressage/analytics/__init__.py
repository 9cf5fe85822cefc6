"""EVENTS in a DuckDB file, exactly once, and SQL over it."""

from dressage.analytics.errors import AnalyticsError as AnalyticsError
from dressage.analytics.metrics import Metered as Metered
from dressage.analytics.metrics import Metrics as Metrics
from dressage.analytics.query import query_file as query_file
from dressage.analytics.service import AnalyticsService as AnalyticsService
from dressage.analytics.store import StoreConfig as StoreConfig
from dressage.brokers.event_feed import BatchLimits as BatchLimits
