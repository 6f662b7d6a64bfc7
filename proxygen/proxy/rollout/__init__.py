"""Shares that change step by step."""
