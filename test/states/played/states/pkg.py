"""Plays the packages of a host."""

import played_host


def installed(name, pkgs, **_options):
    return played_host.state(__opts__, name, "package", pkgs)
