"""Pretraining on images without labels: hidden patches are predicted from those that are seen."""
