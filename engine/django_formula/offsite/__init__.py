"""Copies of a site's backups, uploads and secrets in a store elsewhere: made, checked, drilled, and fetched again."""
