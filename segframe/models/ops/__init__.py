"""What several parts compute: bilinear resizing in bands, and what is fused with it."""
