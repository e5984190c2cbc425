"""Operators: bilinear resizing in bands of rows, cross-entropy and argmax fused with it (in Triton on
CUDA), atrous and depthwise convolution."""
