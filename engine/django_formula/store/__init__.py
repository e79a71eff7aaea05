"""Queue and caches of a site, and their servers on this host."""
