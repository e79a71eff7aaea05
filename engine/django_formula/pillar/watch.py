"""The watch of a host and the channels of its messages: `django:watch`, `django:notify`, and `notify` of each site.

A site inherits the channels of the host. One that it leaves as it is, is the same channel; one that it changes or adds
is a channel of its own, which gets what is about this site alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django_formula.pillar.check import Problem, Rules
from django_formula.pillar.layers import fill, merge
from django_formula.pillar.page import options as page_options

#: The formats that are the API of a Git server, and the kinds of messages that it is sent.
GIT_SERVERS = ("github", "gitlab", "forgejo")
DEPLOYMENTS = ("released", "failed", "rolled_back", "interrupted")
#: What the heartbeat is named, among the channels.
HEARTBEAT = "_heartbeat"
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def channels(layers: Mapping[str, Any], rules: Rules, problems: list[Problem]) -> dict[str, Any]:
    """Return the channels of the host, with defaults; their secrets are references.

    Args:
        layers: what the pillar has below ``django``.
        rules: of ``django``.
        problems: to which is added what is wrong with them.
    """
    path = ("django", "notify")
    found: dict[str, Any] = fill(
        merge({}, layers.get("notify") or {}, rules["properties"]["notify"], path, problems),
        rules["properties"]["notify"],
    )
    problems += [((*path, *place), text) for place, text in contradictions(found)]
    return found


def contradictions(found: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what contradicts itself in channels, by the place within them."""
    for name, channel in found.items():
        if bool(channel["mail"]) == bool(channel["url"]):
            yield (name,), "expected either mail or url, got " + ("both" if channel["mail"] else "neither")
        elif channel["mail"] and channel["format"]:
            yield (name, "format"), "has no effect with mail: remove it"
        elif channel["token"] and channel["format"] in ("apprise",):
            yield (name, "token"), "has no effect with format: apprise: write it into the URL"
        if channel["format"] in GIT_SERVERS:
            if channel["kinds"] and not {*channel["kinds"]} <= {*DEPLOYMENTS}:
                yield (name, "kinds"), f"a Git server is sent deployments: expected {', '.join(DEPLOYMENTS)}"
        elif channel["environment"]:
            yield (name, "environment"), f"has no effect without format: {', '.join(GIT_SERVERS)}"


