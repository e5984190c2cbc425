"""Operators: bilinear resizing in bands of rows, cross-entropy and argmax fused with it, atrous convolution."""
