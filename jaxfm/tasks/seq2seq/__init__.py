"""The task `seq2seq`: texts that are written for texts."""
