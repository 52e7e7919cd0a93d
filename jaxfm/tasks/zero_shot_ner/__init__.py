"""Entities of any types, each given as a text: spans of words and labels are compared by vectors of one encoder."""
