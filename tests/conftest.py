"""What concerns all tests."""

from contextlib import contextmanager

import pytest

from understudy.errors import Interrupted


def pytest_collection_modifyitems(items):
    """Begin with the longest test: at the end, one process would wait for it for a minute."""
    items.sort(key=lambda item: "test_weak_teacher" not in item.nodeid)


@pytest.fixture
def interrupted_after(monkeypatch):
    """Return a context in which Ctrl-C comes once a learner (its class) has taken so many updates from a replay."""

    @contextmanager
    def interrupted_after(learner, updates):
        update = learner.update

        def interrupted(self, batch, lr):
            if self._updates == updates:
                raise KeyboardInterrupt
            return update(self, batch, lr)

        with monkeypatch.context() as patched, pytest.raises(Interrupted):
            patched.setattr(learner, "update", interrupted)
            yield

    return interrupted_after
