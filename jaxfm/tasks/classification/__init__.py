"""Classification of texts and pairs of texts: one class, several labels, or a number, over packed examples."""
