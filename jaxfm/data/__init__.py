"""From a source URI to packed rows: a pure function of data and seed."""
