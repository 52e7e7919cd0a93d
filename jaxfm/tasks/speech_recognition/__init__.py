"""Recognition of speech: what is said in clips, symbol by symbol, without known times (CTC, Graves et al. 2006)."""
