"""A counted borrow of a servable; the unload waits until every borrow has ended.

CPython's reference count is the count of borrows. A published version owns one ``Lease``; a handle
refers to it. Taking a handle is one reference more and releasing it one less, with no lock. When
the manager has taken the version out of the map and let go of its own reference, the last handle
to go destroys the lease, which puts the id into the manager's queue and does nothing else: a
finalizer may run at any point of any thread, and ``SimpleQueue.put`` is the one hand-over that is
safe there.

In TensorFlow Serving (``core/aspired_versions_manager.h``) each handle keeps the whole map of
servables, so one slow request delays changes of every model. Here it delays the unload of its own
version alone.
"""

from __future__ import annotations

from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

from inserve.errors import FailedPreconditionError
from inserve.lifecycle.servable_id import ServableId

__all__ = ["Lease", "ServableHandle"]

ServableT_co = TypeVar("ServableT_co", covariant=True)


class Lease:
    """One life of one available version; when nothing refers to it, *returned* receives its id."""

    __slots__ = ("_returned", "id", "servable")

    def __init__(self, id: ServableId, servable: Any, returned: SimpleQueue[ServableId | None]) -> None:
        self.id = id
        self.servable = servable
        self._returned = returned

    def __del__(self) -> None:
        self._returned.put(self.id)


class ServableHandle(Generic[ServableT_co]):
    """A borrow of one version; ``id`` says which, and stays readable after the release.

    Meant for one request. Release it in ``finally`` or with ``with``: a handle that is merely
    dropped is released too, but an exception keeps the frames of its traceback, and with them a
    handle that was not released, for as long as somebody keeps the exception. Do not keep what
    ``servable`` returned beyond the release: nothing then holds back the unload.

    One thread at a time uses a handle; it may be handed to another.
    """

    __slots__ = ("_lease", "id", "servable")

    def __init__(self, lease: Lease) -> None:
        self._lease: Lease | None = lease
        self.id = lease.id
        self.servable: ServableT_co = lease.servable
        """The servable, loaded until this handle is released; after that ``FailedPreconditionError``."""

    def __getattr__(self, name: str) -> NoReturn:
        if name == "servable":
            raise FailedPreconditionError("the servable handle was released: take a new one for each request")
        raise AttributeError(name)

    def release(self) -> None:
        """End the borrow; more calls do nothing."""
        if self._lease is not None:
            self._lease = None
            del self.servable

    def __enter__(self) -> ServableHandle[ServableT_co]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<ServableHandle {self.id}{' released' if self._lease is None else ''}>"
