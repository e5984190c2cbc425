"""Datasets, exported by segframe.data."""
