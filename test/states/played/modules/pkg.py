"""Plays the packages of a host."""

import played_host


def list_pkgs():
    return dict.fromkeys(played_host.known(__opts__, "package"), "1.0")
