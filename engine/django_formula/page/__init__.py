"""The page of the sites of one or many hosts: what it shows, how it is made, and how it is served."""
