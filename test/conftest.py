"""What holds for all layers: the long products run with --all, and what was left out is said."""

import gc
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import families
import machine
import parts
import pytest
import salt._logging  # (puts an importer of the old protocol on sys.meta_path)
import yaml

# pytest's importlib mode asks every importer for find_spec, which Salt's has not.
sys.meta_path[:] = [importer for importer in sys.meta_path if hasattr(importer, "find_spec")]

# The tests and what they import are compiled by the first process that needs them, and kept outside the work tree.
if cache := os.environ.get("DJANGO_FORMULA_CACHE"):
    sys.dont_write_bytecode, sys.pycache_prefix = False, f"{cache}/bytecode"

# The data of tests is read while they are collected, with the parser in C: the code of the formula has the other one.
PARSER = yaml.SafeLoader
yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[misc]

# Collecting leaves no garbage, and makes a million objects that stay.
gc.disable()

#: Tests that run side by side on two cores, by how they are split: those on hosts mostly wait, the others do not.
#: With more, minions that share the cores with all of them miss the time to answer.
AT_ONCE = {"loadfile": 6, "worksteal": 2}
#: Those of a part, which has more stories of a master with minions.
OF_A_PART = 3

# What Salt logs before its logging is set up, it keeps for the end; pytest shows it where it belongs.
salt._logging.shutdown_temp_handler()
# Salt has each of its messages made, for handlers of its own; pytest's take log_level of pyproject.toml and above.
logging.root.setLevel(logging.WARNING)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("django-formula")
    group.addoption("--all", action="store_true", help="run the full products too")
    group.addoption("--part", metavar="K/N", help="run one of N equal parts of what --all adds, or `projects`")
    group.addoption("--for", dest="family", metavar="FAMILY", help="run the tests of a family of the engine")
    group.addoption("--debian", metavar="RELEASE", default="bookworm", help="of the hosts of tests that name none")
    group.addoption("--measure", action="store_true", help="keep the seconds of CPU of what runs, for --part")
    group.addoption(
        "--keep-hosts", action="store_true", help="leave the hosts of a failed run; the next run removes them"
    )
    group.addoption(
        "--side-by-side", metavar="DIST", help="run tests at once, as xdist's --dist, unless arguments name some"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Turn --side-by-side into options of xdist, which reads them after this; -n and --dist have their way."""
    option = config.option
    names = config.args_source is not config.ArgsSource.TESTPATHS or option.keyword
    on_terminal = option.usepdb or option.trace or option.capture == "no"
    if option.side_by_side and not (names or on_terminal or hasattr(config, "workerinput")):
        if option.numprocesses is None:
            option.numprocesses = OF_A_PART if option.part else AT_ONCE[option.side_by_side]
        if option.numprocesses and option.dist == "no":
            option.dist = option.side_by_side
        option.loadscopereorder = False


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if (family := config.getoption("family")) and collection_path.suffix == ".py":
        return not families.covers(family, collection_path) or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    parts.divide(items)
    measured = parts.kept()
    slow = {*measured.slow}
    for item in items:
        if parts.function(item) in slow:
            item.add_marker(pytest.mark.slow)
    if which := config.getoption("part"):
        chosen = parts.part(parts.expected(items, measured), which)
        keep(config, items, lambda item: parts.story(item) in chosen)
    elif not config.getoption("--all") and config.getoption("-m") != "smoke":
        keep(config, items, lambda item: not parts.is_full(item))
    if config.getoption("--side-by-side") != "worksteal":  # which has files divided
        lasts = {**measured.default, **measured.lasts}
        items[:] = parts.in_turns(items, parts.expected(items, measured) if config.getoption("part") else lasts)


@pytest.fixture(autouse=True)
def environment_stays() -> Iterator[None]:
    """No test leaves a variable: a proxy, say, would be one of each host that this process starts later."""
    before = {**os.environ}
    yield
    current = {"PYTEST_CURRENT_TEST": before.get("PYTEST_CURRENT_TEST")}
    assert {**os.environ, **current} == {**before, **current}


@pytest.fixture(autouse=True)
def machine_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test changes the machine that runs it; those of test/hosts change their own hosts."""
    machine.found.clear()
    yield
    if "hosts" not in request.path.parts:
        assert not machine.found


def keep(config: pytest.Config, items: list[pytest.Item], wanted: Callable[[pytest.Item], bool]) -> None:
    """Deselect all tests but the wanted ones."""
    others = [item for item in items if not wanted(item)]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if wanted(item)]


def pytest_collection_finish() -> None:
    """What tests import from folders of their own is not kept, and they parse as hosts do."""
    gc.freeze()
    gc.set_threshold(
        100_000, 50, 50
    )  # small tests leave little, and Salt's loaders much that is looked through in vain
    gc.enable()
    sys.dont_write_bytecode, sys.pycache_prefix = True, None
    yaml.SafeLoader = PARSER  # type: ignore[misc]


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    machine.watch()
    family, part = config.getoption("family"), config.getoption("part")
    try:
        if family:
            families.files_of(family)
        if part:
            parts.part({}, part)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if reporter := config.pluginmanager.getplugin("terminalreporter"):
        config.pluginmanager.register(Failures(reporter, config.getoption("part")))
    if config.getoption("--measure"):
        import lab

        config.pluginmanager.register(parts.Meter(lab.spent))


class Failures:
    """Names each failed test at once, so that a run which is ended early has said what it knows."""

    def __init__(self, reporter: pytest.TerminalReporter, part: str | None) -> None:
        self.reporter, self.part = reporter, part

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            cause = (crash.message if crash else report.when).partition("\n")[0]
            self.reporter.ensure_newline()
            self.reporter.write_line(f"FAILED {report.nodeid}: {cause}")
            if self.part:
                self.reporter.write_line(f"run it: sudo ./test/run --all {shlex.quote(report.nodeid)}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = {report.longrepr[2] for report in skipped if "left out" in report.longrepr[2]}
    for reason in sorted(reasons):
        terminalreporter.section("LEFT OUT", sep="!", red=True, bold=True)
        terminalreporter.line(reason)
