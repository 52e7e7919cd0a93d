"""Sound: files and arrays as samples, sources with their labels, rows of samples."""
