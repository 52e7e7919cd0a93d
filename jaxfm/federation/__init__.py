"""Federated training: what a client does, what the server does, and rounds of both."""
