"""Speeds as ratios from one run: these machines are noisy, and only what ran side by side can be compared."""
