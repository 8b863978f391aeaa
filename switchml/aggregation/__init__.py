"""The slot machine: what a switch does with one packet, whoever runs it. Knows no port."""
