"""Files, answers and text that a site, a build or a visitor controls: how root reads and shows them."""
