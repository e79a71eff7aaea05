"""Reads what a project leaves unread of a request.

A server that closes a connection with a part of the request in it resets it, and the proxy may take the answer for an
error: of 300 kB posted to a page that is not there, or not allowed, some were told 502 and not 404 or 403.
"""


def reading_on(application):
    """A WSGI application that leaves nothing unread."""

    def complete(environ, start_response):
        body = environ["wsgi.input"]
        answer = application(environ, start_response)
        if environ.get("CONTENT_LENGTH") in (None, "", "0"):
            return answer
        if getattr(answer, "streaming", False):
            return Streamed(answer, body)  # what it says next may come from what it reads next
        read_on(body)
        return answer

    return complete


class Streamed:
    """An answer in parts, with the request read to its end behind the last one."""

    def __init__(self, answer, body):
        self.answer, self.body = answer, body

    def __iter__(self):
        return iter(self.answer)

    def close(self):
        self.answer.close()
        read_on(self.body)


def read_on(body):
    try:
        while body.read(65536):
            pass
    except OSError:
        pass  # who has sent it is gone
