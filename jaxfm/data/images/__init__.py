"""Images: their sources, decoding, and rows of patches."""
