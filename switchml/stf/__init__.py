"""STF, the packet scripts of p4c's tests: the language, and runners for the emulator's P4 target and for BMv2.

language.py   text -> statements, with line numbers in every error
values.py     constants with wildcards -> matches
program_names.py  what a BMv2 JSON declares; short names as p4c's own runner resolves them
binding.py    statements -> operations of a pipeline, names and widths resolved
comparison.py expected and received packets
script_target.py  what a script runs on;  emulator_target.py, bmv2.py  the two there are
runner.py     a script on a target -> report;  script_files.py  its files;  suite.py  a folder of them
cli.py        `switchml stf`
"""
