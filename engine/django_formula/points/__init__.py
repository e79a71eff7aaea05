"""Points in time: the archive of PostgreSQL's log in a store elsewhere, and databases as they were at a moment."""
