"""Measured claims: each benchmark's `main` prints a table; ratios come from one run.

A benchmark is a module of its name, or `command` in a folder of its name.
"""
