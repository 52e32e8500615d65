import pytest


@pytest.fixture(scope="session")
def runtime():
    return pytest.importorskip("onnxruntime")
