"""Memory and speed of a run before it starts, from its compiled step and published figures of the hardware."""
