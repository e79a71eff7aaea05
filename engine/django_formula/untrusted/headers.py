"""Headers by which proxies describe a client to the application, and those of uploads.

Django has each header of a request as ``HTTP_…`` in ``request.META``; django-ipware, django-axes,
RemoteUserMiddleware and others trust some of them. The proxies set those that an application needs and remove all
others, so that no client can set them.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

#: Headers that the templates of the proxies set: the peer's address, the scheme, and the id of the request.
SET = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Request-ID")

#: The header that they set to the subject of the certificate that a client has shown, with `tls:client_ca`.
CLIENT_SUBJECT = "SSL-Client-S-DN"

#: Headers that they remove.
REMOVED = (
    # The address of the client
    "CF-Connecting-IP",
    "Client-IP",
    "Fastly-Client-IP",
    "Fly-Client-IP",
    "Forwarded",
    "Forwarded-For",
    "Remote-Addr",
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Forwarded",
    "X-Original-Forwarded-For",
    "X-Originating-IP",
    "X-Real-IP",
    "X-Remote-Addr",
    "X-Remote-IP",
    # The scheme
    "CloudFront-Forwarded-Proto",
    "Front-End-Https",
    "X-Forwarded-Https",
    "X-Forwarded-Protocol",
    "X-Forwarded-Scheme",
    "X-Forwarded-Ssl",
    "X-Https",
    "X-Scheme",
    "X-Url-Scheme",
    # The host, the port and the path
    "Script-Name",
    "X-Forwarded-Host",
    "X-Forwarded-Method",
    "X-Forwarded-Path",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-Uri",
    "X-Host",
    "X-Original-Host",
    "X-Original-URI",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Script-Name",
    # The user
    "Auth-User",
    "Remote-Email",
    "Remote-Groups",
    "Remote-Name",
    "Remote-User",
    "SSL-Client-Cert",
    "SSL-Client-S-DN",
    "SSL-Client-Verify",
    "X-Auth-Request-Email",
    "X-Auth-Request-User",
    "X-Authenticated-User",
    "X-Client-Cert",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-User",
    "X-Remote-User",
    "X-SSL-Client-Cert",
    "X-SSL-Client-S-DN",
    "X-SSL-Client-Verify",
    "X-Webauth-User",
    # Commands between proxy and application
    "Proxy",
    "X-Accel-Buffering",
    "X-Accel-Mapping",
    "X-Accel-Redirect",
    "X-Sendfile",
    "X-Sendfile-Type",
)

#: Content types of uploads that no browser shows as a document with markup or scripts.
INERT = (
    r"((audio|video|font)/[a-z0-9._-]+"
    r"|image/(apng|avif|bmp|gif|heic|heif|jpe?g|jxl|pjpeg|png|tiff|vnd[.]microsoft[.]icon|webp|x-icon|x-ms-bmp)"
    r"|application/(octet-stream|pdf|zip)|text/plain) *(;|$)"
)
#: Content-Security-Policy of uploads of these types. Browsers do not show PDF in a sandbox.
INERT_POLICY = "script-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'"
#: Content-Security-Policy of all others, such as HTML, SVG and XML: a document without origin, which runs and submits
#: nothing, does not redirect, and loads only images, media, fonts and style sheets of the site.
DOCUMENT_POLICY = (
    "sandbox; default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; media-src 'self'; "
    "font-src 'self' data:; base-uri 'none'; form-action 'none'"
)


def variables(proxy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template variables about headers.

    Args:
        proxy: `proxy` of the pillar.
    """
    return {
        "removed_headers": removed(proxy),
        "subject": CLIENT_SUBJECT,
        "underscored_headers": underscored([*SET, *REMOVED, *(proxy.get("headers") or {})]),
        "inert": INERT,
        "policies": {"inert": INERT_POLICY, "document": DOCUMENT_POLICY},
    }


def removed(proxy: Mapping[str, Any]) -> list[str]:
    """Return the headers that a site's proxy removes: all but those that the pillar sets or trusts.

    Args:
        proxy: `proxy` of the pillar; its ``headers`` are set, its ``trusted_headers`` removed by peer.
    """
    named = {name.lower() for name in [*(proxy.get("headers") or {}), *(proxy.get("trusted_headers") or [])]}
    return [name for name in REMOVED if name.lower() not in named]


def meta(name: str) -> str:
    """Return the name that a header has in ``request.META``."""
    return "HTTP_" + name.upper().replace("-", "_")


def underscored(names: Iterable[str]) -> list[str]:
    """Return these headers with underscores instead of some or all of their hyphens.

    For an application ``X-Real-IP``, ``X_Real_IP`` and ``X-Real_IP`` are one variable, ``HTTP_X_REAL_IP``. nginx drops
    the last two; Apache drops them with uWSGI's own protocol, and sends them by http.
    """
    return [
        "".join(itertools.chain.from_iterable(zip(parts, (*marks, ""), strict=True)))
        for parts in (name.split("-") for name in names)
        for marks in itertools.product("-_", repeat=len(parts) - 1)
        if "_" in marks
    ]
