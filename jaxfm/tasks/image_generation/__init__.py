"""The task `image_generation`: images of classes, made by filling a grid of masked codes."""
