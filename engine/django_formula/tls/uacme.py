"""uacme (https://github.com/ndilieto/uacme): a small ACME client in C, which keeps keys and certificates only."""

from pathlib import Path

from django_formula.site.sites import Site
from django_formula.tls.client import Client

#: Debian's hook for http-01: it writes each challenge into the folder that its environment names.
HOOK = Path("/usr/share/uacme/uacme.sh")


class Uacme(Client):
    """uacme."""

    ACCOUNT_EXISTS = "already exists"

    def _register(self, site: Site, folder: Path, binding: tuple[str, str] | None, patience: float) -> None:
        """Register an account; uacme takes the key of a binding as an argument only."""
        email = site.config["tls"]["email"]
        arguments = [*(["-e", ":".join(binding)] if binding else []), "new", *([email] if email else [])]
        secrets = [binding[1]] if binding else []
        self.run(_argv(site, folder, *arguments), doing="uacme new", patience=patience, environment={}, secrets=secrets)

    def issue(self, site: Site, folder: Path, domain: str, challenges: Path, patience: float) -> tuple[str, str]:
        """Order a certificate, and return its key and its chain."""
        tls = site.config["tls"]
        hook = tls["hook"] if tls["challenge"] == "dns-01" else str(HOOK)
        argv = _argv(site, folder, "-f", "-h", hook, "issue", domain)
        environment = {"UACME_CHALLENGE_PATH": str(challenges)}
        self.run(argv, doing=f"uacme {domain}", patience=patience, environment=environment)
        name = domain.removeprefix("*.")  # uacme's name of a wildcard's files
        return (folder / "private" / name / "key.pem").read_text(), (folder / name / "cert.pem").read_text()

    def cause(self, log: str) -> str:
        """Return what the authority or uacme reports of an order that failed."""
        lines = [line.strip() for line in log.splitlines() if '"detail"' in line or line.startswith("uacme: ")]
        details = [line for line in lines if '"detail"' in line]
        if details:
            return details[-1].partition(":")[2].strip(' ",').replace('\\"', '"')
        return lines[-1] if lines else ""


def _argv(site: Site, folder: Path, *arguments: str) -> list[str]:
    return ["uacme", "-y", "-c", str(folder), "-a", site.config["tls"]["directory"], "-t", "EC", *arguments]


CLIENT = Uacme()