def contradictions_of_site(own: Mapping[str, Any], host: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what contradicts itself in the channels of a site that are not the same as those of the host."""
    changed = {name: one for name, one in own.items() if one != host.get(name)}
    yield from contradictions(changed)
    for name, channel in changed.items():
        if channel["sites"] and channel["sites"] != (host.get(name) or {}).get("sites"):
            yield (name, "sites"), "has no effect in a channel of a site, which is about this site alone: remove it"


def compiled(
    layers: Mapping[str, Any], rules: Rules, configurations: Mapping[str, Any], own_name: str
) -> dict[str, Any] | None:
    """Return the configuration of the watch without secrets, and what each channel's sender needs; None without it.

    Args:
        layers: what the pillar has below ``django``.
        rules: of ``django``.
        configurations: of the sites, which lose their ``notify``: it is nothing of a site on disk.
        own_name: of this minion; the one that `watch:fleet` names is watched without sites too.
    """
    named = {name: site.pop("notify", {}) for name, site in configurations.items()}
    sites = {name: site for name, site in configurations.items() if site["state"] != "absent"}
    given, host = layers.get("watch"), channels(layers, rules, [])
    rule = rules["properties"]["watch"]
    options = fill(merge({}, given if isinstance(given, dict) else {}, rule, ("django", "watch"), []), rule)
    is_master = bool(options["fleet"]) and options["fleet"] == own_name
    if given is False or not (sites or is_master):
        return None
    found = {name: {**channel, "host": not channel["sites"], "sites": []} for name, channel in host.items()}
    for site in sorted(sites):
        for name, channel in named[site].items():
            if channel == host.get(name):
                if not channel["sites"] or site in channel["sites"]:
                    found[name]["sites"].append(site)
            else:
                found[f"{site}.{name}"] = {**channel, "host": False, "sites": [site]}
    senders = {name: _sender(channel, sites) for name, channel in found.items()}
    if options["heartbeat"]:
        senders[HEARTBEAT] = {"url": options["heartbeat"]}
    page = page_options(layers, rules, own_name)
    watch = {
        "every": int(options["every"][:-1]) * _SECONDS[options["every"][-1]],
        "disk": int(options["disk"][:-1]),
        "queue": options["queue"],
        "quiet": options["quiet"],
        "heartbeat": bool(options["heartbeat"]),
        "page": page is not None,
        **({"page_of": "all"} if page and page["hosts"] == "all" else {}),
        **({"fleet": options["fleet"], "is_master": is_master} if options["fleet"] else {}),
        **({"roster": True} if is_master and options["roster"] else {}),
        "drift": any("drift" in (channel["kinds"] or ()) for channel in found.values()),
        "channels": {
            name: {
                "kinds": channel["kinds"] or ([*DEPLOYMENTS] if channel["format"] in GIT_SERVERS else None),
                "sites": channel["sites"],
                "host": channel["host"],
                "format": senders[name]["format"],
                **(_of_fleet(name, host, named) if is_master else {}),
            }
            for name, channel in found.items()
        },
        **_metrics(layers, rules),
        "deploys": [f"{site['root']}/deploys.jsonl" for _name, site in sorted(sites.items())],
    }
    return {"watch": watch, "senders": senders}


def _of_fleet(name: str, host: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return of which sites on other hosts a channel of the master gets messages, and which leave it out."""
    given = host.get(name) or {}
    return {"fleet": given.get("sites") or [], "but": sorted(site for site, own in named.items() if name not in own)}


def _metrics(layers: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """Return the folder of the metrics, and where they are served; nothing without them."""
    if layers.get("metrics") is None:
        return {}
    rule = rules["properties"]["metrics"]
    options = fill(merge({}, layers["metrics"], rule, ("django", "metrics"), []), rule)
    served = {"listen": options["listen"], "allow": options["allow"]} if options["listen"] else None
    return {"metrics": options["textfile"], "serve": served}


def contradictions_of_host(layers: Mapping[str, Any], process: str) -> Iterator[Problem]:
    """Yield what contradicts itself in the watch and in the metrics of a host."""
    watch, given = layers.get("watch"), layers.get("metrics")
    if isinstance(watch, dict) and watch.get("roster") and not watch.get("fleet"):
        yield ("django", "watch", "roster"), "has no effect without fleet, which names the master: remove it"
    if isinstance(given, dict) and layers.get("watch") is False:
        yield ("django", "metrics"), "the watch writes them: remove watch: false"
    if isinstance(given, dict) and given.get("listen") and process != "systemd":
        text = "needs systemd, which has the socket: remove it, and have textfile collected"
        yield ("django", "metrics", "listen"), text
    if isinstance(given, dict) and given.get("allow") and not given.get("listen"):
        yield ("django", "metrics", "allow"), "has no effect without listen: remove it"


def _sender(channel: Mapping[str, Any], sites: Mapping[str, Any]) -> dict[str, Any]:
    """Return what sends by a channel needs: by mail the server of one of its sites, or that of this host."""
    if not channel["mail"]:
        own = {key: channel[key] for key in ("url", "token", "environment") if channel[key]}
        return own | {"format": channel["format"] or "json"}
    servers = [sites[name]["email"] for name in channel["sites"] if sites[name].get("email")]
    server: Mapping[str, Any] = servers[0] if servers else {}
    return {
        "format": "mail",
        "mail": channel["mail"],
        "from": channel["from"] or server.get("server_email") or server.get("from") or "",
        **{key: server.get(key) or usual for key, usual in (("host", "localhost"), ("port", 25), ("tls", "none"))},
        **{key: server[key] for key in ("user", "password") if server.get(key)},
    }
