"""Extractive question answering: the stretch of a context that answers a question, or that nothing does."""
