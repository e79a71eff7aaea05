"""Mail of a site: its server, as settings and environment name it."""
