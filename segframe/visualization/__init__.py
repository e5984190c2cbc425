"""Pictures and tables of masks, scores and metrics."""
