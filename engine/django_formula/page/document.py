"""The page, made of what is known of hosts: pure, without a clock and files. It has no script and requests nothing.

Problems come first, each with its command; then a table of the sites of each host, with their last deployments as a
plot; then the last deployments of all. Each text goes through `untrusted.text.element`: see docs/decisions/0136.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django_formula.host import clock
from django_formula.page import style
from django_formula.untrusted.text import InPage, element, in_command, in_page
from django_formula.watch import decide

#: What is known of a host, as `page.seen` returns it; and of a site and a deployment in it.
Host = Mapping[str, Any]
Site = Mapping[str, Any]
Deployment = Mapping[str, Any]

#: Deployments in the list of the last ones, and problems on the page.
RECENT, MOST = 20, 60
#: Seconds after which what a host has last said of itself is old.
OLD = 300.0
_SIGNS = {"x": ("✕", "down"), "w": ("▲", "has problems"), "g": ("●", "good"), "q": ("?", "not known")}
_TALLY = {"x": "down", "w": "with problems", "g": "good", "q": "not known"}
#: How a deployment is drawn, by its result: released, rolled back, failed, refused.
_DRAWN = {"released": "r", "rolled forward": "r", "rolled back": "b", "failed": "f", "interrupted": "f"}
_WORDS = {"r": "released", "b": "rolled back", "f": "failed", "n": "refused or unchanged"}
_COLUMNS = ("Site", "Answers in", "Release", "Active for", "Last deployments", "Lost", "Certificate", "Backup")
_RECENT_COLUMNS = ("Ago", "Site", "Release", "Result", "Took", "By")
_HOST_NAME = re.compile(r"[A-Za-z0-9.-]+(:\d+)?")
_LEFT = re.compile(r"(\d+) of (\d+) days left")
_STEP, _WIDTH, _LINE, _HIGHEST = 6, 120, 18, 17
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E"
    "%3Ccircle cx='4' cy='4' r='4' fill='%23{}'/%3E%3C/svg%3E"
)
_LEGEND = (
    "Each bar is a deployment, its height the duration: released, rolled back; below the line failed or refused. "
    "Lost: requests that failed while these deployments switched."
)


class _Named(NamedTuple):
    """A deployment with its site and host."""

    host: str
    site: str
    one: Deployment


def of_hosts(hosts: Sequence[Host], now: float) -> str:
    """Return the page of hosts.

    Args:
        hosts: what is known of each.
        now: seconds since 1970: ages are counted to it.
    """
    sheet = style.sheet()
    states = [state(host, site) for host in hosts for site in host["sites"]]
    counts = {key: states.count(key) for key in _TALLY if key in states}
    title = ", ".join(f"{count} {_TALLY[key]}" for key, count in counts.items()) or "no sites"
    is_good = not {"x", "w", "q"} & {*counts} and not any(host["problems"] for host in hosts)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'none'; base-uri 'none'"
    made = clock.timestamp(now)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width,initial-scale=1"),
        element("meta", name="robots", content="noindex"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{title} · Django sites"),
        element("link", rel="icon", href=_ICON.format("2e7d32" if is_good else "c62828")),
        element("style", sheet),
    )
    number = f"{len(states)} site{'' if len(states) == 1 else 's'} on {len(hosts)} host{'' if len(hosts) == 1 else 's'}"
    body = element(
        "body",
        element(
            "header",
            element("h1", "Django sites"),
            element("ul", *(_count(key, count) for key, count in counts.items()), class_="tally"),
            element("p", f"{number} · ", element("time", _readable(made), datetime=made), class_="q"),
        ),
        element("main", _problems(hosts, now), *(_host(host, now) for host in hosts), _recent(hosts, now)),
        element("footer", element("p", _LEGEND)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _count(key: str, count: int) -> InPage:
    return element("li", element("b", str(count)), f" {_TALLY[key]}", class_=key)


def _readable(time: str) -> str:
    return time.replace("T", " ").replace(":00Z", " UTC").replace("Z", " UTC")


# Problems


def state(host: Host, site: Site) -> str:
    """Return how a site is: x is down, w has problems, g good, q not known, as its host does not answer."""
    if host.get("silent"):
        return "q"
    kinds = {one["kind"] for one in host["problems"] if one["site"] == site["site"]}
    if "down" in kinds:
        return "x"
    return "w" if kinds or site["maintenance"] else "g"


def _problems(hosts: Iterable[Host], now: float) -> InPage:
    found = []
    for host in hosts:
        if host.get("silent"):
            found.append((host["host"], _silence(host)))
            continue
        for one in decide.folded([{"what": "problem", **one} for one in host["problems"]]):
            found.append((host["host"], one))
    if not found:
        return element("section", element("h2", "No problems"))
    found.sort(key=lambda pair: (pair[1]["kind"] != "down", pair[1]["since"]))
    cards = [_card(name, one, now) for name, one in found[:MOST]]
    more = [element("li", f"and {len(found) - MOST} more")] if len(found) > MOST else []
    return element("section", element("h2", "Problems"), element("ul", *cards, *more, class_="problems"))


def _silence(host: Host) -> dict[str, Any]:
    return {
        "kind": "down",
        "site": "",
        "text": f"{host['host']} is silent: {host['silent']}",
        "command": in_command("salt", host["host"], "test.ping"),
        "since": host["time"],
    }


def _card(host: str, one: Mapping[str, Any], now: float) -> InPage:
    since = element("time", decide.span(now - one["since"]), datetime=clock.timestamp(one["since"]))
    return element(
        "li",
        element("p", element("b", one["site"] or host), element("span", f" on {host}, for ", since, class_="q"))
        if one["site"]
        else element("p", element("b", host), element("span", " for ", since, class_="q")),
        element("p", one["text"], *([element("small", one["detail"])] if one.get("detail") else [])),
        *([element("p", element("code", one["command"]))] if one["command"] else []),
        class_="x" if one["kind"] == "down" else "w",
    )


# A host and its sites


def _host(host: Host, now: float) -> InPage:
    age = now - host["time"]
    seen = f"silent, last seen {decide.span(age)} ago" if host.get("silent") else f"seen {decide.span(age)} ago"
    rows = sorted(host["sites"], key=lambda site: ("xwqg".index(state(host, site)), site["site"]))
    heads = element("tr", *(element("th", name, scope="col") for name in _COLUMNS))
    name = str(host["host"])
    return element(
        "section",
        element("h2", name, element("small", seen, class_="x" if host.get("silent") or age > OLD else None)),
        element("ul", *(element("li", fact) for fact in _facts(host, now)), class_="facts"),
        element(
            "table",
            element("thead", heads),
            element("tbody", *(_row(host, site, now) for site in rows)),
            class_="sites",
            aria_label=f"Sites of {name}",
        )
        if rows
        else element("p", "no sites", class_="q"),
    )


def _facts(host: Host, now: float) -> list[str]:
    """Return what is known of a host in a line: load, memory, disks, the next certificate to end, the oldest backup."""
    facts = [f"load {host['load']:.1f} on {host['cpus']} CPU{'' if host['cpus'] == 1 else 's'}"]
    total, available = host["memory"]
    facts += [f"memory {_size(available)} of {_size(total)} free"] if total else []
    facts += [f"disk {disk['path']} {_size(disk['free'])} of {_size(disk['size'])} free" for disk in host["disks"]]
    ends = sorted((int(left[1]), site["site"]) for site in host["sites"] if (left := _LEFT.search(site["certificate"])))
    facts += [f"next certificate ends in {ends[0][0]} days ({ends[0][1]})"] if ends else []
    made = sorted((site["backup"], site["site"]) for site in host["sites"] if site["backup"] and site["schedule"])
    facts += [f"oldest backup {decide.span(now - clock.seconds(made[0][0]))} ({made[0][1]})"] if made else []
    return facts


def _size(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.{0 if number >= 10 * size else 1}f} {unit}"
    return f"{number:.0f} B"


def _row(host: Host, site: Site, now: float) -> InPage:
    kind = state(host, site)
    sign, label = _SIGNS[kind]
    domain = site["domain"]
    deployments = site["deployments"]
    name: str = site["site"]
    if _HOST_NAME.fullmatch(domain):
        name = element("a", name, href=f"{'https' if site['https'] else 'http'}://{domain}{site['path']}")
    return element(
        "tr",
        element(
            "th",
            element("i", sign, role="img", aria_label=label, class_=kind),
            name,
            element("small", domain),
            scope="row",
        ),
        _cell("Answers", _answers(site, kind), "x" if kind == "x" else None),
        _cell("Release", _release(site)),
        _cell("Active", _active(site, now)),
        _cell("Deployments", plot(deployments) if deployments else ""),
        _cell("Lost", _lost(deployments)),
        _cell("Certificate", *_certificate(site)),
        _cell("Backup", *_backup(site, now)),
        class_="d" if kind == "x" else None,
    )


def _cell(label: str, text: str, kind: str | None = None) -> InPage:
    return (
        element("td", text, data_l=label, class_=kind)
        if text
        else element("td", "\N{EN DASH}", class_="e q", data_l=label)
    )


def _answers(site: Site, kind: str) -> str:
    """Return what a site answers, with the requests of the last hour and the tasks that wait."""
    more = []
    if site["requests"] and site["p95"] is not None:
        errors = f", {site['errors']} error{'' if site['errors'] == 1 else 's'}" if site["errors"] else ""
        took = _took(site["p95"]) if site["p95"] >= 1 else f"{1000 * site['p95']:.0f} ms"
        more.append(element("small", f"{site['requests']} in an hour{errors}, 95 % in {took}"))
    if site["waiting"]:
        more.append(element("small", f"{site['waiting']} task{' waits' if site['waiting'] == 1 else 's wait'}"))
    text = _answer(site, kind)
    return element("span", text or "\N{EN DASH}", *more) if more else text


def _answer(site: Site, kind: str) -> str:
    if not site["release"]:
        return "no release"
    if site["maintenance"]:
        return "maintenance"
    if not site["running"]:
        return "stopped"
    if kind == "x":
        return "no"
    return f"{site['ms']} ms" if site["ms"] is not None else ""


def _release(site: Site) -> str:
    sequence, _, commit = site["release"].partition("-")
    if not commit:
        return ""
    parts = (element("b", sequence.lstrip("0")), " ", element("code", commit[:8]))
    text = ": ".join(filter(None, [site["author"], site["subject"]]))
    return element("span", *parts, *([element("small", text)] if text else []))


def _active(site: Site, now: float) -> str:
    if not site["since"]:
        return ""
    live = next((one for one in reversed(site["deployments"]) if one["release"] == site["release"]), None)
    who = [element("small", _who(live["by"]))] if live and live["by"] else []
    canary = [element("small", site["canary"])] if site.get("canary") else []  # a host of an older version has none
    return element("span", _age(site["since"], now), *who, *canary)


def _age(time: str, now: float) -> InPage:
    return element("time", decide.span(now - clock.seconds(time)), datetime=time, title=_readable(time))


def _who(text: str) -> str:
    """Return who has asked for a deployment, and how, in short: ``ada, release``."""
    verb, _, rest = text.partition(" by ")
    name = rest.split(",")[0].split(" ")[0]
    short = verb.replace("state.", "").replace("django.", "")
    return f"{name}, {short}" if name else short


def _lost(deployments: Iterable[Deployment]) -> str:
    sent, lost = (sum(one[key] for one in deployments) for key in ("sent", "lost"))
    if not sent:
        return ""
    return element("span", element("b", str(lost), class_="x"), f" of {sent}") if lost else f"0 of {sent}"


def _certificate(site: Site) -> tuple[str, str | None]:
    text = site["certificate"]
    found = _LEFT.search(text)
    kind = "w" if "WARNING" in text or (text and not found) else None
    return (f"{found[1]} days" if found else text), kind


def _backup(site: Site, now: float) -> tuple[str, str | None]:
    if site["backup"]:
        return _age(site["backup"], now), None
    return ("none yet", "w") if site["schedule"] else ("", None)


# Deployments


def plot(deployments: Sequence[Deployment]) -> InPage:
    """Return deployments as bars: height is the duration; a failed one hangs below the line."""
    longest = max([1.0, *(one["seconds"] for one in deployments)])
    paths: dict[str, str] = {}
    left = _WIDTH - _STEP * len(deployments)
    for number, one in enumerate(deployments):
        drawn, height = _drawn(one), max(2, round(_HIGHEST * (one["seconds"] / longest) ** 0.5))
        bar = f"M{left + _STEP * number} "
        bar += f"{_LINE + 2}v6h4v-6z" if drawn in "fn" else f"{_LINE}v-{height}h4v{height}z"
        paths[drawn] = paths.get(drawn, "") + bar
    numbers = {drawn: sum(_drawn(one) == drawn for one in deployments) for drawn in _WORDS}
    label = ", ".join(f"{number} {_WORDS[drawn]}" for drawn, number in numbers.items() if number)
    took = sorted(one["seconds"] for one in deployments if _drawn(one) == "r" and one["seconds"])
    label += f"; median {_took(took[len(took) // 2])}" if took else ""
    return element(
        "svg",
        element("path", class_="l", d=f"M0 {_LINE}.5h{_WIDTH}"),
        *(element("path", class_=drawn, d=path) for drawn, path in paths.items()),
        viewBox=f"0 0 {_WIDTH} 27",
        width=_WIDTH,
        height=27,
        role="img",
        aria_label=label,
    )


def _drawn(one: Deployment) -> str:
    return _DRAWN.get(one["result"], "n")


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else decide.span(seconds)


def _recent(hosts: Iterable[Host], now: float) -> InPage:
    every = [
        _Named(host["host"], site["site"], one)
        for host in hosts
        for site in host["sites"]
        for one in site["deployments"]
    ]
    every = sorted(every, key=lambda named: str(named.one["time"]))[::-1]  # of one second, the later is the newer
    if not every:
        return in_page("")
    return element(
        "section",
        element("h2", "Last deployments"),
        element(
            "table",
            element("thead", element("tr", *(element("th", name, scope="col") for name in _RECENT_COLUMNS))),
            element("tbody", *(_deployment(named, now) for named in every[:RECENT])),
            class_="recent",
            aria_label="Last deployments",
        ),
    )


def _deployment(named: _Named, now: float) -> InPage:
    one, kind = named.one, {"f": "x", "r": None}.get(_drawn(named.one), "w")
    result = f"{one['result']} in {one['step']}" if one["step"] else str(one["result"])
    error = [element("small", one["error"])] if one["error"] else []
    return element(
        "tr",
        _cell("Ago", _age(one["time"], now)),
        _cell("Site", element("span", element("b", named.site), " ", element("span", named.host, class_="q"))),
        _cell("Release", element("code", one["release"]) if one["release"] else ""),
        _cell("Result", element("span", element("span", result, class_=kind), *error)),
        _cell("Took", _took(one["seconds"])),
        _cell("By", _who(one["by"])),
    )
