"""Named-entity recognition as token classification: the label of a word is read on its first piece."""
