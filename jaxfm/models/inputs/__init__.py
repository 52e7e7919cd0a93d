"""What a row is before the first layer, one file a modality."""
