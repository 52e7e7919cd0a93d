"""File formats and data set libraries, one module each: what opens their records as tables."""
