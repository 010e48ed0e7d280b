"""`Batches`: a bounded queue of rows, and one thread that answers together what arrived together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Condition, Thread

from dream.errors import DREAMError
from experiments.serve.service import Answer, Asked, Service

Answers = list[Answer]
AT_ONCE = 1024  # rows that are answered together, unless one body has more


class BusyError(DREAMError):
    """The queue is full."""


class Batches:
    """Answers rows of many clients by one thread, in the order in which they came.

    Args:
        service: What answers.
        most: Rows that may wait, at most.
        on_defect: Called by the thread when a defect ends it; no rows are taken then.
    """

    def __init__(self, service: Service, most: int, on_defect: Callable[[], None] = lambda: None) -> None:
        self.service = service
        self.most = most
        self.on_defect = on_defect
        self.rows = 0
        """Rows that wait."""
        self._changed = Condition()
        self._waiting: deque[tuple[Sequence[Asked], Future[Answers]]] = deque()
        self._stopped = False
        self.defect: BaseException | None = None
        """Error that has ended the thread."""
        self._thread = Thread(target=self._run, name="rows", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Asked]) -> Future[Answers]:
        """Queue rows; a future that is cancelled before its turn leaves them out.

        Raises:
            BusyError: there is no room for them.
        """
        with self._changed:
            if self._stopped or self.rows + len(rows) > self.most:
                reason = "it stops" if self._stopped else f"{self.rows} rows wait of at most {self.most}"
                raise BusyError(f"the service takes no more rows now: {reason}. Send them again in a while.")
            future: Future[Answers] = Future()
            self._waiting.append((rows, future))
            self.rows += len(rows)
            self._changed.notify()
            return future

    def stop(self) -> None:
        """Answer what waits, and take no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            batch = [(rows, future) for rows, future in batch if future.set_running_or_notify_cancel()]
            try:
                answers = self.service.answer([row for rows, _ in batch for row in rows])
            except BaseException as error:
                for _, future in batch:
                    future.set_exception(error)
                self._end(error)
                return
            for rows, future in batch:
                future.set_result(answers[: len(rows)])
                answers = answers[len(rows) :]

    def _end(self, defect: BaseException) -> None:
        with self._changed:
            self.defect, self._stopped = defect, True
            waiting = [future for _, future in self._waiting]
            self._waiting.clear()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(defect)
        self.on_defect()

    def _next(self) -> list[tuple[Sequence[Asked], Future[Answers]]]:
        """Rows that have arrived, as many as are answered together; none after the end."""
        with self._changed:
            while not self._waiting and not self._stopped:
                self._changed.wait()
            batch: list[tuple[Sequence[Asked], Future[Answers]]] = []
            count = 0
            while self._waiting and (not batch or count + len(self._waiting[0][0]) <= AT_ONCE):
                batch.append(self._waiting.popleft())
                count += len(batch[-1][0])
            self.rows -= count
            return batch
