"""Plays the services of a host."""

import played_host


def running(name, **_options):
    return played_host.state(__opts__, name, "service", [name])
