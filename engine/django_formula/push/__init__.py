"""Static files that are pushed to a destination elsewhere."""
