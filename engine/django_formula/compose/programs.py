"""The programs of the containers: what they begin with, the health check, and the configuration of nginx."""

import json
import shlex

from django_formula.compose import services
from django_formula.compose.plan import Plan
from django_formula.host import template
from django_formula.host.commands import DeploymentError
from django_formula.inspect.values import UNKNOWN
from django_formula.site import domains as site_domains

_START = """\
#!/bin/sh
# What a container of {name} begins with: the variables of .envs, then the command, which takes its place.
set -eu
set -a
. /run/secrets/environment
set +a
case "$1" in
serve)
    python {django} collectstatic --noinput
{after_static}    python {django} migrate --noinput
{after_migrate}    exec {server}
    ;;
develop)
    python {django} migrate --noinput
{after_migrate}    exec python {django} runserver 0.0.0.0:8000
    ;;
esac
exec "$@"
"""
_GUNICORN = (
    "gunicorn --bind=unix:/srv/run/socket --workers=2 --threads=4 --timeout=60 --graceful-timeout=30 "
    "--worker-tmp-dir=/dev/shm {application}:application"  # nosec B108
)
_UVICORN = (
    "uvicorn --uds=/srv/run/socket --workers=2 --proxy-headers --forwarded-allow-ips='*' "
    "--timeout-graceful-shutdown=30 {application}:application"
)

_HEALTHY = '''\
#!/venv/bin/python
"""The health check of {name}: a program without arguments, since podman-compose passes none with quotes."""

import http.client
import socket
import sys

connection = http.client.HTTPConnection("localhost", timeout=4)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.settimeout(4)
connection.sock.connect("/srv/run/socket")
# Django refuses a Host that is not in ALLOWED_HOSTS.
connection.request("GET", {path}, headers={{"Host": {domain}, "X-Forwarded-Proto": "https"}})
status = connection.getresponse().status
print(status)
sys.exit(not 200 <= status < 400)
'''

_NGINX = """\
# nginx in front of {name}. The socket needs no resolver, and stays where it is when the container of app is replaced.
upstream app {{
    server unix:/srv/run/socket;
}}

map $http_x_forwarded_proto $visitor_scheme {{
    default $scheme;
    https https;
}}

map $http_upgrade $connection_upgrade {{
    default upgrade;
    "" "";
}}

{servers}"""

_SERVER = """\
server {{
    listen {listen};
    server_name {domains};
    server_tokens off;
    client_max_body_size 75m;
    gzip on;
    gzip_types text/css text/javascript application/javascript application/json image/svg+xml;
{tls}
    location {static} {{
        alias /srv/static/;
        expires 1h;
    }}

    location {media} {{
        alias /srv/media/;
        add_header X-Content-Type-Options nosniff;
        add_header Content-Security-Policy "sandbox; default-src 'none'";
    }}

    location / {{
        proxy_pass http://app;
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        proxy_set_header X-Forwarded-For {visitor};
        proxy_set_header X-Forwarded-Proto $visitor_scheme;
    }}
}}
"""

_TO_HTTPS = """\
server {{
    listen 8080;
    server_name {domains};
    server_tokens off;

    location /.well-known/acme-challenge/ {{
        root /srv/challenges;
    }}

    location / {{
        return 301 https://$host$request_uri;
    }}
}}

"""
_TLS = """\
    ssl_certificate /srv/tls/fullchain.pem;
    ssl_certificate_key /srv/tls/privkey.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
"""

_SERVE = """\
#!/bin/sh
# nginx, which begins once there is a certificate, and reads it again when there is another one.
set -eu
until [ -s /srv/tls/fullchain.pem ]; do sleep 1; done
touch /tmp/read
while sleep 5; do
    if [ /srv/tls/fullchain.pem -nt /tmp/read ]; then
        touch /tmp/now
        # nginx refuses a certificate without its key, which may be replaced a moment later: it is tried again.
        if nginx -s reload; then mv /tmp/now /tmp/read; fi
    fi
done &
exec nginx -g "daemon off;"
"""

