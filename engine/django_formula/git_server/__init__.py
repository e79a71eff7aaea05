"""What the Git server of a site knows of a commit, its checks, and what it is sent about deployments."""
