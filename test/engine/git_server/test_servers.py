"""What a Git server answers, and what it is sent, at a stand-in of its API."""

import json
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from django_formula.git_server import servers

COMMIT = "c" * 40
STATUS, RUNS = f"/p/commits/{COMMIT}/status", f"/p/commits/{COMMIT}/check-runs"
OF_GITLAB = f"/p/repository/commits/{COMMIT}/statuses"


class Standin:
    """Answers by path: rows of a list in pages of two, or any text; notes what it was asked."""

    def __init__(self):
        self.answers, self.asked = {}, []
        standin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                where = urlsplit(self.path)
                page = int(parse_qs(where.query).get("page", ["1"])[0])
                standin.asked.append((where.path, dict(self.headers), None))
                code, answer = standin.answers.get(where.path, (404, {}))
                if isinstance(answer, list):
                    answer = answer[2 * page - 2 : 2 * page]
                elif isinstance(answer, dict):
                    rows = {key: value[2 * page - 2 : 2 * page] for key, value in answer.items() if value}
                    answer = {**answer, **rows}
                self.answer(code, answer)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                standin.asked.append((self.path, dict(self.headers), body))
                self.answer(*standin.answers.get(self.path, (404, {})))

            def answer(self, code, answer):
                data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(code)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/p"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def standin():
    standin = Standin()
    yield standin
    standin.server.shutdown()
    standin.server.server_close()


def github(statuses=(), runs=()):
    """What GitHub answers, of name and state of each status, and of name, status and conclusion of each run."""
    listed = [{"context": name, "state": state} for name, state in statuses]
    ran = [{"name": name, "status": status, "conclusion": ended} for name, status, ended in runs]
    return {STATUS: (200, {"statuses": listed}), RUNS: (200, {"check_runs": ran})}


def gitlab(*rows):
    return {OF_GITLAB: (200, [{"name": name, "status": state, "allow_failure": may} for name, state, may in rows])}


def forgejo(*rows):
    return {STATUS: (200, {"statuses": [{"context": name, "status": state} for name, state in rows] or None})}


OK, FAILED, RUNS_NOW = ("completed", "success"), ("completed", "failure"), ("in_progress", None)


@pytest.mark.parametrize(
    ("kind", "answers", "names", "ignored", "state", "decides"),
    [
        ("github", github(), [], [], "none", []),
        ("github", github(), ["test"], [], "pending", ["test"]),
        ("github", github([("lint", "success")], [("test", *OK)]), [], [], "passed", []),
        ("github", github([("lint", "success")], [("test", *RUNS_NOW)]), [], [], "pending", ["test"]),
        ("github", github([("lint", "pending")], [("test", *FAILED)]), [], [], "failed", ["test"]),
        ("github", github([], [("test", "completed", "cancelled")]), [], [], "failed", ["test"]),
        ("github", github([], [("docs", "completed", "skipped")]), ["docs"], [], "passed", []),
        ("github", github([], [("test", *OK), ("deploy", *RUNS_NOW)]), [], ["deploy"], "passed", []),
        ("github", github([], [("test", *OK), ("deploy", *RUNS_NOW)]), ["test"], [], "passed", []),
        ("github", github([], [("test", *OK), ("docs", *FAILED)]), ["test"], [], "passed", []),
        ("github", github([("django-formula/blog", "failure")], [("test", *OK)]), [], [], "passed", []),
        (
            "github",
            github([], [(f"t{number}", *OK) for number in range(6)] + [("t6", *FAILED)]),
            [],
            [],
            "failed",
            ["t6"],
        ),
        ("github", github([], [("test", "completed", "a word of tomorrow")]), [], [], "failed", ["test"]),
        ("gitlab", gitlab(), [], [], "none", []),
        ("gitlab", gitlab(("test", "success", False), ("lint", "failed", True)), [], [], "passed", []),
        ("gitlab", gitlab(("test", "failed", False)), [], [], "failed", ["test"]),
        ("gitlab", gitlab(("test", "success", False), ("test", "running", False)), ["test"], [], "pending", ["test"]),
        ("gitlab", gitlab(("approve", "manual", False)), ["approve"], [], "pending", ["approve"]),
        ("forgejo", forgejo(), [], [], "none", []),
        ("forgejo", forgejo(("ci / test (push)", "success")), ["ci / test (push)"], [], "passed", []),
        ("forgejo", forgejo(("ci / test (push)", "error")), [], [], "failed", ["ci / test (push)"]),
        ("forgejo", forgejo(("a", "success"), ("b", "pending")), [], [], "pending", ["b"]),
    ],
)
def test_checks_of_a_commit(standin, kind, answers, names, ignored, state, decides):
    standin.answers = answers
    found = servers.checks(kind, standin.url, "s3cret", COMMIT, names, ignored)
    assert found == {"state": state, "names": decides}
    name, begin = servers.KINDS[kind].header
    assert {headers[name.title()] for _path, headers, _body in standin.asked} == {f"{begin}s3cret"}


@pytest.mark.parametrize(
    "answer",
    [
        (200, "<html>"),
        (200, "{}"),
        (200, '{"statuses": {"context": "test"}}'),
        (200, '{"statuses": [{"context": 3, "status": "success"}]}'),
        (200, "[" * 100_000),
        (200, '{"statuses": null'),
        (302, "{}"),
        (401, "{}"),
        (500, "{}"),
    ],
)
def test_no_answer_of_a_broken_server_is_a_passed_check(standin, answer):
    standin.answers = {STATUS: answer}
    with pytest.raises((OSError, ValueError, RecursionError)):
        servers.checks("forgejo", standin.url, "s3cret", COMMIT, [], [])


def test_a_list_without_an_end_is_an_error(standin):
    standin.answers = forgejo(*((f"t{number}", "success") for number in range(100)))
    with pytest.raises(ValueError, match="more than 20 pages"):
        servers.checks("forgejo", standin.url, "", COMMIT, [], [])


def message(kind):
    return {"kind": kind, "commit": COMMIT, "text": "0002-cccccccccccc is active", "site": "blog"}


@pytest.mark.parametrize(
    ("kind", "path", "body"),
    [
        ("gitlab", f"/p/statuses/{COMMIT}", {"state": "success", "name": "django-formula/production"}),
        ("forgejo", f"/p/statuses/{COMMIT}", {"state": "success", "context": "django-formula/production"}),
        ("github", "/p/deployments/7/statuses", {"state": "success"}),
    ],
)
def test_a_deployment_is_written_to_the_server(standin, kind, path, body):
    standin.answers = {path: (201, {}), "/p/deployments": (201, {"id": 7})}
    servers.report(kind, standin.url, "s3cret", message("rolled_back"), "production")
    assert (standin.asked[-1][0], standin.asked[-1][2]) == (
        path,
        {**body, "description": "0002-cccccccccccc is active"},
    )
    if kind == "github":
        made = standin.asked[0][2]
        assert (made["ref"], made["environment"], made["required_contexts"]) == (COMMIT, "production", [])


def test_a_status_that_gitlab_has_already_is_no_error(standin):
    standin.answers = {f"/p/statuses/{COMMIT}": (400, {"message": "Cannot transition status via :succeed"})}
    servers.report("gitlab", standin.url, "", message("released"), "production")
    standin.answers = {f"/p/statuses/{COMMIT}": (400, {"message": "state does not have a valid value"})}
    with pytest.raises(urllib.error.HTTPError):
        servers.report("gitlab", standin.url, "", message("released"), "production")
