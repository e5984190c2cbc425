"""Heads: named feature maps to logits."""
