"""Strategies, collective calls and peers, timed in turn."""
