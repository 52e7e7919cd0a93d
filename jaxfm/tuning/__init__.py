"""The search for values of config keys: the space, the trials, which one goes on next, and what is shown of them."""
