"""Pretraining on sound without labels: clusters of hidden steps are predicted from the others (HuBERT)."""
