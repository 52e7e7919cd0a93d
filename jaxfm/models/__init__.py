"""Encoders and heads as Flax NNX modules."""
