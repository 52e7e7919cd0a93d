"""Images and texts compared by vectors of two encoders: zero-shot classes, retrieval both ways."""
