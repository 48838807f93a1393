"""Pipelines: machines that run, branch by branch."""
