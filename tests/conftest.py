"""Rules for every test: hypothesis profiles, how many run at once, and no silent skips in the full run.

With BAYSPACE_CI=1 (set by `.ci/run`, which installs every outside tool) a test that would skip fails
instead, with the reason it gave: a check that did not run is not a check that passed.
"""

import os
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

IN_CI = os.environ.get("BAYSPACE_CI") == "1"

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if IN_CI else "local")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are processors: many tests wait, for a peer or for a time-out. Not so the deep
    ones, which start processes of their own."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return processors + (config.option.markexpr != "deep")


SLOWEST = ("test_docs.py", "test_examples.py", "test_federation_howto.py", "test_mutants.py")
"""Their few deep tests take minutes: `make deep` begins with them, and no worker ends alone with one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in SLOWEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Whole modules skip while they are collected."""
    report = yield
    if IN_CI and report.skipped:
        _fail(report)
    return report


def _fail(report: Any) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"with BAYSPACE_CI=1 nothing may skip. {reason}"
