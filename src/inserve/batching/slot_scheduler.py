"""Who runs batches in the library's way: slots that are handed on, never threads that wait for work.

A request that finds a slot free runs on its own thread. Where all slots are busy it is queued, and who
gives a slot back lends it to the first request that waits: its thread runs the batch, itself and
whatever was queued beside it by then. Requests that no thread waits for are run by a few workers.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from inserve.batching.batch_task import BatchTask, TaskState
from inserve.clock import Clock
from inserve.errors import CancelledError, DeadlineExceededError, UnavailableError

if TYPE_CHECKING:
    from inserve.batching.observer import BatchingObserver
    from inserve.batching.slot_queue import SlotQueue

__all__ = ["EXPIRED_MESSAGE", "SlotScheduler"]

EXPIRED_MESSAGE = "the deadline passed while the request waited for its batch"


class SlotScheduler:
    """The slots of one version of a model. Constructing starts nothing; any thread may call.

    A request takes a slot with ``free.pop()`` and gives it back with ``give_back``; both sides look at
    the other's queue afterwards (``free``, ``ready``), so that no request is left behind. The lock covers
    decisions only, never a run or a callback.
    """

    def __init__(
        self, num_slots: int, thread_name: str, clock: Clock, observer: BatchingObserver | None = None
    ) -> None:
        self.num_slots = num_slots
        self.clock = clock
        self.observer = observer
        self.lock = threading.Lock()
        self.free: deque[int] = deque(range(num_slots))
        """Slots that nobody uses."""
        self.ready: deque[SlotQueue] = deque()
        """Queues in which requests wait, in turn."""
        self.stopped: str | None = None
        self._queues: list[SlotQueue] = []
        self._thread_name = thread_name
        self._errands: deque[tuple[SlotQueue, int] | None] = deque()
        self._num_errands = threading.Semaphore(0)
        self._unfinished_errands = 0
        self._workers: list[threading.Thread] = []

    def __repr__(self) -> str:
        return f"<SlotScheduler {self.num_slots - len(self.free)} of {self.num_slots} slots in use>"

    def add_queue(self, queue: SlotQueue) -> None:
        """Note that *queue* is in use, so that ``stop`` reaches it."""
        with self.lock:
            self._queues.append(queue)

    def give_back(self, slot: int) -> None:
        """Take *slot* from who used it, and lend it on if somebody waits."""
        if self.stopped is not None:
            self.free.append(slot)
            self._refuse_waiting()
        elif self.ready:
            self._lend(slot)
        else:
            self.free.append(slot)
            if self.ready:
                self.lend_slots()

    def lend_slots(self) -> None:
        """Lend free slots to requests that wait."""
        while self.ready:
            try:
                slot = self.free.pop()
            except IndexError:
                return
            if not self._lend(slot):
                return

    def _lend(self, slot: int) -> bool:
        """Lend *slot* to a request that waits, the queues in turn; False: nobody does, and it is free."""
        lent = False
        while not lent:
            with self.lock:
                queue = self._next_queue()
                if queue is None:
                    self.free.append(slot)
                    break
                leader, expired = queue.next_leader(self.clock.now())
                if leader is not None:
                    leader.slot = slot
                    lent = True
                elif queue.num_queued:
                    self._send_worker(queue, slot)
                    lent = True
                if queue.num_queued:
                    self.ready.append(queue)
                else:
                    queue.is_ready = False
            if leader is not None and leader.event is not None:
                leader.event.set()
            for task in expired:
                task.finish(DeadlineExceededError(EXPIRED_MESSAGE))
        return lent

    def await_turn(self, queue: SlotQueue, task: BatchTask) -> list[Any]:
        """Wait for the outcome of *task*, running the batch with it if it is given a slot.

        Raises:
            DeadlineExceededError: Its deadline passed first.
            InserveError: What it failed with.
        """
        event, clock = task.event, self.clock
        assert event is not None
        try:
            deadline = task.deadline
            if not clock.wait(event, None if deadline is None else max(0.0, deadline - clock.now())):
                with self.lock:
                    if task.slot is None and task.state is not TaskState.DONE:
                        if task.state is TaskState.QUEUED:
                            queue.remove(task)
                        # Where it is part of a batch that runs, its outcome comes too late for anybody.
                        queue.counts.expired += 1
                        task.outcome = DeadlineExceededError(EXPIRED_MESSAGE)
                        task.state = TaskState.DONE
        except BaseException:
            self._forsake(queue, task)
            raise
        if task.slot is not None:
            queue.run_batch(task.slot, task)
        return task.result()

    def cancel(self, queue: SlotQueue, task: BatchTask) -> bool:
        """Take *task* out of *queue* and fail it with ``CancelledError``; False where it is too late."""
        with self.lock:
            if task.state is not TaskState.QUEUED:
                return False
            queue.remove(task)
            queue.counts.cancelled += 1
        task.finish(CancelledError("the request was cancelled while it waited for its batch"))
        return True

    def stop(self, timeout_s: float) -> bool:
        """Refuse requests from now on, and those that wait; wait at most *timeout_s* for the workers.

        Batches in progress end. Returns whether every worker has ended; more calls do no harm.
        """
        with self.lock:
            self.stopped = "the server is stopping"
            for queue in self._queues:
                queue.direct_rows = -1
            workers, self._workers = self._workers, []
            for _ in workers:
                self._errands.append(None)
                self._num_errands.release()
        self._refuse_waiting()
        deadline = self.clock.now() + timeout_s
        for worker in workers:
            if worker is not threading.current_thread():
                worker.join(max(0.0, deadline - self.clock.now()))
        return not any(worker.is_alive() for worker in workers)

    def start(self) -> None:
        """Take requests again after ``stop``."""
        with self.lock:
            self.stopped = None

    def check_running(self) -> None:
        """Check that requests are taken; call it with the lock.

        Raises:
            UnavailableError: ``stop`` was called.
        """
        if self.stopped is not None:
            raise UnavailableError(self.stopped)

    def after_fork(self) -> None:
        """Begin anew in a forked child, where the threads that held slots do not exist."""
        self.lock = threading.Lock()
        for queue in self._queues:
            queue.after_fork()
        self.ready.clear()
        self.free.clear()
        self.free.extend(range(self.num_slots))
        self._errands.clear()
        self._num_errands = threading.Semaphore(0)
        self._unfinished_errands = 0
        self._workers = []

    def _forsake(self, queue: SlotQueue, task: BatchTask) -> None:
        """Nobody waits for *task* any more: its thread was interrupted."""
        with self.lock:
            slot, task.slot = task.slot, None
            if task.state is TaskState.QUEUED:
                queue.remove(task)
                queue.counts.cancelled += 1
            elif slot is not None:
                queue.end(1)
            task.state = TaskState.DONE
        if slot is not None:
            self.give_back(slot)

    def _next_queue(self) -> SlotQueue | None:
        """Take the next queue out of ``ready`` for which a slot would not come too early."""
        for _ in range(len(self.ready)):
            queue = self.ready.popleft()
            if not queue.is_gathering:
                return queue
            self.ready.append(queue)
        return None

    def _refuse_waiting(self) -> None:
        waiting: list[BatchTask] = []
        with self.lock:
            while self.ready:
                queue = self.ready.popleft()
                queue.is_ready = False
                waiting += queue.take_all()
        for task in waiting:
            task.finish(UnavailableError(self.stopped or ""))

    def _send_worker(self, queue: SlotQueue, slot: int) -> None:
        """Have a worker run the next batch of *queue* in *slot*; call it with the lock."""
        self._errands.append((queue, slot))
        self._unfinished_errands += 1
        # Every errand holds a slot, so more workers than slots would find nothing to do.
        if len(self._workers) < min(self._unfinished_errands, self.num_slots):
            worker = threading.Thread(
                target=self._work, name=f"{self._thread_name}-{len(self._workers)}", daemon=True
            )
            self._workers.append(worker)
            worker.start()
        self._num_errands.release()

    def _work(self) -> None:
        while True:
            self._num_errands.acquire()
            errand = self._errands.popleft()
            if errand is None:
                return
            queue, slot = errand
            queue.run_batch(slot, None)
            del queue, errand
            with self.lock:
                self._unfinished_errands -= 1
