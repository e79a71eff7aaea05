"""A process manager that runs no command."""

import dataclasses

import pytest
from django_formula.host import commands, locks
from django_formula.process import transient


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
    monkeypatch.setattr(transient, "run_command", fake.run)
    monkeypatch.setattr(commands, "identity", lambda user: {})
    monkeypatch.setattr(locks, "holds", lambda _path: True)  # as a deployment does
    return fake
