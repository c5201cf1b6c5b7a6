"""Requests of one kind that wait for a slot, and how a batch of them is formed and run."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence

from inserve.batching.batch_formation import check_room_for_batch, rows_to_run
from inserve.batching.batch_task import BatchTask, Outcome, TaskState
from inserve.batching.merged_run import MergedRun
from inserve.batching.merging import MergeKey, UnbatchableOutputError
from inserve.batching.options import BatchingOptions
from inserve.batching.size_search import SizeSearch
from inserve.batching.slot_scheduler import EXPIRED_MESSAGE, SlotScheduler
from inserve.batching.statistics import CloseReason, QueueCounts, QueueStatistics
from inserve.errors import DeadlineExceededError, FailedPreconditionError
from inserve.tensorflow_c.interface import Runner

__all__ = ["SlotQueue"]

_GATHER_SHARE = 0.05
"""How long a batch waits at most for the callers of the last one, in units of what that one took."""

_GATHER_LIMIT_S = 5e-3

_SHARED_RUN_S = 2e-3
"""What waits is shared among slots where a run of it would take longer than this."""

_SHARED_GAIN = 0.9
"""A share must take at most so much of the time of the whole; with most other work a device is the limit."""

_WHOLE_BETWEEN_TRIES = 32
"""It may have been other work on the machine that made a share slow."""

_NOT_WORTHWHILE = "batches were measured and bring less than 1.2 times the rows per second"


class SlotQueue:
    """Requests that feed *feeds* and fetch *fetches* of one version; *runner* takes them in that order.

    Requests are kept apart by what they must have in common to share a batch, first in, first out.
    Methods that say so want the scheduler's lock.
    """

    def __init__(
        self,
        scheduler: SlotScheduler,
        options: BatchingOptions,
        runner: Runner,
        feeds: Sequence[str],
        fetches: Sequence[str],
    ) -> None:
        self.scheduler = scheduler
        self.feeds = tuple(feeds)
        self.fetches = tuple(fetches)
        self.counts = QueueCounts(scheduler.num_slots)
        self.num_queued = 0
        """Requests that wait for a slot."""
        self.is_ready = False
        """Whether the scheduler has this queue in turn; changes with the lock."""
        self.direct_rows = -1
        """A request of at most so many rows may run unmerged as it is; below 0: ask ``passing`` first."""
        self.passing: str | None = None
        """Why every request runs by itself, as without batching; None: it does not."""
        self.is_gathering = False
        """Whether a thread with a slot waits for the callers of the last batch; changes with the lock."""
        self._run = MergedRun(runner, feeds, self.counts.seconds)
        self._groups: OrderedDict[MergeKey | int, deque[BatchTask]] = OrderedDict()
        self._rows = 0
        self._taken = 0
        self._running_rows = 0
        """Rows of the batches that run now."""
        self._num_whole = 0
        self._company = 0
        self._company_until = 0.0
        self._gathered = threading.Event()
        self._leader_rows = 0
        self._closed: str | None = None
        self._drained = threading.Event()
        self._search: SizeSearch | None = None
        self.set_options(options)

    def __repr__(self) -> str:
        return f"<SlotQueue {', '.join(self.feeds)} -> {', '.join(self.fetches)}: {self.num_queued} waiting>"

    @property
    def expects_company(self) -> bool:
        """Whether the next request may be held back a moment for the callers of the last batch."""
        return self._company > 0

    def set_options(self, options: BatchingOptions) -> None:
        """Form batches by *options* from now on."""
        with self.scheduler.lock:
            self.options = options
            self._search = SizeSearch(options.execution_limit) if options.measure_sizes else None
            self.passing = None
            self._limit = options.execution_limit if self._search is None else self._search.limit
            self._company = 0
            self._choose_direct_rows()

    def add(self, tasks: Sequence[BatchTask]) -> None:
        """Queue the parts of one request, and lend a slot if there is one.

        Raises:
            UnavailableError: There is no room, or the server is stopping.
            FailedPreconditionError: The version was unloaded.
        """
        with self.scheduler.lock:
            if self._closed is not None:
                raise FailedPreconditionError(self._closed)
            self.scheduler.check_running()
            limit = max(1, self.options.execution_limit)
            most = max(1, self.options.max_enqueued_batches)
            if self._rows + sum(task.rows for task in tasks) > most * limit:
                self.counts.refused += 1
                check_room_for_batch(max(most, -(-self._rows // limit)), most)
            for task in tasks:
                self._push(task)
        self.scheduler.lend_slots()

    def next_leader(self, now: float) -> tuple[BatchTask | None, list[BatchTask]]:
        """Take out the task whose thread is to run the next batch, and those that have expired before it.

        Of the tasks at the front that fit into one batch it is the one with the latest deadline, so that
        no batch outlasts the thread that runs it. None: no thread waits for any of them. Wants the lock.
        """
        expired: list[BatchTask] = []
        while self._groups:
            group = next(iter(self._groups.values()))
            rows = 0
            leader: BatchTask | None = None
            passed: BatchTask | None = None
            for task in group:
                if task.deadline is not None and task.deadline <= now:
                    passed = task
                    break
                rows += task.rows
                if rows > self._limit and rows > task.rows:
                    break
                if task.done is None and (leader is None or _outlasts(task, leader)):
                    leader = task
            if passed is not None:
                self.remove(passed)
                self.counts.expired += 1
                passed.state = TaskState.DONE
                expired.append(passed)
                continue
            if leader is not None:
                self.remove(leader)
                self._take(leader)
            return leader, expired
        return None, expired

    def remove(self, task: BatchTask) -> None:
        """Take *task*, which is queued, out. Wants the lock."""
        key = id(task) if task.key is None else task.key
        group = self._groups[key]
        if group[0] is task:
            group.popleft()
        else:
            group.remove(task)
        if not group:
            del self._groups[key]
        self.num_queued -= 1
        self._rows -= task.rows
        self._note_drained()

    def take_all(self) -> list[BatchTask]:
        """Take out every task that waits. Wants the lock."""
        tasks = [task for group in self._groups.values() for task in group]
        for task in tasks:
            self.remove(task)
            task.state = TaskState.DONE
        return tasks

    def after_fork(self) -> None:
        """Forget what waited and ran: its threads do not exist in this process."""
        self.take_all()
        self.is_ready = self.is_gathering = False
        self._taken = 0
        self._running_rows = 0

    def end(self, num_tasks: int) -> None:
        """Note that so many tasks that had been taken are done. Wants the lock."""
        self._taken -= num_tasks
        self._note_drained()

    def run_batch(self, slot: int, leader: BatchTask | None) -> None:
        """Form a batch with *leader*, run it in *slot*, give the slot back and tell of the outcomes."""
        scheduler = self.scheduler
        tasks: list[BatchTask] = []
        expired: list[BatchTask] = []
        outcomes: list[Outcome] = []
        run_s = 0.0
        total = 0
        try:
            if leader is not None and leader.key is not None:
                self._gather(leader)
            with scheduler.lock:
                now = scheduler.clock.now()
                reason = self._form_batch(leader, now, tasks, expired)
                rows = [task.rows for task in tasks]
                total = sum(rows)
                self._running_rows += total
                padded = rows_to_run(total, self.options.allowed_batch_sizes) if tasks else 0
                if tasks:
                    self.counts.closed(total, padded - total, reason)
                for task in tasks:
                    self.counts.waited(now - task.arrived)
                is_saturated = not scheduler.free
                pad_inputs = self.options.pad_variable_length_inputs
                is_left = self.num_queued > 0
            if is_left:
                scheduler.lend_slots()
            if tasks:
                started = scheduler.clock.now()
                outcomes = self._run_tasks(tasks, rows, padded, pad_inputs, is_saturated, now)
                run_s = scheduler.clock.now() - started
        finally:
            with scheduler.lock:
                self._running_rows -= total
                self.end(max(int(leader is not None), len(tasks) + len(expired)))
                self._expect_company(len(tasks), run_s)
            scheduler.give_back(slot)
            for task in expired:
                task.finish(DeadlineExceededError(EXPIRED_MESSAGE))
            for task, outcome in zip(tasks, outcomes, strict=False):
                if task.state is TaskState.TAKEN:
                    task.finish(outcome)
        observer = scheduler.observer
        if observer is not None and tasks:
            for task in tasks:
                observer.queued(now - task.arrived)
            observer.ran(padded, padded - total)

    def close(self, message: str, timeout_s: float) -> bool:
        """Refuse requests with *message* and return when those taken before are done; False: they are not."""
        with self.scheduler.lock:
            self._closed = message
            self.direct_rows = -1
            self.passing = None
            self._drained.clear()
            self._note_drained()
        return self.scheduler.clock.wait(self._drained, timeout_s)

    def statistics(self) -> QueueStatistics:
        """Return what was counted so far."""
        with self.scheduler.lock:
            search = self._search
            return self.counts.picture(
                self.feeds,
                self.fetches,
                self.num_queued,
                self.passing,
                () if search is None else search.measured,
                self._limit,
            )

    def _choose_direct_rows(self) -> None:
        options = self.options
        self.direct_rows = -1
        is_open = self._closed is None and self.scheduler.stopped is None
        if is_open and self.passing is None and not self._company and not options.allowed_batch_sizes:
            self.direct_rows = min(options.max_batch_size, max(0, options.execution_limit))

    def _expect_company(self, num_tasks: int, run_s: float) -> None:
        """Expect the callers of a batch that took *run_s* back, beside those that wait. Wants the lock.

        Callers that ask again as soon as they are answered would otherwise come in two alternating
        groups, the one just answered and the one that waited meanwhile, often of very unequal size.
        """
        company = num_tasks + self.num_queued if num_tasks > 1 else 0
        was_expected, self._company = bool(self._company), company
        if company:
            self._company_until = self.scheduler.clock.now() + min(_GATHER_LIMIT_S, _GATHER_SHARE * run_s)
        if was_expected is not bool(company):
            self._choose_direct_rows()

    def _gather(self, leader: BatchTask) -> None:
        """Wait a moment, if the last batch was shared, until as many requests are here again."""
        clock = self.scheduler.clock
        with self.scheduler.lock:
            wait_s = self._company_until - clock.now() if self._company else 0.0
            if wait_s <= 0 or self.is_gathering or self._is_complete(leader.rows):
                return
            self.is_gathering = True
            self._gathered.clear()
            self._leader_rows = leader.rows
        try:
            clock.wait(self._gathered, wait_s)
        finally:
            with self.scheduler.lock:
                self.is_gathering = False

    def _is_complete(self, leader_rows: int) -> bool:
        return self.num_queued + 1 >= self._company or self._rows + leader_rows >= self._limit

    def _most_rows(self, waiting: int) -> int:
        """Return how many of the *waiting* rows the next batch may have, so that every slot has its share.

        Who is given a slot first would else take all, and leave the others single requests. Wants the lock.
        """
        whole = min(waiting, self._limit)
        share = -(-(self._running_rows + waiting) // self.scheduler.num_slots)
        if share >= whole:
            return self._limit
        whole_s, share_s = self._run.usual_s(whole), self._run.usual_s(share)
        if whole_s is None or whole_s < _SHARED_RUN_S:
            return self._limit
        if share_s is not None and share_s > _SHARED_GAIN * whole_s:
            self._num_whole += 1
            if self._num_whole % _WHOLE_BETWEEN_TRIES:
                return self._limit
        return share

    def _push(self, task: BatchTask, in_front: bool = False) -> None:
        key = id(task) if task.key is None else task.key
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = deque()
            if in_front:
                self._groups.move_to_end(key, last=False)
        group.append(task)
        task.state = TaskState.QUEUED
        self.num_queued += 1
        self._rows += task.rows
        if not self.is_ready:
            self.is_ready = True
            self.scheduler.ready.append(self)
        if self.is_gathering and self._is_complete(self._leader_rows):
            self._gathered.set()

    def _take(self, task: BatchTask) -> None:
        task.state = TaskState.TAKEN
        self._taken += 1

    def _note_drained(self) -> None:
        if self._closed is not None and not self.num_queued and not self._taken:
            self._drained.set()

    def _form_batch(
        self, leader: BatchTask | None, now: float, tasks: list[BatchTask], expired: list[BatchTask]
    ) -> CloseReason:
        """Take what goes into one batch: *leader*, then the others of its kind as far as they fit."""
        if leader is not None:
            key: MergeKey | None = leader.key
            if _has_passed(leader, now):
                self.counts.expired += 1
                expired.append(leader)
                return CloseReason.ALONE
            tasks.append(leader)
            if key is None:
                return CloseReason.ALONE
            group = self._groups.get(key)
        else:
            group = next(iter(self._groups.values()), None)
        total = sum(task.rows for task in tasks)
        limit = self._most_rows(total + sum(task.rows for task in group or ()))
        reason = CloseReason.SLOT_FREE
        while group:
            task = group[0]
            if _has_passed(task, now):
                self.remove(task)
                self._take(task)
                self.counts.expired += 1
                expired.append(task)
                continue
            if tasks and total + task.rows > limit:
                reason = CloseReason.FULL if total >= limit else CloseReason.NO_FIT
                if limit < self._limit:
                    reason = CloseReason.SHARED
                break
            self.remove(task)
            self._take(task)
            tasks.append(task)
            total += task.rows
            if task.key is None:
                reason = CloseReason.ALONE
                break
        if reason is CloseReason.SLOT_FREE:
            if total >= self._limit:
                reason = CloseReason.FULL
            elif self._groups:
                reason = CloseReason.SHAPES
        # What is left of this kind waits behind the others.
        if group and tasks and tasks[0].key is not None:
            self._groups.move_to_end(tasks[0].key)
        return reason

    def _run_tasks(
        self,
        tasks: list[BatchTask],
        rows: list[int],
        padded: int,
        pad_inputs: bool,
        is_saturated: bool,
        now: float,
    ) -> list[Outcome]:
        """Return the outcome of each of *tasks*; those of a failed batch but one are queued again, alone."""
        clock = self.scheduler.clock
        timeout_s = _time_left(tasks, now)
        first = tasks[0]
        if len(tasks) == 1 and (padded == first.rows or first.key is None):
            return [self._run_alone(first, timeout_s, is_saturated)]
        try:
            shares, seconds = self._run.run(
                [task.arrays for task in tasks], rows, padded, pad_inputs, timeout_s, clock.now
            )
        except UnbatchableOutputError as error:
            with self.scheduler.lock:
                self._pass(f"its outputs cannot be shared out: {error.message}")
        except DeadlineExceededError as error:
            if timeout_s is not None:
                return [DeadlineExceededError(error.message) for _ in tasks]
        except Exception as error:
            if len(tasks) == 1:
                return [error]
        except BaseException:
            # The thread was interrupted. The others go on without it.
            self._retry_alone(tasks)
            raise
        else:
            self._observe(sum(rows), seconds, is_saturated)
            return list(shares)
        self._retry_alone(tasks)
        return [self._run_alone(first, _time_left([first], clock.now()), False)]

    def _run_alone(self, task: BatchTask, timeout_s: float | None, is_saturated: bool) -> Outcome:
        try:
            outputs, seconds = self._run.run_alone(
                task.arrays, task.rows, timeout_s, self.scheduler.clock.now
            )
        except Exception as error:
            return error
        if task.key is not None:
            self._observe(task.rows, seconds, is_saturated)
        return outputs

    def _retry_alone(self, tasks: list[BatchTask]) -> None:
        """Queue all but the first of *tasks* again, in front and to be run alone, and cut the list."""
        with self.scheduler.lock:
            if len(tasks) > 1:
                self.counts.failed_batches += 1
            for task in reversed(tasks[1:]):
                self._taken -= 1
                if task.state is TaskState.TAKEN:
                    task.key = None
                    self._push(task, in_front=True)
        del tasks[1:]

    def _observe(self, rows: int, seconds: float, is_saturated: bool) -> None:
        search = self._search
        if search is None or not is_saturated:
            return
        with self.scheduler.lock:
            search.observe(rows, seconds)
            self._limit = search.limit
            if not search.is_worthwhile:
                self._pass(_NOT_WORTHWHILE)

    def _pass(self, reason: str) -> None:
        """Run every request by itself from now on, those that wait included. Wants the lock."""
        if self._closed is None:
            self.passing = reason
            self.direct_rows = -1
            self._limit = 1


def _outlasts(task: BatchTask, other: BatchTask) -> bool:
    return other.deadline is not None and (task.deadline is None or task.deadline > other.deadline)


def _has_passed(task: BatchTask, now: float) -> bool:
    return task.deadline is not None and task.deadline <= now


def _time_left(tasks: Sequence[BatchTask], now: float) -> float | None:
    """Return the seconds until the last of the deadlines, None where a task has none."""
    latest = 0.0
    for task in tasks:
        if task.deadline is None:
            return None
        latest = max(latest, task.deadline)
    return latest - now
