"""Plays the users of a host."""

import played_host


def present(name, **_options):
    return played_host.state(__opts__, name, "user", [name])


def absent(name):
    return played_host.state(__opts__, name, "user", [], gone=[name])
