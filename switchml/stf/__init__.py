"""STF, the packet scripts of p4c's tests: the language, and runners for the emulator's P4 target and for BMv2.

language.py   text -> statements, with line numbers in every error
values.py     constants with wildcards -> matches
names.py      what a BMv2 JSON declares; short names as p4c's own runner resolves them
binding.py    statements -> operations of `switch_emulator.runtime`, names and widths resolved
comparison.py expected and received packets
emulator.py, bmv2.py   the targets
runner.py     a script on a target -> report;  suite.py  a folder of them;  cli.py  `switchml stf`
"""
