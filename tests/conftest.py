"""What concerns all tests."""


def pytest_collection_modifyitems(items):
    """Begin with the longest test: at the end, one process would wait for it for a minute."""
    items.sort(key=lambda item: "test_weak_teacher" not in item.nodeid)
