"""Texts to vectors: sentence embeddings for search, similarity and clustering."""
