"""Many users at once, good and bad: every request is answered, and memory does not grow with them."""

import sys

import pytest
from app_client import Served
from hammer_app import hammer


def test_no_request_is_lost(served_app: Served):
    report = hammer(served_app, requests=40, users=4)
    assert report.failures == []
    assert report.outcomes.total() == 40
    assert len(report.outcomes) == 3  # what was asked for, a sentence, and users who left


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory that is given back is counted elsewhere in other ways")
def test_a_thousand_requests_leave_memory_as_it_was(served_app: Served):
    report = hammer(served_app, requests=1000, users=8, seed=1)
    assert report.failures == []
    assert report.outcomes.total() == 1000
    assert report.growth < 0.1
