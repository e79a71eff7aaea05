"""A process manager that runs no command."""

import dataclasses

import django_host_command
import django_process_transient
import pytest


@pytest.fixture
def project_commands(monkeypatch):
    """Replace the process manager: record the command of a project, and return an output or raise an error."""

    class FakeManager:
        output = "{}"
        error = None

        def run(self, command):
            self.argv = command.argv
            optional = {field.name: field.default for field in dataclasses.fields(command)[4:]}
            self.options = {
                name: getattr(command, name) for name in optional if getattr(command, name) != optional[name]
            }
            if self.error:
                raise self.error
            return self.output

    fake = FakeManager()
    monkeypatch.setattr(django_process_transient, "run", fake.run)
    monkeypatch.setattr(django_host_command, "identity", lambda user: {})
    return fake
