"""From the pillar to the effective configuration of each site, or to all that is wrong with it."""
