"""What every test has: a run store of its own, one thread, repeatable random examples, and a browser."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch or numpy load, and for the processes that tests start.
os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci")

_BEFORE = os.environ.get("SURPLUS_HOME")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["SURPLUS_HOME"] = tempfile.mkdtemp(prefix="surplus-home-")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ.pop("SURPLUS_HOME"), ignore_errors=True)
    if _BEFORE is not None:
        os.environ["SURPLUS_HOME"] = _BEFORE


def missing_install(reason: str) -> bool:
    """Whether a test was skipped because something is not installed, judged by the words of its reason."""
    return any(words in reason for words in ("not installed", "could not import"))


def fail_if_missing(report: Any) -> None:
    """In CI everything is installed, so such a skip is a hole in the set-up: let it fail."""
    reason = str(report.longrepr[-1]) if report.skipped and isinstance(report.longrepr, tuple) else ""
    if os.environ.get("CI") and missing_install(reason):
        report.outcome = "failed"
        report.longrepr = f"{reason}\nIn CI nothing is skipped for a missing install."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    fail_if_missing(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    fail_if_missing(report)
    return report


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Headless Chromium behind its own driver; what the page logs and asks for is in `get_log`."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed; for them: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("chromium")
    for switch in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-quic",
        "disable-sync",
        "disable-background-networking",
        "disable-component-update",
        "no-first-run",
        "window-size=1280,900",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parent.parent
