"""Reads compiled programs and recordings of them."""
