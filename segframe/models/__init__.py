"""Networks: backbones, heads, losses and their weights."""
