import pytest
from sglang_engines import build_model, needs_sglang


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/sglang/" in str(item.path):
            item.add_marker(needs_sglang)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("model"))
