import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", help="folder of conformance case files to run instead of the bundled ones")
