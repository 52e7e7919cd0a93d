"""Classification of clips of sound, and of clips in which several things may be heard at once."""
