from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case_file" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--cases") or HERE / "cases")
        files = sorted(folder.rglob("*.json"))
        metafunc.parametrize("case_file", files, ids=[f.stem for f in files])
