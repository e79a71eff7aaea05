"""Measure the figures on a host of the lab, print them next to their bounds, and keep a full run in RESULTS.md."""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "test" / "hosts"))

import figures  # noqa: E402
from images import cache_folder  # noqa: E402
from lab import MACHINE, CommandFailed, Host, Lab, LabUnavailable  # noqa: E402

HEAD = ("figure", "in", "at most", "min", "median", "max", "kept", "details")


def main() -> None:
    options = arguments()
    try:
        lab = Lab(say)
    except LabUnavailable as why:
        sys.exit(f"no figures: {why}")
    try:
        with tempfile.TemporaryDirectory(dir=cache_folder(), ignore_cleanup_errors=True) as disk:
            Path(disk).chmod(0o755)
            report(lab, lab.start(name="host", rights=MACHINE, options=[f"--volume={disk}:/srv"]), options)
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):  # many sites take long to remove; the next run sees to it
            lab.close()


def report(lab: Lab, host: Host, options: argparse.Namespace) -> None:
    """Measure on a host, print the table, and keep it where it is of all figures."""
    refuse_slow_start(host)
    machine, began = about(host), load_average()
    rows, missing = measure(lab, host, options)
    text = "\n".join([*table(rows), "", *missing, *machine, f"* load average: {began} before, {load_average()} after"])
    print(text, flush=True)
    if not options.quick and set(options.figures) == set(figures.FIGURES):
        (ROOT / "bench" / "RESULTS.md").write_text(f"# Figures of {time.strftime('%Y-%m-%d')}\n\n{text}\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs; RESULTS.md stays as it is")
    parser.add_argument("--runs", type=int, help="of each measurement (11; quick: 3)")
    parser.add_argument("--sites", type=int, help="for the figure `sites` (10; quick: 4)")
    parser.add_argument("--deployments", type=int, help="for the figure `load` (20; quick: 5)")
    parser.add_argument("--minions", type=int, help="for the figure `scale`, from 25 to 200 (50; quick: 25)")
    parser.add_argument("figures", nargs="*", help=f"of {', '.join(figures.FIGURES)}; all if none is named")
    options = parser.parse_args()
    unknown = set(options.figures) - set(figures.FIGURES)
    if unknown:
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    options.figures = options.figures or list(figures.FIGURES)
    options.runs = options.runs or (3 if options.quick else 11)
    options.sites = options.sites or (4 if options.quick else 10)
    options.deployments = options.deployments or (5 if options.quick else 20)
    options.minions = options.minions or (25 if options.quick else 50)
    return options


def measure(lab: Lab, host: Host, options: argparse.Namespace) -> tuple[list[figures.Figure], list[str]]:
    """The figures in their order, and a line for each that could not be measured."""
    rows, missing = [], []
    with tempfile.TemporaryDirectory() as folder:
        amounts = (options.runs, options.sites, options.deployments, options.minions)
        bench = figures.Bench(lab, host, Path(folder), say, *amounts)
        for name in [name for name in figures.FIGURES if name in options.figures]:
            try:
                found = figures.FIGURES[name](bench)
                rows += found
                say("\n".join(table(found)[2:]))
            except (CommandFailed, TimeoutError, OSError) as why:
                missing.append(f"* {name} could not be measured: {why}")
    return rows, missing


def refuse_slow_start(host: Host) -> None:
    """Raises CommandFailed where Salt's environment has no bytecode: it starts at half its speed then."""
    program = (
        "import importlib.util as i, pathlib, salt;"
        "lacking = [p for p in pathlib.Path(salt.__file__).parent.rglob('*.py')"
        " if not pathlib.Path(i.cache_from_source(p)).exists()];"
        "assert not lacking, lacking[:3]"
    )
    host.run(["/opt/salt/bin/python", "-c", program])


def about(host: Host) -> list[str]:
    """Where this was measured: versions, cores."""
    debian = host.read("/etc/debian_version").strip()
    python = host.run(["/opt/salt/bin/python", "-V"]).stdout.split()[1]
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return [
        f"* {time.strftime('%Y-%m-%d %H:%M %Z')}, django-formula {described}",
        f"* {os.cpu_count()} cores ({processor()}), a podman host with Debian {debian}",
        f"* Salt {host.call('test.version')} on Python {python}",
    ]


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def load_average() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def table(rows: list[figures.Figure]) -> list[str]:
    cells = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
