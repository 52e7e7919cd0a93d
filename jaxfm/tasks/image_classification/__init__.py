"""Classification of images, and of images that may be several things at once."""
