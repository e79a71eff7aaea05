#!py
"""
/etc/salt/reactor/deploy.sls: request a release of blog when the git server reports a push to its branch, see docs/guides/fleet.md.

Anyone may send a request to the webhook. One without the secret does nothing; one with it says that there is something
new, and nothing else: which site is deployed, and which revision, is in this file and in the pillar.
"""

import hashlib
import hmac
from pathlib import Path

SITE = "blog"
REF = "refs/heads/main"
SECRET = "/etc/salt/webhook_secret"  # the git server has the same; mode 0600, of the master's user


def run():
    post = data["post"]
    if not is_signed(data["headers"], data["body"]) or not isinstance(post, dict) or post.get("ref") != REF:
        return {}
    request = {"runner.django.request": [{"args": [{"site": SITE}, {"wait": False}]}]}
    return {f"request {SITE}": request}


def is_signed(headers, body):
    """Whether a request has the secret's signature of its body (GitHub, Gitea, Forgejo), or the secret (GitLab)."""
    secret = Path(SECRET).read_text().strip().encode()
    raw = body.encode() if isinstance(body, str) else body
    signature = f"sha256={hmac.new(secret, raw, hashlib.sha256).hexdigest()}".encode()
    given = {name: str(headers.get(name, "")).encode() for name in ("X-Hub-Signature-256", "X-Gitlab-Token")}
    is_same = hmac.compare_digest(given["X-Hub-Signature-256"], signature)
    return bool(secret) and (is_same or hmac.compare_digest(given["X-Gitlab-Token"], secret))
