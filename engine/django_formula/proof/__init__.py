"""A release that serves a share of the visitors before all of them: its state, and its program."""
