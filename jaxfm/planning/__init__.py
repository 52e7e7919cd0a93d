"""What a run will need and how fast it can go, from its compiled step and published figures of the hardware."""
