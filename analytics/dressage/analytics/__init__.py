"""EVENTS in a DuckDB file, exactly once, and SQL over it."""

from dressage.analytics.errors import AnalyticsError as AnalyticsError
from dressage.analytics.errors import QueryError as QueryError
from dressage.analytics.metrics import Metered as Metered
from dressage.analytics.metrics import Metrics as Metrics
from dressage.analytics.query import QueryResult as QueryResult
from dressage.analytics.query import query as query
from dressage.analytics.query import query_file as query_file
from dressage.analytics.schedules import FoundSchedule as FoundSchedule
from dressage.analytics.schedules import schedules as schedules
from dressage.analytics.service import AnalyticsService as AnalyticsService
from dressage.analytics.store import StoreConfig as StoreConfig
from dressage.analytics.user_tasks import FoundUserTask as FoundUserTask
from dressage.analytics.user_tasks import user_tasks as user_tasks
from dressage.brokers.event_feed import BatchLimits as BatchLimits
