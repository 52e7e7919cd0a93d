"""Families of encoders, one file a model_type of transformers: config.json both ways, presets, tensor names, heads."""
