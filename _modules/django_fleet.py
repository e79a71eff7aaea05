"""
What the master has the hosts of a fleet do, and what people may ask of one host: which hosts of a site its balancer
gives requests to.

A verb that fails returns the error as text and sets the return code.
"""

import django_balancer
import django_host_import
from django_host_command import DeploymentError

django_host_import.keep_folder()

__virtualname__ = "django_fleet"


def __virtual__():
    return __virtualname__


def backend(site, host=None, state="state"):
    """
    Show how the balancer on this host sees a host of a site, or change whether it gives it requests.

    site
        Name of the site.
    host
        Minion's name of the host. All hosts by default, which can only be shown.
    state
        ``drain``: no new requests, except those of visitors whom a sticky site keeps there. ``maint``: no requests
        and no health checks. ``ready``: requests again, while the health checks pass. ``state`` changes nothing.

    CLI Example:

    .. code-block:: bash

        salt lb1 django_fleet.backend blog
        salt lb1 django_fleet.backend blog web2 drain
    """
    return _answer(lambda: django_balancer.backend(site, host, state))


def expect(site, commits):
    """
    Set the commits of which the balancer on this host gives a host of a site requests. Without any, the release of a
    host does not count. Returns whether that changed anything.

    site
        Name of the site.
    commits
        List of whole commits.

    CLI Example:

    .. code-block:: bash

        salt lb1 django_fleet.expect blog '[3f2a9c1b77de24f0c7e5a1d8b9630e4f5a6b7c8d]'
    """
    return _answer(lambda: django_balancer.expect(site, commits))


def _answer(function):
    try:
        return function()
    except (DeploymentError, OSError) as error:
        __context__["retcode"] = 1
        return str(error)
