"""Runs, user tasks and schedules among many, and SQL: asked of the analytics process."""

from dressage.client.finding.conditions import Condition as Condition
from dressage.client.finding.conditions import condition as condition
from dressage.client.finding.conditions import parse_condition as parse_condition
from dressage.client.finding.query import ROWS_DEFAULT as ROWS_DEFAULT
from dressage.client.finding.query import TIMEOUT_DEFAULT_S as TIMEOUT_DEFAULT_S
from dressage.client.finding.query import Params as Params
from dressage.client.finding.query import QueryError as QueryError
from dressage.client.finding.query import QueryResult as QueryResult
from dressage.client.finding.query import query as query
from dressage.client.finding.runs import LIMIT as LIMIT
from dressage.client.finding.runs import NEWEST as NEWEST
from dressage.client.finding.runs import TIMEOUT_S as TIMEOUT_S
from dressage.client.finding.runs import Counted as Counted
from dressage.client.finding.runs import FoundRun as FoundRun
from dressage.client.finding.runs import FoundRuns as FoundRuns
from dressage.client.finding.runs import RunQuery as RunQuery
from dressage.client.finding.runs import count_runs as count_runs
from dressage.client.finding.runs import runs as runs
from dressage.client.finding.schedules import SCHEDULES_LIMIT as SCHEDULES_LIMIT
from dressage.client.finding.schedules import FoundSchedule as FoundSchedule
from dressage.client.finding.schedules import schedules as schedules
from dressage.client.finding.user_tasks import FoundUserTask as FoundUserTask
from dressage.client.finding.user_tasks import UserTaskState as UserTaskState
from dressage.client.finding.user_tasks import user_tasks as user_tasks
