"""Objects in images: what they are, and where."""
