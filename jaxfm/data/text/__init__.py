"""Text to tokens, windows, packed rows, tags and masks."""
