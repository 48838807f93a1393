"""
The command line: `holdfast demo`, `verify`, `streams`, `events`, `info`, `migrate`, `export`,
`import`.

Data goes to stdout, everything else to stderr; each listing has `--json`; `core/exits.py` says
what the exit codes mean. It sees the library as any program would, never the store.
"""
