"""A release that serves a share of the visitors before all of them: its state, its program, and its judge."""
