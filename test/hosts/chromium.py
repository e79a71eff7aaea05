"""Look at pages in Chromium by its DevTools protocol over a pipe, which takes the standard library alone.

    python3 chromium.py PAGE AXE        prints for each width and scheme what a browser finds, as JSON
    python3 chromium.py PAGE AXE FOLDER writes screenshots there too

It runs on a host that has Chromium of Debian.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

#: Width, height and scheme of each look.
LOOKS = ((1280, 800, "light"), (1280, 800, "dark"), (390, 844, "light"), (390, 844, "dark"))
_AXE = """axe.run(document, {resultTypes: ["violations"]}).then(found => JSON.stringify(found.violations.map(one =>
    ({id: one.id, impact: one.impact, at: one.nodes.map(node => node.target.join(" ")).slice(0, 5)}))))"""


class Chromium:
    """A browser that is asked by a pipe: messages are JSON, with a NUL after each."""

    def __init__(self, folder: str):
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        argv = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        argv += ["--hide-scrollbars", f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"]

        def pipes() -> None:
            os.dup2(commands, 30)
            os.dup2(answers, 31)
            os.dup2(30, 3)
            os.dup2(31, 4)

        self.process = subprocess.Popen(
            argv, preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._left, self._number, self._session = b"", 0, ""
        target = next(one for one in self("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method; return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return dict(self._next(lambda found: found.get("id") == self._number)["result"])

    def _next(self, fits: Any) -> dict[str, Any]:
        while True:
            while b"\0" not in self._left:
                self._left += os.read(self._read, 1 << 20)
            text, _, self._left = self._left.partition(b"\0")
            found = json.loads(text)
            if fits(found):
                assert "error" not in found, found
                return dict(found)

    def load(self, url: str) -> list[str]:
        """Load a page; return the URLs that it has requested besides its own."""
        self("Page.navigate", url=url)
        requested: list[str] = []

        def is_loaded(found: dict[str, Any]) -> bool:
            if found.get("method") == "Network.requestWillBeSent":
                requested.append(found["params"]["request"]["url"])
            return found.get("method") == "Page.loadEventFired"

        self._next(is_loaded)
        return [one for one in requested if one != url and not one.startswith("data:")]

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript is, once it is known."""
        found = self("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


def main(page: str, axe: str, folder: str = "") -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # Chromium still ends
        browser = Chromium(profile)
        try:
            for domain in ("Page", "Network", "Runtime"):
                browser(f"{domain}.enable")
            browser("Page.setBypassCSP", enabled=True)  # of what is evaluated here
            print(json.dumps([look(browser, page, Path(axe).read_text(), folder, *one) for one in LOOKS]))
        finally:
            browser.process.kill()
            browser.process.wait()


def look(browser: Chromium, page: str, axe: str, folder: str, width: int, height: int, scheme: str) -> dict[str, Any]:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser("Emulation.setDeviceMetricsOverride", **size)
    browser("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    requested = browser.load(Path(page).as_uri())
    found = {
        "width": width,
        "scheme": scheme,
        "requested": requested,
        "scroll": browser.value("document.documentElement.scrollWidth"),
        "client": browser.value("document.documentElement.clientWidth"),
        "elements": browser.value("document.querySelectorAll('script,img,iframe,object,form').length"),
        "ground": browser.value("getComputedStyle(document.body).backgroundColor"),
    }
    if folder:
        shot = browser("Page.captureScreenshot", format="png")["data"]
        Path(folder, f"page-{width}-{scheme}.png").write_bytes(base64.b64decode(shot))
    browser.value(axe)
    found["violations"] = json.loads(browser.value(_AXE))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
