"""What a master does for sites on several hosts: its store, functions on minions, deployments in phases."""
