"""
Measurements of Holdfast beside the bare drivers: `python -m bench`.

Every row measures ours and the bare driver in turn (A B A B ...) in the same folder, with the
disk's own sync rate between them, and reports medians. `docs/benchmarks.md` says what each row
means and what stands in the way where a bar is not met.
"""
