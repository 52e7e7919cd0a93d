"""What tasks over groups of texts share: their keys, sources, rows, losses and scores, whatever a text becomes."""
