"""What tasks that score spans of words share: sentences as rows, who scores which span, records and checks."""
