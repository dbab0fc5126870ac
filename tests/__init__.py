"""A package, so that processes started by tests find `tests.ROOM.test_x` before another distribution's `tests`."""
