"""Endings of the names of image files."""

SUFFIXES = tuple(".png .jpg .jpeg .jfif .gif .webp .bmp .tif .tiff .ppm .pgm .pbm .avif".split())
