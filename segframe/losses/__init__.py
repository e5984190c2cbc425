"""Losses: logits and masks to a scalar."""
