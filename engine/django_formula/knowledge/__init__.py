"""Known causes of failures of a site's programs, and what cures them."""
