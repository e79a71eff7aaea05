"""Where a request for a site stops: the walk from its domain to its uploads, and what cures the broken link."""
