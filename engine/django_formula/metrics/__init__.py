"""Metrics of the sites of a host, as Prometheus reads them: requests, units, deployments, data."""
