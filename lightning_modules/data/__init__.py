"""Reading any table: series, dates, columns, limits, split and order. Each task's own data are in its
wing."""

from lightning_modules.data.base import TaskData

__all__ = ["TaskData"]
