from __future__ import annotations

import pytest

from inserve.frontends.grpc_api.method import CallContext
from inserve.handlers.placement import WouldBlock
from inserve.server.workers.parent_link import off_receiving_thread


def test_a_method_that_asks_elsewhere_leaves_the_receiving_thread_alone() -> None:
    method = off_receiving_thread(lambda request, _: request * 2)
    with pytest.raises(WouldBlock):
        method(b"a", CallContext(may_block=False))
    assert method(b"a", CallContext(may_block=True)) == b"aa"
