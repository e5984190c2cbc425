"""Checks of a dataset's files: all of them in check_data, a sample before training."""
