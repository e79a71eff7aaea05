"""What of quickstart can be tried without a machine of its own; the rest is in test/hosts."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from authority import serving


@pytest.fixture
def quickstart(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("QUICKSTART_BEGAN", "0")
    spec = importlib.util.spec_from_file_location("quickstart", Path(__file__).parents[2] / "quickstart.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "quickstart", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[INFO    ] blog: npm ci\n", "blog: npm ci"),
        ("[INFO    ] npm ci takes 15 s so far: added 3 packages\n", "npm ci takes 15 s so far: added 3 packages"),
        ("[INFO    ] migrating the database takes 30 s so far\n", "migrating the database takes 30 s so far"),
        ("[INFO    ] other: npm ci\n", ""),
        ("[DEBUG   ] npm ci takes 15 s so far\n", ""),
        ("[INFO    ] Completed state [blog] at time 12:00:00.1 duration_in_ms=5\n", ""),
    ],
)
def test_progress_is_what_the_engine_logs(quickstart, capsys, line, told):
    quickstart.Progress(["blog", "shop"]).see(line)
    assert capsys.readouterr().out.partition(" s  ")[2].strip() == told


def test_a_site_by_https_is_asked_by_https(quickstart, tmp_path):
    with serving("blog.example.org", tmp_path) as server:
        config = {"domains": ["blog.example.org"], "path": "/shop", "proxy": {"listen": [80]}}
        config["tls"] = {"kind": "self_signed", "listen": [server.server_port]}
        page = quickstart.ask(config)
    host = f"blog.example.org:{server.server_port}"
    assert (page.url, page.status) == (f"https://{host}/shop/", 200)
    assert server.requests == [("/shop/", host)] and server.names == ["blog.example.org"]
    with pytest.raises(quickstart.Refusal, match="does not answer"):
        quickstart.ask(config)
