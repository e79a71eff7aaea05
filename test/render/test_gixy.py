"""What gixy says of nginx's files, as rendered in each case: nothing of medium severity or above without a reason."""

import json
import subprocess
from pathlib import Path

from cases import unfolded

#: What it finds and is meant to be so.
REASONS = {
    "hsts_header": "Django sends it, by SECURE_HSTS_SECONDS, which tls sets",
    "host_spoofing": "$http_host, on ports of its own: Django needs the port; the server knows its own names only",
    "return_bypasses_allow_deny": "everybody may see the page of maintenance",
    "if_is_evil": "a canary: `if` sets a variable alone, in locations without try_files",
    "try_files_is_evil_too": "an open_file_cache would serve files of the release before",
}


def lay(case: Path, folder: Path) -> str:
    """The files of a case below a folder, as below /etc/nginx; returns what nginx.conf has to include."""
    for path in sorted((case / "nginx").rglob("*")):
        target = folder / path.relative_to(case / "nginx")
        if path.is_dir():
            target.mkdir(parents=True)
        elif (text := path.read_text()).startswith("-> "):
            target.symlink_to(text.removeprefix("-> ").strip())
        else:
            target.write_text(text.replace("/etc/nginx/", f"{folder}/"))
    return f"include {folder}/conf.d/*.conf;\ninclude {folder}/sites-enabled/*;\n"


def test_gixy_finds_nothing_that_is_not_meant(tmp_path: Path) -> None:
    found: dict[str, list[str]] = {}
    cases = unfolded(tmp_path / "cases")
    for case in cases:
        folder = tmp_path / case.name
        folder.mkdir()
        text = f"events {{}}\nhttp {{\n{lay(case, folder)}}}\n"
        (folder / "nginx.conf").write_text(text)
    files = [str(tmp_path / case.name / "nginx.conf") for case in cases]
    run = subprocess.run(["gixy", "-ll", "-f", "json", *files], capture_output=True, text=True, timeout=60, check=False)
    for issue in json.loads(run.stdout):
        found.setdefault(issue["plugin"], []).append(f"{issue['file']}: {issue['summary']}")
    assert {name: told for name, told in found.items() if name not in REASONS} == {}
    assert found.keys() == REASONS.keys(), "each reason is needed"
