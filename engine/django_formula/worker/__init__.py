"""Workers: what every kind is, and what a site and its releases have of them."""
