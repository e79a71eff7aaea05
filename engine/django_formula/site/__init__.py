"""A site on disk: paths, owners, registration, domains, the mount of its uploads."""
