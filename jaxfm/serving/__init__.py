"""Trained models behind HTTP: requests packed into rows, a page to try them on."""
