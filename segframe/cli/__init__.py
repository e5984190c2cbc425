"""Programs: Hydra's main, the command line, error messages, the table of a sweep."""
