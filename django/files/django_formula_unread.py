"""Reads what a project leaves unread of a request.

A server that closes a connection with unread data resets it, and the proxy may discard the answer: some POSTs of 300 kB
to a page that is missing or forbidden were answered with 502, not with 404 or 403. See docs/decisions/0046.
"""


def reading_on(application):
    """Return a WSGI application that reads every request to its end."""

    def complete(environ, start_response):
        body = environ["wsgi.input"]
        answer = application(environ, start_response)
        if environ.get("CONTENT_LENGTH") in (None, "", "0"):
            return answer
        if getattr(answer, "streaming", False):
            return Streamed(answer, body)  # the rest of the answer may depend on the rest of the request
        read_on(body)
        return answer

    return complete


class Streamed:
    """An answer in parts; the request is read to its end after the last one."""

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
        pass  # the client closed the connection