_CERTIFICATES = """\
#!/bin/sh
# Has Let's Encrypt certify {names}, and renews that: a self-signed certificate until then.
set -eu
trap exit TERM
if [ "${{1-}}" = deploy ]; then
    umask 077
    cp "$RENEWED_LINEAGE/privkey.pem" "$RENEWED_LINEAGE/fullchain.pem" /srv/tls/
    exit
fi
if [ ! -s /srv/tls/fullchain.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={domain} \\
        -keyout /srv/tls/privkey.pem -out /srv/tls/fullchain.pem
fi
mkdir -p /srv/challenges/.well-known/acme-challenge
echo ready >/srv/challenges/.well-known/acme-challenge/ready
ready="import urllib.request; urllib.request.urlopen('http://nginx:8080/.well-known/acme-challenge/ready')"
until python3 -c "$ready" 2>/dev/null; do sleep 5; done
while :; do
    # Let's Encrypt refuses more than five failures an hour.
    certbot certonly --non-interactive --agree-tos --email {email} --server "$ACME_DIRECTORY" --keep-until-expiring \\
        --webroot --webroot-path /srv/challenges --cert-name site --deploy-hook "$0 deploy" \\
        {domains} && wait=12h || wait=15m
    sleep $wait &
    wait $!
done
"""


def start(plan: Plan) -> str:
    """Return the program that containers of the project begin with."""
    server = (_GUNICORN if plan.interface == "wsgi" else _UVICORN).format(application=plan.application)
    stages = {stage: _lines(plan, stage) for stage in ("after_static", "after_migrate")}
    stages["after_migrate"] += _lines(plan, "before_switch")
    return _START.format(name=plan.name, django=" ".join(plan.django), server=server, **stages)


def _lines(plan: Plan, stage: str) -> str:
    """Return the lines of the shell for the commands of a stage of a release, as a deployment runs them."""
    words = [services.words(plan, command) for command in plan.commands(stage)]
    return "".join(f"    {shlex.join(one)}\n" for one in words)


def healthy(plan: Plan) -> str:
    """Return the program of the health check."""
    path = plan.options.get("health", {}).get("path") or "/"
    return _HEALTHY.format(name=plan.name, path=json.dumps(path), domain=json.dumps(site_domains.host(plan.domains[0])))


def nginx(plan: Plan) -> str:
    """Return the configuration of nginx."""
    quoted = template.nginx_value
    static, media = (quoted(_path(plan, name, default)) for name, default in _URLS)
    domains = " ".join(plan.domains)
    listen, tls = ("8443 ssl", f"\n{_TLS}") if plan.email else ("8080", "")
    # Visitors reach nginx itself where it has certificates; else the proxy of the host has set the header.
    visitor = "$remote_addr" if plan.email else "$proxy_add_x_forwarded_for"
    served = _SERVER.format(domains=domains, static=static, media=media, listen=listen, tls=tls, visitor=visitor)
    servers = _TO_HTTPS.format(domains=domains) + served if plan.email else served
    return _NGINX.format(name=plan.name, servers=servers)


def serve() -> str:
    """Return the program of nginx for a site with certificates."""
    return _SERVE


def certificates(plan: Plan) -> str:
    """Return the program of the service for certificates."""
    options = " ".join(f"--domain {domain}" for domain in plan.certified)
    named = {"names": " and ".join(plan.certified), "domain": plan.certified[0], "domains": options}
    return _CERTIFICATES.format(email=shlex.quote(plan.email), **named)


_URLS = (("STATIC_URL", "/static/"), ("MEDIA_URL", "/media/"))


def _path(plan: Plan, setting: str, default: str) -> str:
    """Return the path of STATIC_URL or MEDIA_URL; the default one where it is on another host or not known.

    Raises:
        DeploymentError: nginx cannot have it.
    """
    url = plan.settings.get(setting)
    if url is UNKNOWN or not isinstance(url, str) or "//" in url or not url.strip("/"):
        return default
    if "$" in url or not url.isprintable():
        raise DeploymentError(
            f"{setting} is {url!a}, and no path of nginx can have that",
            hint="choose one without $ in the settings",
        )
    return f"/{url.strip('/')}/"
