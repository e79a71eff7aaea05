"""Programs and commands that run in a project's virtualenv, and what they answer."""
